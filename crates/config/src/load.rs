//! Turns sources into checked settings.
//!
//! Every source is read to its end whatever is wrong in it, so that one run names every mistake. A value
//! that is wrong is replaced by its default, which lets cross-field checks run as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::ValueKind;

use crate::error::{Errors, Mistake, Origin};
use crate::file::{self, File};
use crate::kind::Raw;
use crate::layers::{Layers, origin};
use crate::root::Root;
use crate::setting::Schema;
use crate::settings::Settings;
use crate::value::Value;

/// Where values come from. Later fields win over earlier ones.
#[derive(Debug, Clone)]
pub struct Sources<'a> {
    /// Read if named; one that does not exist is a mistake.
    pub file: Option<PathBuf>,
    /// Environment variables by name; those that are not settings are ignored.
    pub env: Vec<(String, String)>,
    /// `section.key`, or `key` of the first table that has it, to the value.
    pub flags: BTreeMap<String, String>,
    /// The root that relative paths count from.
    pub root: &'a Root,
}

impl<'a> Sources<'a> {
    /// Defaults and the root's own file, if it has one.
    pub fn new(root: &'a Root) -> Sources<'a> {
        let file = root.config_file();
        let file = file.symlink_metadata().is_ok().then_some(file);
        Sources {
            file,
            env: Vec::new(),
            flags: BTreeMap::new(),
            root,
        }
    }

    /// The environment of this process, too. Variables that are not text cannot be ours.
    pub fn with_process_env(mut self) -> Sources<'a> {
        self.env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        self
    }
}

/// What was understood, and what was not.
#[derive(Debug)]
pub struct Loaded {
    /// One for each table, in their order, complete: a wrong value has its default here.
    pub settings: Vec<Settings>,
    /// What was wrong, in the order of the sources.
    pub mistakes: Errors,
}

/// One section.
pub fn load(schema: &Schema, sources: &Sources<'_>) -> Result<Settings, Errors> {
    let mut all = load_all(&[schema], sources)?;
    Ok(all.pop().expect("one table gives one section"))
}

/// Several sections of the same file at once.
pub fn load_all(schemas: &[&Schema], sources: &Sources<'_>) -> Result<Vec<Settings>, Errors> {
    let loaded = read(schemas, sources);
    if loaded.mistakes.is_empty() {
        Ok(loaded.settings)
    } else {
        Err(loaded.mistakes)
    }
}

/// Whether a file fits the tables of all daemons, with no environment over it.
pub fn check_file(path: &Path, root: &Root, schemas: &[&Schema]) -> Result<(), Errors> {
    let sources = Sources {
        file: Some(path.to_path_buf()),
        env: Vec::new(),
        flags: BTreeMap::new(),
        root,
    };
    load_all(schemas, &sources).map(|_| ())
}

/// As [`load_all`], keeping what is right beside what is wrong.
pub fn read(schemas: &[&Schema], sources: &Sources<'_>) -> Loaded {
    let mut mistakes = Vec::new();
    let file = match &sources.file {
        Some(path) => file::read(path, schemas, &mut mistakes),
        None => File::default(),
    };
    let mut layers = Layers::default();
    layers.defaults(schemas);
    layers.file(schemas, &file, &mut mistakes);
    layers.env(schemas, &sources.env, &mut mistakes);
    layers.flags(schemas, &sources.flags, &mut mistakes);
    let merged = layers.merge();
    let settings = schemas
        .iter()
        .map(|s| check(s, &merged, sources, &file.path, &mut mistakes))
        .collect();
    Loaded {
        settings,
        mistakes: Errors(mistakes),
    }
}

/// The merged values of one table, each checked by its kind.
fn check(
    schema: &Schema,
    merged: &config::Map<String, config::Value>,
    sources: &Sources<'_>,
    file: &Path,
    mistakes: &mut Vec<Mistake>,
) -> Settings {
    let mut values = BTreeMap::new();
    let section = merged
        .get(schema.section)
        .cloned()
        .and_then(|v| v.into_table().ok())
        .unwrap_or_default();
    for setting in &schema.settings {
        let Some(wrapped) = section.get(setting.key) else {
            continue;
        };
        let origin = origin(wrapped.origin().unwrap_or("d"), file);
        let ValueKind::Array(inner) = &wrapped.kind else {
            continue;
        };
        let Some(value) = inner.first() else { continue };
        let raw = match (&origin, &value.kind) {
            (Origin::File { .. }, _) => Raw::Typed(value.clone()),
            (_, ValueKind::String(text)) => Raw::Text(text.clone()),
            _ => Raw::Typed(value.clone()),
        };
        match setting.kind.check(&raw, sources.root) {
            Ok(value) => {
                values.insert(setting.key, (value, origin));
            }
            Err(reason) => {
                mistakes.push(Mistake {
                    origin,
                    key: format!("{}.{}", schema.section, setting.key),
                    value: if setting.secret { None } else { file::show(&value.kind) },
                    reason,
                    nearest: None,
                });
                let fallback = setting.kind.check(&Raw::Text(setting.default.to_owned()), sources.root);
                values.insert(setting.key, (fallback.unwrap_or(Value::Unset), Origin::Default));
            }
        }
    }
    Settings {
        schema: schema.clone(),
        values,
    }
}
