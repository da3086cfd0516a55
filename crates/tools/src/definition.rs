//! What a tool is: its name and schema as a model sees them, and what its calls may do.

use std::{fmt, sync::Arc};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    arguments::{self, Checked, Clamp},
    canonical,
    error::{Code, Error},
    schema::Schema,
    suggest,
};

/// Longest name that every provider takes.
pub const MAX_NAME_BYTES: usize = 63;

/// Where a tool comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Part of the program.
    Builtin,
    /// Added by a user.
    User,
    /// A server of the Model Context Protocol, by its name.
    Mcp(String),
}

impl Source {
    /// The source with this name, as `Display` writes it.
    pub fn from_name(name: &str) -> Option<Source> {
        match name {
            "builtin" => Some(Source::Builtin),
            "user" => Some(Source::User),
            other => other.strip_prefix("mcp:").map(|server| Source::Mcp(server.to_owned())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Builtin => f.write_str("builtin"),
            Source::User => f.write_str("user"),
            Source::Mcp(server) => write!(f, "mcp:{server}"),
        }
    }
}

/// What a call of the tool holds of its session while it runs; see [`crate::lock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Nothing: it waits for somebody else.
    Nothing,
    /// Reads.
    Read,
    /// Writes the files that its arguments name.
    Write,
    /// Runs a program, which may read and write anything.
    Exec,
    /// No other call of the session runs beside it.
    Alone,
}

impl LockKind {
    fn as_str(self) -> &'static str {
        match self {
            LockKind::Nothing => "nothing",
            LockKind::Read => "read",
            LockKind::Write => "write",
            LockKind::Exec => "exec",
            LockKind::Alone => "alone",
        }
    }
}

/// What a call may have an effect on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// Stays within the session's sandbox and workspace.
    pub sandboxed: bool,
    /// Sends something over the network.
    pub network: bool,
    /// Reaches people.
    pub people: bool,
}

impl Effects {
    /// Whether a call is allowed where no rule speaks of it.
    pub fn stay_inside(self) -> bool {
        self.sandboxed && !self.network && !self.people
    }
}

/// A tool.
#[derive(Debug, Clone)]
pub struct Definition {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) schema: Arc<Schema>,
    pub(crate) source: Source,
    pub(crate) read_only: bool,
    pub(crate) idempotent: bool,
    pub(crate) lock: LockKind,
    pub(crate) effects: Effects,
    pub(crate) clamps: &'static [Clamp],
    /// Members and how many bytes each may have: JSON Schema counts characters.
    pub(crate) bounds: &'static [(&'static str, usize)],
    digest: String,
}

/// What is said of a tool that is not built in.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// At most [`MAX_NAME_BYTES`] of letters, digits, `_` and `-`.
    pub name: String,
    /// For the model.
    pub description: String,
    /// JSON Schema of the arguments, of type object.
    pub schema: Value,
    /// Where it comes from.
    pub source: Source,
    /// It changes nothing. For servers that are not trusted this is false, whatever they say.
    pub read_only: bool,
    /// Running it twice is the same as once.
    pub idempotent: bool,
    /// What it may have an effect on.
    pub effects: Effects,
    /// What its calls hold.
    pub lock: LockKind,
}

impl Definition {
    /// A tool of a user or of a server, if every provider would take its name and schema. The error says what is wrong.
    pub fn new(foreign: Foreign) -> Result<Definition, Error> {
        let Foreign {
            name,
            description,
            schema,
            source,
            read_only,
            idempotent,
            effects,
            lock,
        } = foreign;
        if !valid_name(&name) {
            return Err(
                Error::new(Code::InvalidArguments, format!("{name:?} is not a name for a tool")).with_next(format!(
                    "Use 1 to {MAX_NAME_BYTES} of the characters a-z, A-Z, 0-9, _ and -."
                )),
            );
        }
        let schema =
            Schema::new(schema).map_err(|error| Error::new(Code::InvalidArguments, format!("tool {name}: {error}")))?;
        Ok(Definition::assemble(
            name,
            description,
            schema,
            source,
            read_only,
            idempotent,
            lock,
            effects,
            &[],
            &[],
        ))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call for each kind of tool, both in this crate"
    )]
    pub(crate) fn assemble(
        name: String,
        description: String,
        schema: Schema,
        source: Source,
        read_only: bool,
        idempotent: bool,
        lock: LockKind,
        effects: Effects,
        clamps: &'static [Clamp],
        bounds: &'static [(&'static str, usize)],
    ) -> Definition {
        let of = json!({
            "name": name, "description": description, "input_schema": schema.as_value(), "source": source.to_string(),
            "read_only": read_only, "idempotent": idempotent, "lock": lock.as_str(),
            "effects": [effects.sandboxed, effects.network, effects.people],
        });
        let digest = hex::encode(Sha256::digest(canonical::text(&of).as_bytes()));
        let schema = Arc::new(schema);
        Definition {
            name,
            description,
            schema,
            source,
            read_only,
            idempotent,
            lock,
            effects,
            clamps,
            bounds,
            digest,
        }
    }

    /// The name a model calls it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a model is told of it.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// JSON Schema of its arguments.
    pub fn schema(&self) -> &Value {
        self.schema.as_value()
    }

    /// Where it comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether it changes nothing.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Whether running it twice is the same as once: a call of which nothing is known may be run again.
    pub fn idempotent(&self) -> bool {
        self.idempotent
    }

    /// What its calls hold of the session.
    pub fn lock(&self) -> LockKind {
        self.lock
    }

    /// Whether its calls may run beside other calls of the session.
    pub fn parallel(&self) -> bool {
        self.lock != LockKind::Alone
    }

    /// What its calls may have an effect on at most; [`crate::effects_of`] knows more of one call.
    pub fn effects(&self) -> Effects {
        self.effects
    }

    /// SHA-256 of all of it, hex. Another definition under the same name has another digest.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Checks the arguments that a model sent, as text.
    pub fn check(&self, text: &str) -> Result<Checked, Error> {
        let checked = arguments::check(&self.schema, self.clamps, text)?;
        self.within_bounds(&checked.arguments)?;
        Ok(checked)
    }

    /// Checks arguments that were read already, such as those of a map of parameters.
    pub fn check_value(&self, arguments: Value) -> Result<Checked, Error> {
        let checked = arguments::check_value(&self.schema, self.clamps, arguments)?;
        self.within_bounds(&checked.arguments)?;
        Ok(checked)
    }

    fn within_bounds(&self, arguments: &Value) -> Result<(), Error> {
        for (member, limit) in self.bounds {
            let Some(text) = arguments.get(*member).and_then(Value::as_str) else {
                continue;
            };
            if text.len() > *limit {
                let what = format!("at /{member}: {} bytes, {limit} allowed", text.len());
                return Err(Error::new(Code::TooLarge, what));
            }
        }
        Ok(())
    }
}

/// Whether every provider takes this name.
pub fn valid_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The name of a server's tool: `<server>__<tool>` in the characters that providers take. One that is too long or `taken`
/// is cut and ends in ten hex digits of the pair's hash.
pub fn mcp_name(server: &str, tool: &str, taken: impl Fn(&str) -> bool) -> String {
    let plain = |text: &str| -> String {
        text.chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .take(256)
            .collect()
    };
    let name = format!("{}__{}", plain(server), plain(tool));
    if name.len() <= MAX_NAME_BYTES && !taken(&name) {
        return name;
    }
    let mut hash = Sha256::new();
    // The length first: two pairs that read the same joined are two pairs.
    hash.update((server.len() as u64).to_be_bytes());
    hash.update(server);
    hash.update(tool);
    let hash = hex::encode(hash.finalize());
    let keep = name.len().min(MAX_NAME_BYTES - 11);
    format!("{}_{}", &name[..keep], &hash[..10])
}

/// The error for a name that no tool has, with the three nearest of those that there are.
pub fn unknown_tool<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let near = suggest::nearest(name, known, 3);
    let shown: String = name.chars().take(80).collect();
    let error = Error::new(Code::UnknownTool, format!("there is no tool {shown:?}"));
    if near.is_empty() {
        error
    } else {
        error.with_next(format!("The nearest names: {}.", near.join(", ")))
    }
}

/// SHA-256 over a list of tools, hex: two runs with the same digest were told the same.
pub fn list_digest<'a>(tools: impl IntoIterator<Item = &'a Definition>) -> String {
    let mut hash = Sha256::new();
    for tool in tools {
        hash.update(tool.digest.as_bytes());
        hash.update(b"\n");
    }
    hex::encode(hash.finalize())
}

/// The schema of an object whose members are `properties`, of which `required` must be there.
pub(crate) fn object_schema(properties: Map<String, Value>, required: &[&str]) -> Value {
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Definition, Effects, Foreign, LockKind, Source, mcp_name, unknown_tool, valid_name};

    fn foreign(name: &str) -> Foreign {
        Foreign {
            name: name.to_owned(),
            description: "Does it.".to_owned(),
            schema: json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
            source: Source::Mcp("srv".to_owned()),
            read_only: false,
            idempotent: false,
            effects: Effects::default(),
            lock: LockKind::Alone,
        }
    }

    #[test]
    fn foreign_tools_are_checked_like_ours() {
        let tool = Definition::new(foreign("srv__do")).unwrap();
        assert_eq!(tool.check("{\"a\":\"5\"}").unwrap().arguments, json!({"a": 5}));
        assert!(tool.check("{\"b\":5}").unwrap_err().what.contains("no member \"b\""));
        for name in ["", "a b", "ä", "a.b", &"x".repeat(64)] {
            assert!(Definition::new(foreign(name)).is_err(), "{name}");
        }
        let schema = Foreign {
            schema: json!({"type": "array"}),
            ..foreign("x")
        };
        assert!(
            Definition::new(schema)
                .unwrap_err()
                .what
                .contains("tool x: schema is not one of an object")
        );
    }

    #[test]
    fn sources_lead_back_from_their_names() {
        for source in [Source::Builtin, Source::User, Source::Mcp("git".to_owned())] {
            assert_eq!(Source::from_name(&source.to_string()), Some(source));
        }
        assert_eq!(Source::from_name("other"), None);
    }

    #[test]
    fn any_change_is_another_digest() {
        let before = Definition::new(foreign("srv__do")).unwrap();
        assert_eq!(before.digest(), Definition::new(foreign("srv__do")).unwrap().digest());
        let description = Foreign {
            description: "Does that.".to_owned(),
            ..foreign("srv__do")
        };
        let read_only = Foreign {
            read_only: true,
            ..foreign("srv__do")
        };
        let schema = Foreign {
            schema: json!({"type": "object"}),
            ..foreign("srv__do")
        };
        for changed in [description, read_only, schema, foreign("srv__other")] {
            assert_ne!(before.digest(), Definition::new(changed).unwrap().digest());
        }
    }

    #[test]
    fn names_of_servers_tools_are_short_and_different() {
        let free = |_: &str| false;
        assert_eq!(mcp_name("git", "log", free), "git__log");
        assert_eq!(mcp_name("my.srv", "a/b", free), "my_srv__a_b");
        let long = mcp_name("server", &"t".repeat(80), free);
        assert!(valid_name(&long) && long.len() == 63, "{long}");
        assert_ne!(long, mcp_name("server", &"t".repeat(81), free));
        let taken = mcp_name("a", "b.c", |name| name == "a__b_c");
        assert!(
            valid_name(&taken) && taken.starts_with("a__b_c_") && taken.len() == 17,
            "{taken}"
        );
        assert_ne!(taken, mcp_name("a", "b/c", |name| name == "a__b_c"));
        assert!(valid_name(&mcp_name("ü", &"ö".repeat(500), free)));
    }

    #[test]
    fn a_wrong_name_is_answered_with_near_ones() {
        let error = unknown_tool("readFile", ["read_file", "write_file", "exec"]);
        assert!(
            error
                .to_string()
                .starts_with("error unknown_tool: there is no tool \"readFile\"\nThe nearest names: read_file")
        );
    }
}
