//! Laying the sources over each other: the tables say what a name means, the `config` crate merges.
//!
//! The origin of a value travels as a short code: `d`efault, `f`ile with the line, `e`nvironment with the
//! variable, fla`g` with its spelling.

use std::collections::BTreeMap;
use std::path::Path;

use config::ValueKind;

use crate::error::{Mistake, Origin};
use crate::file::File;
use crate::nearest::nearest;
use crate::setting::{Schema, Setting};
use crate::{Kind, services::sections};

/// One source after its names are understood: section, key, value with its origin.
pub(crate) type Layer = config::Map<String, config::Value>;

#[derive(Default)]
pub(crate) struct Layers(Vec<Layer>);

impl Layers {
    pub(crate) fn defaults(&mut self, schemas: &[&Schema]) {
        let mut layer = Layer::new();
        for schema in schemas {
            for setting in &schema.settings {
                put(
                    &mut layer,
                    schema.section,
                    setting.key,
                    "d",
                    ValueKind::String(setting.default.to_owned()),
                );
            }
        }
        self.0.push(layer);
    }

    pub(crate) fn file(&mut self, schemas: &[&Schema], file: &File, mistakes: &mut Vec<Mistake>) {
        let mut layer = Layer::new();
        let mut seen: BTreeMap<(&str, &str), &str> = BTreeMap::new();
        for schema in schemas {
            for setting in &schema.settings {
                let Some((section, key)) = setting.borrowed else {
                    continue;
                };
                if let Some(entry) = file.entries.iter().find(|e| e.section == section && e.key == key) {
                    put(
                        &mut layer,
                        schema.section,
                        setting.key,
                        &format!("f{}", entry.line),
                        entry.value.clone(),
                    );
                }
            }
        }
        for entry in &file.entries {
            let Some(schema) = schemas.iter().find(|s| s.section == entry.section) else {
                continue;
            };
            let mut mistake = |reason: String, nearest: Option<&str>| {
                mistakes.push(Mistake {
                    origin: file.origin(entry.line),
                    key: format!("{}.{}", entry.section, entry.key),
                    value: None,
                    reason,
                    nearest: nearest.map(str::to_owned),
                });
            };
            let Some(setting) = schema.find(&entry.key) else {
                mistake(
                    "there is no such setting".to_owned(),
                    nearest(&entry.key, schema.keys()),
                );
                continue;
            };
            if let Some(earlier) = seen.insert((schema.section, setting.key), &entry.key) {
                mistake(format!("was set before as {earlier:?}"), None);
                continue;
            }
            put(
                &mut layer,
                schema.section,
                setting.key,
                &format!("f{}", entry.line),
                entry.value.clone(),
            );
        }
        self.0.push(layer);
    }

    /// `NEXUS_<SECTION>__<KEY>` wins over the seeds' names for the same setting.
    pub(crate) fn env(&mut self, schemas: &[&Schema], env: &[(String, String)], mistakes: &mut Vec<Mistake>) {
        let mut layer = Layer::new();
        for schema in schemas {
            for setting in &schema.settings {
                let ours = setting.borrowed.map(|(section, key)| variable(section, key));
                let given = ours
                    .iter()
                    .map(String::as_str)
                    .chain(setting.env.iter().copied())
                    .find_map(|name| {
                        // An empty variable is how compose files and shells say "not given".
                        env.iter().find(|(n, v)| n == name && !v.is_empty())
                    });
                if let Some((name, value)) = given {
                    put(
                        &mut layer,
                        schema.section,
                        setting.key,
                        &format!("e{name}"),
                        typed(setting, value),
                    );
                }
            }
        }
        for (name, value) in env {
            let Some((section, key)) = name.strip_prefix("NEXUS_").and_then(|rest| rest.split_once("__")) else {
                continue;
            };
            let mut mistake = |reason: &str, nearest: Option<String>| {
                mistakes.push(Mistake {
                    origin: Origin::Env(name.clone()),
                    key: String::new(),
                    value: None,
                    reason: reason.to_owned(),
                    nearest,
                });
            };
            let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
            let Some(schema) = schemas.iter().find(|s| s.section == section) else {
                if sections().all(|known| known != section) {
                    let near = nearest(&section, sections()).map(|near| variable(near, &key));
                    mistake("there is no such section", near);
                }
                continue;
            };
            match schema.find(&key) {
                Some(setting) => {
                    put(
                        &mut layer,
                        schema.section,
                        setting.key,
                        &format!("e{name}"),
                        typed(setting, value),
                    );
                }
                None => {
                    let near = nearest(&key, schema.keys()).map(|near| variable(schema.section, near));
                    mistake("there is no such setting", near);
                }
            }
        }
        self.0.push(layer);
    }

    pub(crate) fn flags(&mut self, schemas: &[&Schema], flags: &BTreeMap<String, String>, mistakes: &mut Vec<Mistake>) {
        let mut layer = Layer::new();
        for (name, value) in flags {
            let found = match name.split_once('.') {
                Some((section, key)) => schemas
                    .iter()
                    .filter(|s| s.section == section)
                    .find_map(|s| s.find(key).map(|setting| (s, setting))),
                None => schemas.iter().find_map(|s| s.find(name).map(|setting| (s, setting))),
            };
            if let Some((schema, setting)) = found {
                let shown = spelling(schema, setting);
                put(
                    &mut layer,
                    schema.section,
                    setting.key,
                    &format!("g{shown}"),
                    typed(setting, value),
                );
                continue;
            }
            let known: Vec<String> = schemas
                .iter()
                .flat_map(|s| s.keys().map(|k| format!("{}.{k}", s.section)))
                .collect();
            let bare: Vec<&str> = schemas.iter().flat_map(|s| s.keys()).collect();
            let near = nearest(name, known.iter().map(String::as_str).chain(bare.iter().copied()));
            mistakes.push(Mistake {
                origin: Origin::Flag(format!("--set {name}")),
                key: String::new(),
                value: None,
                reason: "there is no such setting".to_owned(),
                nearest: near.map(str::to_owned),
            });
        }
        self.0.push(layer);
    }

    pub(crate) fn merge(self) -> config::Map<String, config::Value> {
        let mut builder = config::Config::builder();
        for layer in self.0 {
            builder = builder.add_source(Source(layer));
        }
        let merged = builder.build().expect("layers in memory cannot fail to load");
        merged.cache.into_table().expect("layers are tables")
    }
}

fn put(layer: &mut Layer, section: &str, key: &str, origin: &str, kind: ValueKind) {
    // A nested table loses its own origin in the merge; wrapped in a list of one it travels whole.
    let origin = origin.to_owned();
    let value = config::Value::new(Some(&origin), ValueKind::Array(vec![config::Value::new(None, kind)]));
    let table = layer.entry(section.to_owned()).or_insert_with(|| Layer::new().into());
    if let ValueKind::Table(table) = &mut table.kind {
        table.insert(key.to_owned(), value);
    }
}

/// What somebody typed: a relative path means the directory they are in. In the file it means the root.
fn typed(setting: &Setting, value: &str) -> ValueKind {
    let relative = matches!(setting.kind, Kind::Path) && !value.is_empty() && !value.starts_with(['/', '~', '$']);
    match std::path::absolute(value) {
        Ok(path) if relative => path.to_string_lossy().into_owned().into(),
        _ => value.into(),
    }
}

pub(crate) fn variable(section: &str, key: &str) -> String {
    format!("NEXUS_{}__{}", section.to_ascii_uppercase(), key.to_ascii_uppercase())
}

fn spelling(schema: &Schema, setting: &Setting) -> String {
    match setting.flag {
        Some(flag) => format!("--{flag}"),
        None => format!("--set {}.{}", schema.section, setting.key),
    }
}

#[derive(Debug, Clone)]
struct Source(Layer);

impl config::Source for Source {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Layer, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// What [`put`] noted.
pub(crate) fn origin(code: &str, file: &Path) -> Origin {
    let rest = code.get(1..).unwrap_or_default();
    match code.as_bytes().first() {
        Some(b'f') => Origin::File {
            path: file.to_path_buf(),
            line: rest.parse().ok(),
        },
        Some(b'e') => Origin::Env(rest.to_owned()),
        Some(b'g') => Origin::Flag(rest.to_owned()),
        _ => Origin::Default,
    }
}
