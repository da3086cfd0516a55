//! Reading the file: TOML with the line of every key, unknown sections and keys found here.

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::error::{Mistake, Origin};
use crate::nearest::nearest;
use crate::services::sections;
use crate::setting::Schema;

/// One key of one section as it stands in the file.
pub(crate) struct Entry {
    /// The section of the file.
    pub section: String,
    /// The key within the section.
    pub key: String,
    /// Its line, from 1.
    pub line: usize,
    /// The value as TOML gives it.
    pub value: config::ValueKind,
}

#[derive(Default)]
pub(crate) struct File {
    /// The path of the file.
    pub path: PathBuf,
    /// Its entries, in the order of the file.
    pub entries: Vec<Entry>,
}

impl File {
    pub(crate) fn origin(&self, line: usize) -> Origin {
        Origin::File {
            path: self.path.clone(),
            line: Some(line),
        }
    }
}

/// Everything readable in the file; what is not is added to `mistakes`.
pub(crate) fn read(path: &Path, schemas: &[&Schema], mistakes: &mut Vec<Mistake>) -> File {
    let mut file = File {
        path: path.to_path_buf(),
        entries: Vec::new(),
    };
    let whole = |reason: String, line| Mistake {
        origin: Origin::File {
            path: path.to_path_buf(),
            line,
        },
        key: String::new(),
        value: None,
        reason,
        nearest: None,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.push(whole(format!("cannot be read: {error}"), None));
            return file;
        }
    };
    let line_of = |at: usize| {
        text.as_bytes()[..at.min(text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1
    };
    let (document, errors) = DeTable::parse_recoverable(&text);
    for error in &errors {
        mistakes.push(whole(
            format!("not valid TOML: {}", error.message()),
            error.span().map(|s| line_of(s.start)),
        ));
    }
    if !errors.is_empty() {
        // What a recovering parser makes of the rest is guesswork; complaints about it would mislead.
        return file;
    }
    for (section, value) in document.get_ref() {
        let name = section.get_ref().as_ref();
        let line = line_of(section.span().start);
        let mistake = |reason: &str, nearest: Option<&str>| Mistake {
            origin: Origin::File {
                path: path.to_path_buf(),
                line: Some(line),
            },
            key: name.to_owned(),
            value: None,
            reason: reason.to_owned(),
            nearest: nearest.map(str::to_owned),
        };
        let schema = schemas.iter().find(|s| s.section == name);
        if schema.is_none() && sections().all(|known| known != name) {
            let known = sections().chain(schemas.iter().map(|s| s.section));
            mistakes.push(match value.get_ref().as_table() {
                Some(_) => mistake("there is no such section", nearest(name, known)),
                None => mistake(
                    "stands outside a section; settings belong into [common] or a daemon's own",
                    None,
                ),
            });
            continue;
        }
        let Some(table) = value.get_ref().as_table() else {
            mistakes.push(mistake("is a section and needs its own table", None));
            continue;
        };
        for (key, value) in table {
            file.entries.push(Entry {
                section: name.to_owned(),
                key: key.get_ref().as_ref().to_owned(),
                line: line_of(key.span().start),
                value: convert(value.get_ref()),
            });
        }
    }
    // The parser sorts by name; people look for their mistakes from top to bottom.
    file.entries.sort_by_key(|entry| entry.line);
    file
}

fn convert(value: &DeValue<'_>) -> config::ValueKind {
    use config::ValueKind as V;
    match value {
        DeValue::String(text) => V::String(text.as_ref().to_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => V::I64(number),
            Err(_) => V::Nil,
        },
        DeValue::Float(number) => number.as_str().parse().map_or(V::Nil, V::Float),
        DeValue::Boolean(value) => V::Boolean(*value),
        DeValue::Datetime(value) => V::String(value.to_string()),
        DeValue::Array(values) => V::Array(
            values
                .iter()
                .map(|v| config::Value::new(None, convert(v.get_ref())))
                .collect(),
        ),
        DeValue::Table(values) => V::Table(
            values
                .iter()
                .map(|(k, v)| {
                    (
                        k.get_ref().as_ref().to_owned(),
                        config::Value::new(None, convert(v.get_ref())),
                    )
                })
                .collect(),
        ),
    }
}

/// The value as the file has it, for an error message.
pub(crate) fn show(value: &config::ValueKind) -> Option<String> {
    match value {
        config::ValueKind::Table(_) | config::ValueKind::Array(_) | config::ValueKind::Nil => None,
        value => Some(value.to_string()),
    }
}
