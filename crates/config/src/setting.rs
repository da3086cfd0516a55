use crate::kind::Kind;

/// One row of a settings table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The key within its section.
    pub key: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// As it would be written in the environment. Empty means unset where the kind has no empty value.
    pub default: &'static str,
    /// What it does, in one sentence.
    pub help: &'static str,
    /// A reload applies it without a restart.
    pub live: bool,
    /// Further environment variables that set it, best first; the seeds' own names.
    pub env: &'static [&'static str],
    /// The command line option that sets it, without the dashes.
    pub flag: Option<&'static str>,
    /// Further options that set it; the seeds' own names.
    pub flag_aliases: &'static [&'static str],
    /// Further names it has in the file; the seeds' own spelling.
    pub aliases: &'static [&'static str],
    /// Another section's key that gives the value where this one is not written.
    pub borrowed: Option<(&'static str, &'static str)>,
    /// Its value appears in no dump and in no error.
    pub secret: bool,
}

impl Setting {
    /// A setting that takes a restart, with no name but its key.
    pub const fn new(key: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
        Setting {
            key,
            kind,
            default,
            help,
            live: false,
            env: &[],
            flag: None,
            flag_aliases: &[],
            aliases: &[],
            borrowed: None,
            secret: false,
        }
    }

    /// A reload applies it without a restart.
    pub const fn live(mut self) -> Setting {
        self.live = true;
        self
    }

    /// Further environment variables that set it, best first.
    pub const fn env(mut self, names: &'static [&'static str]) -> Setting {
        self.env = names;
        self
    }

    /// The option that sets it, without the dashes.
    pub const fn flag(mut self, name: &'static str) -> Setting {
        self.flag = Some(name);
        self
    }

    /// Further options that set it, without the dashes.
    pub const fn flag_aliases(mut self, names: &'static [&'static str]) -> Setting {
        self.flag_aliases = names;
        self
    }

    /// Further names that it has in the file.
    pub const fn alias(mut self, names: &'static [&'static str]) -> Setting {
        self.aliases = names;
        self
    }

    /// The setting whose value it takes where none is written for it.
    pub const fn borrow(mut self, section: &'static str, key: &'static str) -> Setting {
        self.borrowed = Some((section, key));
        self
    }

    /// Its value appears in no dump and in no error.
    pub const fn secret(mut self) -> Setting {
        self.secret = true;
        self
    }
}

/// The table of one section.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The section of the settings file.
    pub section: &'static str,
    /// The rows, in the order in which they are shown.
    pub settings: Vec<Setting>,
}

impl Schema {
    /// The table of a section.
    pub fn new(section: &'static str, settings: Vec<Setting>) -> Schema {
        Schema { section, settings }
    }

    /// The setting of this key or alias.
    pub fn find(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|s| s.key == key || s.aliases.contains(&key))
    }

    /// The keys in the order of the table, without aliases.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.settings.iter().map(|s| s.key)
    }
}
