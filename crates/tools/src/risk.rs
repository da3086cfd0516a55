//! What a call may do, in words, for whoever decides about it.

use serde_json::Value;

use crate::{
    call::{effects_of, lock_of},
    definition::{Definition, Source},
    escape::{is_hidden, visible},
    lock::Lock,
    net,
};

/// The risks of a call, one a line, with nothing hidden. `tainted`: the run has read content of strangers.
pub fn risks(tool: &Definition, arguments: &Value, tainted: bool) -> Vec<String> {
    let effects = effects_of(tool, arguments);
    let text = |member: &str| arguments.get(member).and_then(Value::as_str);
    let mut risks = Vec::new();
    let mut add = |risk: String| risks.push(risk);
    if tainted {
        add("The run has read content from outside, which may have asked for this.".to_owned());
    }
    match tool.source() {
        Source::Builtin => {}
        Source::User => add("It is a tool that a user added.".to_owned()),
        Source::Mcp(server) => {
            add(format!(
                "It is a tool of the server {}: what it does is known from that server only.",
                visible(server)
            ));
        }
    }
    if effects.network {
        let host = text("url")
            .and_then(|url| net::target(url).ok())
            .map(|target| target.host);
        add(host.map_or_else(
            || "It sends something over the network.".to_owned(),
            |host| format!("It sends a request to {}.", visible(&host)),
        ));
    }
    if effects.people {
        let to = text("to").unwrap_or("people");
        add(format!("It sends a message to {}.", visible(to).replace('\n', "\\n")));
    }
    if !effects.sandboxed && !effects.network && !effects.people {
        add("It acts outside of the sandbox.".to_owned());
    }
    match lock_of(tool, arguments) {
        Lock::Exec if tool.name() == "exec" => {
            add("It runs a command, which may change any file of the workspace.".to_owned())
        }
        Lock::Write(paths) if !paths.is_empty() => {
            let shown: Vec<String> = paths
                .iter()
                .take(10)
                .map(|path| visible(path).replace('\n', "\\n"))
                .collect();
            let more = if paths.len() > 10 {
                format!(" and {} more", paths.len() - 10)
            } else {
                String::new()
            };
            add(format!("It changes {}{more}.", shown.join(", ")));
        }
        _ => {}
    }
    if let Some(command) = text("command") {
        if command.chars().any(|c| is_hidden(c) && c != '\n' && c != '\t') {
            add("The command has characters that cannot be seen; they are shown as \\u{...}.".to_owned());
        } else if command.chars().any(|c| c.is_alphabetic() && !c.is_ascii()) {
            add("The command has letters outside of ASCII, which may look like others.".to_owned());
        }
    }
    risks
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::risks;
    use crate::{Definition, Effects, Foreign, LockKind, Source, builtin};

    fn of(tool: &str, arguments: Value) -> Vec<String> {
        risks(builtin(tool).unwrap(), &arguments, false)
    }

    #[test]
    fn what_a_call_may_do_is_told_in_words() {
        assert_eq!(of("read_file", json!({"path": "a"})), Vec::<String>::new());
        assert_eq!(
            of("web_fetch", json!({"url": "https://A.example/x"})),
            ["It sends a request to a.example."]
        );
        assert_eq!(
            of("message", json!({"text": "a", "to": "bo\u{202e}"})),
            ["It sends a message to bo\\u{202e}."]
        );
        assert_eq!(of("message", json!({"text": "a"})), Vec::<String>::new());
        assert_eq!(
            of("write_file", json!({"path": "./a", "content": ""})),
            ["It changes a."]
        );
        assert_eq!(
            of("exec", json!({"command": "ls"})),
            ["It runs a command, which may change any file of the workspace."]
        );
        assert!(of("exec", json!({"command": "lѕ"}))[1].contains("outside of ASCII"));
        assert!(of("exec", json!({"command": "ls\u{200b}"}))[1].contains("cannot be seen"));
        assert!(risks(builtin("exec").unwrap(), &json!({"command": "ls"}), true)[0].contains("content from outside"));
    }

    #[test]
    fn tools_of_servers_are_named_as_such() {
        let tool = Definition::new(Foreign {
            name: "git__push".to_owned(),
            description: String::new(),
            schema: json!({"type": "object"}),
            source: Source::Mcp("git".to_owned()),
            read_only: false,
            idempotent: false,
            effects: Effects::default(),
            lock: LockKind::Alone,
        })
        .unwrap();
        let risks = risks(&tool, &json!({}), false);
        assert_eq!(
            risks[0],
            "It is a tool of the server git: what it does is known from that server only."
        );
        assert_eq!(risks[1], "It acts outside of the sandbox.");
    }
}
