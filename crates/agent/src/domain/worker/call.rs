//! What a task asks for: a tool, its arguments, and the files that it may use.

use std::path::PathBuf;
use std::time::Duration;

use nexus_proto::agent::v1::{Task, TaskConfig, TaskType};
use serde::{Deserialize, Serialize};

use super::older;

/// Where the session's own files are, as commands and models name it.
pub const WORKSPACE: &str = "/workspace";

/// One call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub task_id: String,
    /// By which the call is found again after a restart; that of the task where no run made it.
    pub call_id: String,
    pub session_id: String,
    pub tool: String,
    /// JSON, as it came.
    pub arguments: String,
    /// The program of a tool that a user defined.
    pub program: Vec<String>,
    /// A worker of the older protocol wrote over files without having seen them.
    pub overwrites: bool,
    pub timeout: Option<Duration>,
    pub place: Place,
}

/// The files of a session, and whose they are. Nothing of it is believed unless the orchestrator says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// On the host; `None`: the session's directory below the workspaces of this installation.
    pub workspace: Option<PathBuf>,
    pub mounts: Vec<Mount>,
    /// Who owns what is written; `None`: whoever owns the workspace.
    pub owner: Option<(u32, u32)>,
    /// Who made the session: to whom a workspace is given that is not there yet.
    pub creator: String,
    /// Empty: the host's own programs.
    pub image: String,
    /// Relative to the workspace, or absolute inside; empty: the workspace.
    pub directory: String,
    pub environment: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: PathBuf,
    pub target: PathBuf,
    #[serde(default)]
    pub read_only: bool,
}

/// Parameters of a task that the orchestrator sets.
mod parameter {
    pub const WORKSPACE: &str = "workspace";
    pub const MOUNTS: &str = "mounts";
    pub const USER: &str = "user";
    pub const IMAGE: &str = "image";
    pub const OWNER: &str = "owner";
}

/// The most mounts of a session.
const MOST_MOUNTS: usize = 64;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Mistake {
    #[error("the task has no configuration")]
    NoConfig,
    #[error("the task names no session")]
    NoSession,
    #[error("{0:?} cannot be a session's id")]
    BadSession(String),
    #[error("{0:?} is no operation of a worker")]
    Unknown(String),
    #[error("the parameter {0} cannot be read")]
    Parameter(&'static str),
    #[error("the arguments are not UTF-8 text")]
    NotText,
}

impl Call {
    pub fn of(task: &Task) -> Result<Call, Mistake> {
        let config = task.config.as_ref().ok_or(Mistake::NoConfig)?;
        let session_id = task.session_id.clone();
        if session_id.is_empty() {
            return Err(Mistake::NoSession);
        }
        if !is_plain(&session_id) {
            return Err(Mistake::BadSession(session_id.chars().take(80).collect()));
        }
        // Only the orchestrator sets it: a client's request has no place for it.
        let of_a_call = !task.call_id.is_empty();
        let asked = if of_a_call || !config.input_data.is_empty() {
            older::Operation {
                tool: config.command.clone(),
                arguments: String::from_utf8(config.input_data.to_vec()).map_err(|_| Mistake::NotText)?,
                overwrites: false,
            }
        } else {
            older::read(config, task.r#type() == TaskType::CodeExecution)
                .ok_or_else(|| Mistake::Unknown(config.command.chars().take(80).collect()))?
        };
        Ok(Call {
            task_id: task.id.clone(),
            call_id: if of_a_call && is_plain(&task.call_id) {
                task.call_id.clone()
            } else {
                task.id.clone()
            },
            session_id,
            tool: asked.tool,
            arguments: asked.arguments,
            overwrites: asked.overwrites,
            program: if of_a_call {
                config.arguments.clone()
            } else {
                Vec::new()
            },
            timeout: u64::try_from(config.timeout_ns)
                .ok()
                .filter(|ns| *ns > 0)
                .map(Duration::from_nanos),
            place: place(config, of_a_call)?,
        })
    }
}

fn place(config: &TaskConfig, trusted: bool) -> Result<Place, Mistake> {
    let mut environment: Vec<(String, String)> = config.environment.clone().into_iter().collect();
    environment.sort();
    let mut place = Place {
        directory: config.working_directory.clone(),
        environment,
        ..Place::default()
    };
    if !trusted {
        return Ok(place);
    }
    let given = |name: &str| config.parameters.get(name).filter(|value| !value.is_empty());
    place.workspace = given(parameter::WORKSPACE)
        .map(PathBuf::from)
        .map(|path| {
            if path.is_absolute() {
                Ok(path)
            } else {
                Err(Mistake::Parameter(parameter::WORKSPACE))
            }
        })
        .transpose()?;
    if let Some(mounts) = given(parameter::MOUNTS) {
        let mounts: Vec<Mount> = serde_json::from_str(mounts).map_err(|_| Mistake::Parameter(parameter::MOUNTS))?;
        let fine = |mount: &Mount| mount.source.is_absolute() && mount.target.is_absolute();
        if mounts.len() > MOST_MOUNTS || !mounts.iter().all(fine) {
            return Err(Mistake::Parameter(parameter::MOUNTS));
        }
        place.mounts = mounts;
    }
    if let Some(user) = given(parameter::USER) {
        let (uid, gid) = user.split_once(':').ok_or(Mistake::Parameter(parameter::USER))?;
        let number = |text: &str| text.parse().map_err(|_| Mistake::Parameter(parameter::USER));
        place.owner = Some((number(uid)?, number(gid)?));
    }
    place.creator = given(parameter::OWNER).cloned().unwrap_or_default();
    place.image = given(parameter::IMAGE).cloned().unwrap_or_default();
    Ok(place)
}

/// Whether an id can be a file's name.
pub fn is_plain(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn task(command: &str, parameters: &[(&str, &str)]) -> Task {
        Task {
            id: "t-1".into(),
            session_id: "s-1".into(),
            config: Some(TaskConfig {
                command: command.into(),
                parameters: parameters
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect::<HashMap<_, _>>(),
                ..TaskConfig::default()
            }),
            ..Task::default()
        }
    }

    /// A caller who may execute tasks names somebody else's directory as the session's workspace.
    #[test]
    fn only_the_orchestrator_says_which_files_a_call_may_use() {
        let parameters = [
            ("workspace", "/etc"),
            ("mounts", r#"[{"source":"/","target":"/host"}]"#),
            ("user", "0:0"),
            ("image", "x"),
            ("path", "passwd"),
        ];
        let mut task = task("read_file", &parameters);
        assert_eq!(Call::of(&task).unwrap().place, Place::default());
        task.call_id = "c".into();
        let call = Call::of(&task).unwrap();
        assert_eq!(call.call_id, "c");
        assert_eq!(call.place.workspace, Some("/etc".into()));
        assert_eq!(call.place.owner, Some((0, 0)));
        assert_eq!(call.place.mounts.len(), 1);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for session in ["", "..", "a/b", "a b"] {
            let mut task = task("cat", &[("path", "x")]);
            task.session_id = session.into();
            assert!(Call::of(&task).is_err(), "{session:?}");
        }
        assert_eq!(
            Call::of(&task("dance", &[])).unwrap_err(),
            Mistake::Unknown("dance".into())
        );
        let mut made = task("exec", &[("user", "me")]);
        made.call_id = "c".into();
        assert_eq!(Call::of(&made).unwrap_err(), Mistake::Parameter("user"));
        made.config = None;
        assert_eq!(Call::of(&made).unwrap_err(), Mistake::NoConfig);
    }
}
