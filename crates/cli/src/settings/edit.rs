//! Changing one value in the text of a settings file, and nothing else in it: comments, order and blanks stay.
//!
//! A new key goes below the comment that shows its default, if there is one. Where text is moved by lines, the result is
//! parsed and compared before it is believed; what does not come out as meant is left to the TOML editor.

use nexus_config::Described;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Value};

use crate::failure::{Exit, Failure};

/// A value as the setting's kind is written in the file. Only the shape is seen to here: ranges are the daemon's.
pub fn value(setting: &Described, text: &str) -> Result<Value, Failure> {
    let text = text.trim();
    let wrong = || Failure::usage(format!("{} expects {}, not {text:?}", setting.name(), setting.expects));
    match setting.kind.as_str() {
        "bool" => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true.into()),
            "false" | "no" | "off" | "0" => Ok(false.into()),
            _ => Err(wrong()),
        },
        "int" => text
            .replace('_', "")
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| wrong()),
        "float" => text.parse::<f64>().map(Value::from).map_err(|_| wrong()),
        "size" if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse::<i64>().map(Value::from).map_err(|_| wrong())
        }
        "list" if text.starts_with('[') => text.parse::<Value>().ok().filter(Value::is_array).ok_or_else(wrong),
        "list" => Ok(Value::Array(items(text).collect::<Array>())),
        "map" if text.starts_with('{') => text
            .parse::<Value>()
            .ok()
            .filter(Value::is_inline_table)
            .ok_or_else(wrong),
        "map" => {
            let mut table = InlineTable::new();
            for item in items(text) {
                let (name, value) = item.split_once('=').ok_or_else(wrong)?;
                table.insert(name.trim(), value.trim().into());
            }
            Ok(Value::InlineTable(table))
        }
        _ => Ok(text.into()),
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The text with this setting, under the name that it has there already if it has one.
pub fn set(text: &str, setting: &Described, value: Value) -> Result<String, Failure> {
    let mut document = parse(text)?;
    let section = setting.section.as_str();
    if let Some(key) = present(&document, setting) {
        let item = document
            .get_mut(section)
            .and_then(|table| table.get_mut(&key))
            .expect("it was just seen");
        let mut value = value;
        if let Some(old) = item.as_value() {
            *value.decor_mut() = old.decor().clone();
        }
        *item = Item::Value(value);
        return Ok(document.to_string());
    }
    let line = format!("{} = {}", setting.key, plain(&value));
    let wanted = {
        let mut table = table(text)?;
        let sections = table
            .entry(section)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        let value = table_of(&line)?.remove(&setting.key);
        match (sections.as_table_mut(), value) {
            (Some(sections), Some(value)) => sections.insert(setting.key.clone(), value),
            _ => return Err(not_a_section(section)),
        };
        table
    };
    let candidate = match document.get(section) {
        Some(_) => below_comment(text, section, &setting.key, &line),
        None => Some(appended(text, section, &line)),
    };
    if let Some(candidate) = candidate.filter(|candidate| table(candidate).is_ok_and(|table| table == wanted)) {
        return Ok(candidate);
    }
    let table = document.entry(section).or_insert_with(toml_edit::table);
    let table = table.as_table_like_mut().ok_or_else(|| not_a_section(section))?;
    table.insert(&setting.key, Item::Value(value));
    Ok(document.to_string())
}

/// The text without this setting, or nothing if it has none.
pub fn unset(text: &str, setting: &Described) -> Result<Option<String>, Failure> {
    let mut document = parse(text)?;
    let Some(key) = present(&document, setting) else {
        return Ok(None);
    };
    let wanted = {
        let mut table = table(text)?;
        if let Some(section) = table.get_mut(&setting.section).and_then(toml::Value::as_table_mut) {
            section.remove(&key);
        }
        table
    };
    // The editor would take the comment above along, and it is often that of the whole paragraph.
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let own = section_lines(&lines, &setting.section).find(|number| is_key(lines[*number].trim_start(), &key));
    if let Some(own) = own {
        let rest = lines.iter().enumerate().filter(|(number, _)| *number != own);
        let candidate: String = rest.map(|(_, line)| *line).collect();
        if table(&candidate).is_ok_and(|table| table == wanted) {
            return Ok(Some(candidate));
        }
    }
    if let Some(table) = document.get_mut(&setting.section).and_then(Item::as_table_like_mut) {
        table.remove(&key);
    }
    Ok(Some(document.to_string()))
}

fn parse(text: &str) -> Result<DocumentMut, Failure> {
    text.parse()
        .map_err(|error: toml_edit::TomlError| broken(&error.to_string()))
}

fn table(text: &str) -> Result<toml::Table, Failure> {
    table_of(text)
}

fn table_of(text: &str) -> Result<toml::Table, Failure> {
    text.parse().map_err(|error: toml::de::Error| broken(error.message()))
}

fn broken(reason: &str) -> Failure {
    Failure::new(Exit::Config, format!("the settings file is not valid TOML: {reason}"))
        .hint("correct it with: nexus config edit")
}

fn not_a_section(section: &str) -> Failure {
    Failure::new(Exit::Config, format!("{section} is not a section in the settings file"))
        .hint("correct it with: nexus config edit")
}

/// The name under which the file has it.
fn present(document: &DocumentMut, setting: &Described) -> Option<String> {
    let table = document.get(&setting.section)?.as_table_like()?;
    let mut names = std::iter::once(&setting.key).chain(&setting.aliases);
    names.find(|name| table.contains_key(name)).cloned()
}

fn plain(value: &Value) -> String {
    let mut value = value.clone();
    value.decor_mut().clear();
    value.to_string()
}

fn appended(text: &str, section: &str, line: &str) -> String {
    let gap = match text {
        "" => "",
        text if text.ends_with("\n\n") => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    format!("{text}{gap}[{section}]\n{line}\n")
}

fn below_comment(text: &str, section: &str, key: &str, line: &str) -> Option<String> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let at = section_lines(&lines, section).find(|number| {
        let comment = lines[*number].trim_start().strip_prefix('#');
        comment.is_some_and(|comment| is_key(comment.trim_start(), key))
    })?;
    let mut out: String = lines[..=at].concat();
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out.push_str(line);
    out.push('\n');
    out.push_str(&lines[at + 1..].concat());
    Some(out)
}

/// The numbers of the lines that seem to belong to a section.
fn section_lines<'a>(lines: &'a [&str], section: &str) -> impl Iterator<Item = usize> + use<'a> {
    let header = format!("[{section}]");
    let begin = lines.iter().position(|line| line.trim_start().starts_with(&header));
    let begin = begin.map_or(lines.len(), |at| at + 1);
    (begin..lines.len()).take_while(|number| !lines[*number].trim_start().starts_with('['))
}

fn is_key(line: &str, key: &str) -> bool {
    line.strip_prefix(key)
        .is_some_and(|rest| rest.trim_start().starts_with('='))
}

#[cfg(test)]
mod tests {
    use nexus_config::{Kind, Schema, Setting};

    use super::*;

    fn setting(key: &'static str, kind: Kind) -> Described {
        let schema = Schema::new("llm", vec![Setting::new(key, kind, "", "help").alias(&["OldName"])]);
        schema.describe().remove(0)
    }

    const FILE: &str = "# mine\n[common]\n#size = 1\n\n[llm] # models\n# how many\n#size = 4\n# how long\nwait = \"5s\" # enough\n\n[agent]\n";

    #[test]
    fn a_new_key_goes_below_the_comment_of_its_default() {
        let setting = setting("size", Kind::Int { min: 0, max: 9 });
        let changed = set(FILE, &setting, 7.into()).unwrap();
        assert_eq!(changed, FILE.replace("#size = 4\n", "#size = 4\nsize = 7\n"));
        assert_eq!(unset(&changed, &setting).unwrap().unwrap(), FILE);
        assert_eq!(unset(FILE, &setting).unwrap(), None);
    }

    #[test]
    fn a_value_is_replaced_with_the_comment_behind_it_kept() {
        let changed = set(FILE, &setting("wait", Kind::Duration), "9s".into()).unwrap();
        assert_eq!(changed, FILE.replace("\"5s\"", "\"9s\""));
        let old = set(
            "[llm]\nOldName = 1\n",
            &setting("size", Kind::Int { min: 0, max: 9 }),
            2.into(),
        )
        .unwrap();
        assert_eq!(
            old, "[llm]\nOldName = 2\n",
            "one setting is never there under two names"
        );
    }

    #[test]
    fn a_missing_section_or_file_is_begun() {
        let setting = setting("size", Kind::Int { min: 0, max: 9 });
        assert_eq!(set("", &setting, 1.into()).unwrap(), "[llm]\nsize = 1\n");
        assert_eq!(
            set("[common]\na = 1", &setting, 1.into()).unwrap(),
            "[common]\na = 1\n\n[llm]\nsize = 1\n"
        );
    }

    #[test]
    fn text_that_only_looks_like_a_place_is_not_cut() {
        let tricky = "[llm]\nprompt = \"\"\"\n#size = 1\n[agent]\n\"\"\"\n";
        let changed = set(tricky, &setting("size", Kind::Int { min: 0, max: 9 }), 2.into()).unwrap();
        let table: toml::Table = changed.parse().unwrap();
        assert_eq!(table["llm"]["size"].as_integer(), Some(2), "{changed}");
        assert_eq!(table["llm"]["prompt"].as_str(), Some("#size = 1\n[agent]\n"));
        assert_eq!(
            unset(&changed, &setting("size", Kind::Int { min: 0, max: 9 }))
                .unwrap()
                .unwrap(),
            tricky
        );
    }

    #[test]
    fn values_take_the_form_of_their_kind() {
        let written = |kind, text: &str| value(&setting("x", kind), text).map(|value| plain(&value));
        assert_eq!(written(Kind::Bool, "on").unwrap(), "true");
        assert_eq!(written(Kind::Size, "4096").unwrap(), "4096");
        assert_eq!(written(Kind::Size, "4KiB").unwrap(), "\"4KiB\"");
        assert_eq!(written(Kind::List, "a, b").unwrap(), "[\"a\", \"b\"]");
        assert_eq!(written(Kind::Map, "uid:1=user").unwrap(), "{ \"uid:1\" = \"user\" }");
        assert_eq!(written(Kind::Text, "5").unwrap(), "\"5\"");
        let failure = written(Kind::Int { min: 1, max: 5 }, "many").unwrap_err();
        assert!(failure.message.contains("llm.x expects number 1 to 5"), "{failure}");
    }
}
