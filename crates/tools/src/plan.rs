//! Exactly what a call would do, as people are shown it and as it is compared again before it runs. Two plans with the same
//! digest are the same in every byte that was looked at.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{canonical, escape::visible};

/// The version of the members below; part of the digest.
pub const VERSION: u32 = 1;
/// Most files of one plan whose content is hashed and bound.
pub const MAX_FILES: usize = 16;
/// Largest of them, in bytes.
pub const MAX_FILE_BYTES: u64 = 8 << 20;

/// What would run. Members that a tool has no use for are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`VERSION`].
    pub version: u32,
    /// The session.
    pub session: String,
    /// The run.
    pub run: String,
    /// The call.
    pub call: String,
    /// The tool's name.
    pub tool: String,
    /// Digest of its definition.
    pub definition_digest: String,
    /// All arguments, checked.
    pub arguments: Value,
    /// Where it runs, without links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// What it is given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// SHA-256 of what it reads, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// The program that is executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<FileHash>,
    /// `uid:gid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Of the container's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// What it sees of this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// `none`, or what it reaches.
    pub network: String,
    /// By name, such as `timeout_s` and `memory_bytes`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// Files that the arguments or redirects name: these bytes are bound over their paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileHash>,
    /// Files that are named and not covered, since they are too many or too large.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_covered: Vec<String>,
}

/// A file and its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileHash {
    /// Without links.
    pub path: String,
    /// SHA-256, hex.
    pub sha256: String,
}

/// A directory or file of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// On this host.
    pub source: String,
    /// In the sandbox.
    pub target: String,
    /// It cannot be written.
    pub read_only: bool,
}

impl Plan {
    /// Canonical JSON (RFC 8785): what the digest is taken of and what a surface shows.
    pub fn canonical(&self) -> String {
        canonical::text(&serde_json::to_value(self).expect("a plan has names for members and finite numbers"))
    }

    /// SHA-256 of the canonical JSON, hex.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(self.canonical().as_bytes()))
    }

    /// For people: every member, with nothing hidden. A surface shows it whole, in pages if it is long.
    pub fn show(&self) -> String {
        let mut text = String::new();
        for (name, value) in self.members() {
            line(&mut text, &name, &value);
        }
        if !self.not_covered.is_empty() {
            text.push_str("The files under \"not covered\" may change until it runs.\n");
        }
        if self.program.is_some() || self.tool == "exec" {
            text.push_str("Files that it opens by itself are not covered.\n");
        }
        text
    }

    /// What is different in `after`, for people: the name of each member with both values.
    pub fn show_difference(&self, after: &Plan) -> String {
        let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) = (
            self.members().into_iter().collect(),
            after.members().into_iter().collect(),
        );
        let mut text = String::new();
        for name in before
            .keys()
            .chain(after.keys().filter(|name| !before.contains_key(*name)))
        {
            match (before.get(name), after.get(name)) {
                (Some(old), Some(new)) if old == new => {}
                (old, new) => {
                    line(
                        &mut text,
                        &format!("{name}, approved"),
                        old.map_or("absent", String::as_str),
                    );
                    line(&mut text, &format!("{name}, now"), new.map_or("absent", String::as_str));
                }
            }
        }
        text
    }

    /// Names and values, in the order in which people look: what, then where, then the rest.
    fn members(&self) -> Vec<(String, String)> {
        let mut list = vec![("tool".to_owned(), self.tool.clone())];
        match &self.arguments {
            Value::Object(arguments) => {
                for (name, value) in arguments {
                    let text = value.as_str().map_or_else(|| canonical::text(value), str::to_owned);
                    list.push((format!("argument {name}"), text));
                }
            }
            other => list.push(("arguments".to_owned(), canonical::text(other))),
        }
        let mut add = |name: &str, value: Option<String>| list.extend(value.map(|value| (name.to_owned(), value)));
        add("directory", self.working_directory.clone());
        add("network", Some(self.network.clone()));
        add("program", self.program.as_ref().map(FileHash::text));
        for file in &self.files {
            add(&format!("file {}", file.path), Some(file.sha256.clone()));
        }
        add(
            "not covered",
            (!self.not_covered.is_empty()).then(|| self.not_covered.join("\n")),
        );
        add("stdin", self.stdin.as_ref().map(|hash| format!("sha256 {hash}")));
        for mount in &self.mounts {
            let how = if mount.read_only { "read-only" } else { "writable" };
            add(
                &format!("mount {}", mount.target),
                Some(format!("{}, {how}", mount.source)),
            );
        }
        add("user", self.user.clone());
        add("image", self.image_digest.clone());
        for (name, value) in &self.environment {
            add(&format!("environment {name}"), Some(value.clone()));
        }
        for (name, value) in &self.limits {
            add(&format!("limit {name}"), Some(value.to_string()));
        }
        add("definition", Some(self.definition_digest.clone()));
        add("session", Some(self.session.clone()));
        add("run", Some(self.run.clone()));
        add("call", Some(self.call.clone()));
        add("version", Some(self.version.to_string()));
        list
    }
}

impl FileHash {
    fn text(&self) -> String {
        format!("{} (sha256 {})", self.path, self.sha256)
    }
}

/// `name: value`; a value of several lines stands below its name, so that none of its lines looks like another member.
fn line(text: &mut String, name: &str, value: &str) {
    let name = visible(name).replace('\n', "\\n");
    let value = visible(value);
    if value.contains('\n') {
        let _ = writeln!(text, "{name}:");
        for part in value.split('\n') {
            let _ = writeln!(text, "  | {part}");
        }
    } else {
        let _ = writeln!(text, "{name}: {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{FileHash, Mount, Plan, VERSION};

    fn example() -> Plan {
        Plan {
            version: VERSION,
            session: "s1".to_owned(),
            run: "r1".to_owned(),
            call: "c1".to_owned(),
            tool: "exec".to_owned(),
            definition_digest: "d1".to_owned(),
            arguments: json!({"command": "sh run.sh", "timeout_s": 600}),
            working_directory: Some("/workspace".to_owned()),
            environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin".to_owned())]),
            stdin: Some("00".to_owned()),
            program: Some(FileHash {
                path: "/bin/sh".to_owned(),
                sha256: "11".to_owned(),
            }),
            user: Some("1000:1000".to_owned()),
            image_digest: Some("sha256:22".to_owned()),
            mounts: vec![Mount {
                source: "/home/a".to_owned(),
                target: "/data".to_owned(),
                read_only: true,
            }],
            network: "none".to_owned(),
            limits: BTreeMap::from([("memory_bytes".to_owned(), 1 << 30)]),
            files: vec![FileHash {
                path: "/workspace/run.sh".to_owned(),
                sha256: "33".to_owned(),
            }],
            not_covered: vec!["/workspace/large.bin".to_owned()],
        }
    }

    /// Whatever is swapped between the consent and the start, the digest is another one.
    #[test]
    fn every_member_is_in_the_digest_and_is_shown() {
        let plan = example();
        let Value::Object(members) = serde_json::to_value(&plan).unwrap() else {
            panic!()
        };
        assert_eq!(members.len(), 18);
        for (name, value) in &members {
            let other = match value {
                Value::String(text) => json!(format!("{text}x")),
                Value::Number(number) => json!(number.as_u64().unwrap() + 1),
                Value::Array(list) if list[0].is_string() => json!(["x"]),
                Value::Array(list) => {
                    let mut item = list[0].clone();
                    let member = item
                        .as_object_mut()
                        .unwrap()
                        .values_mut()
                        .find(|member| member.is_string())
                        .unwrap();
                    *member = json!("x");
                    json!([item])
                }
                Value::Object(map) if name == "program" => json!({"path": map["path"], "sha256": "x"}),
                Value::Object(_) if name == "limits" => json!({"memory_bytes": 1}),
                Value::Object(_) => json!({"x": "y"}),
                other => panic!("{name} is {other}"),
            };
            let mut changed = members.clone();
            changed.insert(name.clone(), other);
            let changed: Plan = serde_json::from_value(Value::Object(changed)).unwrap();
            assert_ne!(changed.digest(), plan.digest(), "{name}");
            assert_ne!(changed.show(), plan.show(), "{name}");
            assert!(!plan.show_difference(&changed).is_empty(), "{name}");
        }
        assert_eq!(plan.show_difference(&plan), "");
    }

    #[test]
    fn the_digest_is_that_of_the_canonical_text() {
        let plan = example();
        let text = plan.canonical();
        assert!(text.starts_with(r#"{"arguments":{"command":"sh run.sh","timeout_s":600},"call":"c1","definition_digest":"d1","environment""#), "{text}");
        let back: Plan = serde_json::from_str(&text).unwrap();
        assert_eq!((back.digest(), &back), (plan.digest(), &plan));
        assert_eq!(plan.digest().len(), 64);
    }

    /// A command reads as another one to whoever consents.
    #[test]
    fn nothing_is_hidden_and_no_line_looks_like_another_member() {
        let mut plan = example();
        plan.arguments = json!({"command": "echo ok\u{202e}\nnetwork: none\ntool: read_file", "b\nad": "x"});
        let shown = plan.show();
        assert!(
            shown.contains("argument command:\n  | echo ok\\u{202e}\n  | network: none\n  | tool: read_file\n"),
            "{shown}"
        );
        assert!(shown.contains("argument b\\nad: x\n"));
        assert_eq!(shown.lines().filter(|line| line.starts_with("network:")).count(), 1);
        assert!(
            shown.contains("not covered: /workspace/large.bin\n")
                && shown.contains("Files that it opens by itself are not covered.\n")
        );
    }
}
