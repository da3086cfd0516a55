//! Tasks of the older protocol: an operation by name and its parameters, as the tools that do the same today.

use nexus_proto::agent::v1::TaskConfig;
use serde_json::{Map, Value, json};

/// A tool and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub tool: String,
    pub arguments: String,
    pub overwrites: bool,
}

/// Parameters that say where a task runs rather than what it does.
const NOT_ARGUMENTS: [&str; 7] = ["operation", "op", "workspace", "mounts", "network", "image", "user"];

/// `program`: the command is a program with its arguments. `None` for an operation that there is not.
pub fn read(config: &TaskConfig, program: bool) -> Option<Operation> {
    let given = |names: &[&str]| names.iter().find_map(|name| config.parameters.get(*name)).cloned();
    let name = Some(config.command.clone())
        .filter(|command| !command.is_empty())
        .or_else(|| given(&["operation", "op"]))?;
    if program {
        let words = std::iter::once(&name).chain(&config.arguments);
        // A command alone may be a line for the shell.
        let command = if config.arguments.is_empty() {
            name.clone()
        } else {
            words.map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
        };
        return Some(operation("exec", json!({ "command": command })));
    }
    let path = || given(&["path", "target", "file"]).or_else(|| config.arguments.first().cloned());
    let text = |names: &[&str]| given(names).unwrap_or_default();
    Some(match name.as_str() {
        "read" | "file_read" | "cat" => operation("read_file", json!({ "path": path()? })),
        "write" | "file_write" => Operation {
            overwrites: true,
            ..operation("write_file", json!({ "path": path()?, "content": text(&["content"]) }))
        },
        "edit" | "file_edit" | "sed" => operation(
            "edit_file",
            json!({ "path": path()?, "old_string": text(&["search"]), "new_string": text(&["replace"]), "replace_all": true }),
        ),
        "search" if given(&["pattern"]).is_none() => return None,
        "grep" | "search" => operation(
            "grep",
            json!({ "pattern": text(&["pattern"]), "path": path().unwrap_or_else(|| ".".into()) }),
        ),
        "find" => operation(
            "find",
            json!({
                "glob": given(&["name", "pattern", "glob"]).unwrap_or_else(|| "*".into()),
                "path": path().unwrap_or_else(|| ".".into()),
            }),
        ),
        "list" | "ls" => operation(
            "list_dir",
            json!({
                "path": path().unwrap_or_else(|| ".".into()),
                "depth": if given(&["recursive"]).as_deref() == Some("true") { 5 } else { 1 },
            }),
        ),
        // A tool of today by its own name, with parameters instead of JSON: they are read as its schema names them.
        "read_file" | "write_file" | "edit_file" | "apply_patch" | "list_dir" | "exec" | "process" => {
            let mut arguments = Map::new();
            for (name, value) in &config.parameters {
                if !NOT_ARGUMENTS.contains(&name.as_str()) {
                    arguments.insert(name.clone(), Value::String(value.clone()));
                }
            }
            operation(&name, Value::Object(arguments))
        }
        _ => return None,
    })
}

fn operation(tool: &str, arguments: Value) -> Operation {
    Operation {
        tool: tool.to_owned(),
        arguments: arguments.to_string(),
        overwrites: false,
    }
}

/// A word as a shell takes it whole.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./=:,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn config(command: &str, parameters: &[(&str, &str)]) -> TaskConfig {
        TaskConfig {
            command: command.into(),
            parameters: parameters
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<HashMap<_, _>>(),
            ..TaskConfig::default()
        }
    }

    #[test]
    fn each_older_operation_is_a_tool_of_today() {
        for (command, parameters, tool, argument) in [
            ("cat", vec![("file", "a")], "read_file", r#""path":"a""#),
            (
                "",
                vec![("operation", "file_read"), ("path", "a")],
                "read_file",
                r#""path":"a""#,
            ),
            ("", vec![("op", "ls")], "list_dir", r#""path":".""#),
            (
                "file_write",
                vec![("target", "a"), ("content", "x")],
                "write_file",
                r#""content":"x""#,
            ),
            (
                "sed",
                vec![("path", "a"), ("search", "x"), ("replace", "y")],
                "edit_file",
                r#""old_string":"x""#,
            ),
            ("search", vec![("pattern", "x")], "grep", r#""pattern":"x""#),
            ("find", vec![("name", "*.rs")], "find", r#""glob":"*.rs""#),
            (
                "read_file",
                vec![("path", "a"), ("limit", "5")],
                "read_file",
                r#""limit":"5""#,
            ),
        ] {
            let found = read(&config(command, &parameters), false).unwrap();
            assert_eq!(found.tool, tool, "{command}");
            assert!(found.arguments.contains(argument), "{}", found.arguments);
            assert_eq!(found.overwrites, tool == "write_file");
        }
        for unknown in ["web_search", "fetch", "rm", "search", ""] {
            assert_eq!(read(&config(unknown, &[]), false), None, "{unknown}");
        }
    }

    #[test]
    fn a_program_is_one_line_for_the_shell() {
        let mut program = config("echo", &[]);
        program.arguments = vec!["it's".into(), "$HOME".into(), "a=b".into()];
        let found = read(&program, true).unwrap();
        assert_eq!(found.tool, "exec");
        assert_eq!(
            found.arguments,
            json!({"command": r"echo 'it'\''s' '$HOME' a=b"}).to_string()
        );
    }
}
