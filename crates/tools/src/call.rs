//! The arguments of built-in tools as types, with their defaults: made from what [`crate::Definition::check`] returned.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    definition::{Definition, Effects, LockKind, Source},
    error::{Code, Error},
};

/// A checked call of a built-in tool.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each is the arguments of the tool it is named after")]
pub enum Call {
    ApplyPatch(ApplyPatch),
    AskUser(AskUser),
    Delegate(Delegate),
    EditFile(EditFile),
    Exec(Exec),
    Find(Find),
    Grep(Grep),
    ListDir(ListDir),
    Message(Message),
    Process(Process),
    ReadFile(ReadFile),
    Skill(Skill),
    WebFetch(WebFetch),
    WebSearch(WebSearch),
    WriteFile(WriteFile),
}

impl Call {
    /// Reads checked arguments. The error names what a schema cannot: `arguments` were not checked.
    pub fn new(tool: &str, arguments: Value) -> Result<Call, Error> {
        fn of<T: for<'de> Deserialize<'de>>(arguments: Value, variant: fn(T) -> Call) -> Result<Call, Error> {
            serde_json::from_value(arguments)
                .map(variant)
                .map_err(|error| Error::new(Code::InvalidArguments, error.to_string()))
        }
        match tool {
            "apply_patch" => of(arguments, Call::ApplyPatch),
            "ask_user" => of(arguments, Call::AskUser),
            "delegate" => of(arguments, Call::Delegate),
            "edit_file" => of(arguments, Call::EditFile),
            "exec" => of(arguments, Call::Exec),
            "find" => of(arguments, Call::Find),
            "grep" => of(arguments, Call::Grep),
            "list_dir" => of(arguments, Call::ListDir),
            "message" => of(arguments, Call::Message),
            "process" => of(arguments, Call::Process),
            "read_file" => of(arguments, Call::ReadFile),
            "skill" => of(arguments, Call::Skill),
            "web_fetch" => of(arguments, Call::WebFetch),
            "web_search" => of(arguments, Call::WebSearch),
            "write_file" => of(arguments, Call::WriteFile),
            other => Err(crate::definition::unknown_tool(
                other,
                crate::builtins().iter().map(Definition::name),
            )),
        }
    }
}

/// What one call may have an effect on: a message to the own conversation reaches nobody else, and `to` an empty string
/// is no one.
pub fn effects_of(tool: &Definition, arguments: &Value) -> Effects {
    let to = arguments.get("to").and_then(Value::as_str).unwrap_or_default();
    if *tool.source() == Source::Builtin && tool.name() == "message" && to.is_empty() {
        return Effects {
            sandboxed: true,
            network: false,
            people: false,
        };
    }
    tool.effects()
}

/// What one call holds of its session: see [`crate::lock::Lock`].
pub fn lock_of(tool: &Definition, arguments: &Value) -> crate::lock::Lock {
    use crate::lock::Lock;
    match tool.lock() {
        LockKind::Nothing => Lock::Nothing,
        LockKind::Read => Lock::Read,
        LockKind::Exec => Lock::Exec,
        LockKind::Alone => Lock::Alone,
        LockKind::Write => {
            let text = |member: &str| arguments.get(member).and_then(Value::as_str);
            let paths: Vec<String> = match (text("path"), text("patch")) {
                (Some(path), _) => vec![path.to_owned()],
                (None, Some(patch)) => crate::patch::paths(patch),
                (None, None) => Vec::new(),
            };
            Lock::Write(paths.iter().filter_map(|path| crate::path::file(path).ok()).collect())
        }
    }
}

macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty $(= $default:literal)?,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Deserialize)]
            pub struct $name {
                $($(#[$field_doc])* $(#[serde(default = $default)])? pub $field: $kind,)*
            }
        )*
    };
}

arguments! {
    /// Arguments of `apply_patch`.
    ApplyPatch {
        /// The patch.
        patch: String,
    }
    /// Arguments of `ask_user`.
    AskUser {
        /// The question.
        question: String,
        /// Answers to choose from; may be none.
        options: Vec<String> = "Vec::new",
    }
    /// Arguments of `delegate`.
    Delegate {
        /// What to do.
        task: String,
        /// Name of a role.
        role: Option<String>,
        /// Files whose content it gets.
        files: Vec<String> = "Vec::new",
        /// Nobody waits for it.
        background: bool = "no",
    }
    /// Arguments of `edit_file`.
    EditFile {
        /// The file.
        path: String,
        /// What is replaced.
        old_string: String,
        /// What takes its place.
        new_string: String,
        /// Every occurrence.
        replace_all: bool = "no",
    }
    /// Arguments of `exec`.
    Exec {
        /// Text for the shell.
        command: String,
        /// Where it starts; the workspace if not given.
        workdir: Option<String>,
        /// In a terminal.
        tty: bool = "no",
        /// What it reads.
        stdin: Option<String>,
        /// Seconds after which an id is returned.
        wait_s: f64 = "ten",
        /// Seconds after which it is killed.
        timeout_s: f64 = "six_hundred",
        /// Return at once.
        background: bool = "no",
    }
    /// Arguments of `find`.
    Find {
        /// Which names.
        glob: String,
        /// Where; the workspace if not given.
        path: Option<String>,
        /// Most files told.
        limit: u64 = "two_hundred",
    }
    /// Arguments of `grep`.
    Grep {
        /// A regular expression.
        pattern: String,
        /// A file, directory or result; the workspace if not given.
        path: Option<String>,
        /// Only files with such names.
        glob: Option<String>,
        /// Lines around each match.
        context: u64 = "zero",
        /// Most matches told.
        limit: u64 = "hundred",
    }
    /// Arguments of `list_dir`.
    ListDir {
        /// The directory; the workspace if not given.
        path: Option<String>,
        /// How many levels.
        depth: u64 = "one",
    }
    /// Arguments of `message`.
    Message {
        /// What is sent.
        text: String,
        /// To whom; the own conversation if not given.
        to: Option<String>,
        /// Files that go with it.
        files: Vec<String> = "Vec::new",
    }
    /// Arguments of `process`.
    Process {
        /// The process, as exec named it.
        id: String,
        /// What to do.
        action: ProcessAction,
        /// For write.
        input: Option<String>,
        /// What wait waits for.
        until: Until = "Until::default",
        /// Seconds.
        wait_s: f64 = "sixty",
    }
    /// Arguments of `read_file`.
    ReadFile {
        /// The file, result or skill's file.
        path: String,
        /// First line, from 1.
        offset: u64 = "one",
        /// Lines.
        limit: u64 = "two_thousand",
    }
    /// Arguments of `skill`.
    Skill {
        /// Which.
        name: String,
    }
    /// Arguments of `web_fetch`.
    WebFetch {
        /// What is fetched.
        url: String,
        /// What it is converted to.
        format: Format = "Format::default",
        /// Byte of the converted content to begin at.
        offset: u64 = "zero",
    }
    /// Arguments of `web_search`.
    WebSearch {
        /// What is searched for.
        query: String,
        /// Most results.
        count: u64 = "ten_results",
    }
    /// Arguments of `write_file`.
    WriteFile {
        /// The file.
        path: String,
        /// All of it.
        content: String,
    }
}

/// What `process` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named as models know them")]
pub enum ProcessAction {
    Wait,
    Write,
    Kill,
}

/// What `process` with `wait` waits for, until its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// The end of the process.
    #[default]
    Exit,
    /// Any output.
    Output,
}

/// What `web_fetch` converts a page to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named as models know them")]
pub enum Format {
    #[default]
    Markdown,
    Text,
    Html,
}

fn no() -> bool {
    false
}

fn zero() -> u64 {
    0
}

fn one() -> u64 {
    1
}

fn ten_results() -> u64 {
    10
}

fn hundred() -> u64 {
    100
}

fn two_hundred() -> u64 {
    200
}

fn two_thousand() -> u64 {
    2000
}

fn ten() -> f64 {
    10.0
}

fn sixty() -> f64 {
    60.0
}

fn six_hundred() -> f64 {
    600.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Call, Exec, effects_of, lock_of};
    use crate::{builtin, lock::Lock};

    #[test]
    fn defaults_are_those_of_the_reference() {
        let call = Call::new("exec", json!({"command": "ls"})).unwrap();
        let expected = Exec {
            command: "ls".to_owned(),
            workdir: None,
            tty: false,
            stdin: None,
            wait_s: 10.0,
            timeout_s: 600.0,
            background: false,
        };
        assert_eq!(call, Call::Exec(expected));
        assert!(matches!(Call::new("find", json!({"glob": "*"})).unwrap(), Call::Find(find) if find.limit == 200));
        assert!(
            matches!(Call::new("grep", json!({"pattern": "a"})).unwrap(), Call::Grep(grep) if grep.limit == 100 && grep.context == 0)
        );
        assert!(
            matches!(Call::new("read_file", json!({"path": "a"})).unwrap(), Call::ReadFile(read) if read.offset == 1 && read.limit == 2000)
        );
        assert!(Call::new("nope", json!({})).is_err());
    }

    /// A tool that the table has and this enum lacks could never be called.
    #[test]
    fn every_built_in_tool_has_its_type() {
        for tool in crate::builtins() {
            let error = Call::new(tool.name(), json!(null)).unwrap_err();
            assert_eq!(error.code, crate::Code::InvalidArguments, "{}", tool.name());
        }
    }

    #[test]
    fn a_message_to_the_own_conversation_reaches_nobody_else() {
        let message = builtin("message").unwrap();
        assert!(effects_of(message, &json!({"text": "a"})).stay_inside());
        assert!(!effects_of(message, &json!({"text": "a", "to": "bo"})).stay_inside());
        assert!(!effects_of(builtin("web_fetch").unwrap(), &json!({"url": "a"})).stay_inside());
    }

    #[test]
    fn writers_hold_the_files_they_name() {
        let lock = lock_of(
            builtin("edit_file").unwrap(),
            &json!({"path": "./a//b", "old_string": "x", "new_string": "y"}),
        );
        assert_eq!(lock, Lock::Write(vec!["a/b".to_owned()]));
        let patch =
            "*** Begin Patch\n*** Add File: a\n+x\n*** Update File: b\n*** Move to: c\n@@\n-x\n+y\n*** End Patch";
        let lock = lock_of(builtin("apply_patch").unwrap(), &json!({"patch": patch}));
        assert_eq!(lock, Lock::Write(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
        assert_eq!(lock_of(builtin("exec").unwrap(), &json!({"command": "ls"})), Lock::Exec);
    }
}
