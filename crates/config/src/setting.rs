use crate::kind::Kind;

/// One row of a settings table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub key: &'static str,
    pub kind: Kind,
    /// As it would be written in the environment. Empty means unset where the kind has no empty value.
    pub default: &'static str,
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
    pub secret: bool,
}

impl Setting {
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

    pub const fn live(mut self) -> Setting {
        self.live = true;
        self
    }

    pub const fn env(mut self, names: &'static [&'static str]) -> Setting {
        self.env = names;
        self
    }

    pub const fn flag(mut self, name: &'static str) -> Setting {
        self.flag = Some(name);
        self
    }

    pub const fn flag_aliases(mut self, names: &'static [&'static str]) -> Setting {
        self.flag_aliases = names;
        self
    }

    pub const fn alias(mut self, names: &'static [&'static str]) -> Setting {
        self.aliases = names;
        self
    }

    pub const fn borrow(mut self, section: &'static str, key: &'static str) -> Setting {
        self.borrowed = Some((section, key));
        self
    }

    pub const fn secret(mut self) -> Setting {
        self.secret = true;
        self
    }
}

/// The table of one section.
#[derive(Debug, Clone)]
pub struct Schema {
    pub section: &'static str,
    pub settings: Vec<Setting>,
}

impl Schema {
    pub fn new(section: &'static str, settings: Vec<Setting>) -> Schema {
        Schema { section, settings }
    }

    pub fn find(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|s| s.key == key || s.aliases.contains(&key))
    }

    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.settings.iter().map(|s| s.key)
    }
}
