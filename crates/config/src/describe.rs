//! Schemas and values in the JSON that daemons print and other programs read.

use serde::{Deserialize, Serialize};

use crate::error::Origin;
use crate::kind::Kind;
use crate::layers::variable;
use crate::setting::{Schema, Setting};
use crate::settings::Settings;
use crate::value::Value;

/// What `--schema` prints: every setting of one daemon, without a look at any of its sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonSchema {
    /// Of this shape.
    pub schema: u32,
    /// The daemon's name, such as `nexus-gateway`.
    pub daemon: String,
    /// The version of the build.
    pub version: String,
    /// Every setting, in the order of the tables.
    pub settings: Vec<Described>,
}

/// One row of a settings table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Described {
    /// The section of the settings file, such as `gateway`.
    pub section: String,
    /// The key within the section, such as `max_sessions`.
    pub key: String,
    /// `bool`, `int`, `float`, `text`, `path`, `duration`, `size`, `list`, `map` or `choice`.
    pub kind: String,
    /// What a person may write.
    pub expects: String,
    /// The smallest value of an `int`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// The largest value of an `int`; none where there is no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// The values of a `choice`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// As it is written in the environment; empty: not set.
    pub default: String,
    /// What the setting does, in one sentence.
    pub help: String,
    /// SIGHUP applies it; else it takes a restart.
    pub live: bool,
    /// Environment variables that set it; earlier ones win.
    pub env: Vec<String>,
    /// Options that set it, with their dashes.
    pub flags: Vec<String>,
    /// Further names it may have in the file.
    pub aliases: Vec<String>,
    /// The `section.key` whose value it takes where it is not written itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrows: Option<String>,
    /// Its value is never shown.
    pub secret: bool,
}

impl Described {
    /// The full name, `section.key`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// What `--dump-config --json` and `--check-config --json` print.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonValues {
    /// Of this shape.
    pub schema: u32,
    /// The daemon's name, such as `nexus-gateway`.
    pub daemon: String,
    /// Whether there are no mistakes.
    pub ok: bool,
    /// One line for each mistake.
    pub mistakes: Vec<String>,
    /// Complete even if there are mistakes: a wrong value has its default here. Empty for `--check-config`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<EffectiveSetting>,
}

/// A value in force, and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EffectiveSetting {
    /// The section of the settings file.
    pub section: String,
    /// The key within the section.
    pub key: String,
    /// Null if it is not set, or secret.
    pub value: serde_json::Value,
    /// As it would stand in the file; none if it is not set, or secret.
    pub toml: Option<String>,
    /// The source that gave the value.
    pub origin: Origin,
    /// It is not shown because it is secret.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
}

impl Schema {
    /// Every setting of the table as `--schema` prints it, in the table's order.
    pub fn describe(&self) -> Vec<Described> {
        self.settings.iter().map(|s| describe(self.section, s)).collect()
    }
}

fn describe(section: &str, setting: &Setting) -> Described {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let (min, max) = match setting.kind {
        Kind::Int { min, max } => (Some(min), Some(max).filter(|max| *max != i64::MAX)),
        _ => (None, None),
    };
    let choices = match setting.kind {
        Kind::Choice(names) => owned(names),
        _ => Vec::new(),
    };
    let mut env = vec![variable(section, setting.key)];
    env.extend(setting.borrowed.map(|(section, key)| variable(section, key)));
    env.extend(owned(setting.env));
    let flags = setting.flag.iter().chain(setting.flag_aliases);
    Described {
        section: section.to_owned(),
        key: setting.key.to_owned(),
        kind: setting.kind.word().to_owned(),
        expects: setting.kind.describe(),
        min,
        max,
        choices,
        default: setting.default.to_owned(),
        help: setting.help.to_owned(),
        live: setting.live,
        env,
        flags: flags.map(|flag| format!("--{flag}")).collect(),
        aliases: owned(setting.aliases),
        borrows: setting.borrowed.map(|(section, key)| format!("{section}.{key}")),
        secret: setting.secret,
    }
}

impl Settings {
    /// Every value with its origin, in the order of the table.
    pub fn effective(&self) -> Vec<EffectiveSetting> {
        let one = |setting: &Setting| {
            let (value, origin) = self.values.get(setting.key)?;
            let is_set = *value != Value::Unset;
            let shown = is_set && !setting.secret;
            Some(EffectiveSetting {
                section: self.section().to_owned(),
                key: setting.key.to_owned(),
                value: if shown {
                    value.to_json()
                } else {
                    serde_json::Value::Null
                },
                toml: shown.then(|| value.to_toml()),
                origin: origin.clone(),
                hidden: is_set && setting.secret,
            })
        };
        self.schema.settings.iter().filter_map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Root, Sources, load};

    #[test]
    fn a_setting_tells_all_of_itself_and_a_secret_nothing_of_its_value() {
        let schema = Schema::new(
            "llm",
            vec![
                Setting::new("size", Kind::Int { min: 1, max: 9 }, "4", "how many")
                    .live()
                    .env(&["OLD_SIZE"])
                    .flag("size"),
                Setting::new("token", Kind::Text, "sk-canary", "never shown").secret(),
                Setting::new("wait", Kind::Duration, "", "how long"),
            ],
        );
        let told = schema.describe();
        assert_eq!((told[0].min, told[0].max, told[0].live), (Some(1), Some(9), true));
        assert_eq!(told[0].env, ["NEXUS_LLM__SIZE", "OLD_SIZE"]);
        assert_eq!(
            (told[0].flags.as_slice(), told[0].name()),
            (&["--size".to_owned()][..], "llm.size".to_owned())
        );
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Described>>(&text).unwrap(), told);

        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let mut sources = Sources::new(&root);
        sources.env = vec![("OLD_SIZE".into(), "7".into())];
        let standing = load(&schema, &sources).unwrap().effective();
        assert_eq!(standing[0].value, 7);
        assert_eq!(standing[0].origin, Origin::Env("OLD_SIZE".into()));
        assert!(standing[1].hidden && standing[1].value.is_null() && standing[1].toml.is_none());
        assert!(!standing[2].hidden && standing[2].value.is_null());
        let text = serde_json::to_string(&standing).unwrap();
        assert!(!text.contains("canary"), "{text}");
        assert_eq!(serde_json::from_str::<Vec<EffectiveSetting>>(&text).unwrap(), standing);
    }
}
