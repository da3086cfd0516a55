//! What commands say to the supervisor, and hear from it: one line of JSON as the question, then snapshots, one a line.
//!
//! The supervisor listens on `state/run/supervisor.sock`, 0600, and hears its own user and root only; a command checks
//! in turn whose process answers.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixStream, unix::OwnedReadHalf},
    time::timeout,
};

use super::model::Snapshot;
use crate::failure::{Exit, Failure};

/// Both must mean the same by a question and its answer.
pub const PROTOCOL: u32 = 1;

/// A supervisor that takes longer for its first word hangs.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub protocol: u32,
    #[serde(flatten)]
    pub action: Action,
    /// All if empty.
    #[serde(default)]
    pub services: Vec<String>,
    /// After the first snapshot one for each change, until the asker leaves.
    #[serde(default)]
    pub follow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    Status,
    Start,
    Stop {
        budget_ms: Option<u64>,
    },
    Restart,
    Enable,
    Disable,
    /// Stop everything, then end.
    Shutdown {
        budget_ms: Option<u64>,
    },
    /// Become this program, another version of `nexus`: same process, same sockets, same daemons.
    HandOver {
        program: PathBuf,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Snapshot(Box<Snapshot>),
    Refused {
        exit: u8,
        message: String,
        hint: Option<String>,
    },
}

impl Request {
    pub fn new(action: Action, services: &[String]) -> Request {
        Request {
            protocol: PROTOCOL,
            action,
            services: services.to_vec(),
            follow: false,
        }
    }

    pub fn follow(mut self) -> Request {
        self.follow = true;
        self
    }
}

/// Snapshots as they come.
#[derive(Debug)]
pub struct Conversation {
    lines: BufReader<OwnedReadHalf>,
    _asking: tokio::net::unix::OwnedWriteHalf,
}

/// `None` if no supervisor runs.
pub async fn dial(socket: &Path) -> Result<Option<UnixStream>, Failure> {
    if let Some(reason) = nexus_config::socket_path_too_long(socket) {
        return Err(Failure::new(Exit::Config, reason));
    }
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Failure::new(
                Exit::Refused,
                format!("{} belongs to another user", socket.display()),
            ));
        }
        Err(error) => return Err(Failure::file("connect to", socket, &error)),
    };
    let uid = stream
        .peer_cred()
        .map_err(|error| Failure::file("ask who answers at", socket, &error))?
        .uid();
    if uid != nix::unistd::geteuid().as_raw() && uid != 0 {
        return Err(Failure::new(
            Exit::Refused,
            format!("{} is answered by uid {uid}, which is not you", socket.display()),
        ));
    }
    Ok(Some(stream))
}

impl Conversation {
    /// `None` if it ends at this very moment.
    pub async fn begin(stream: UnixStream, request: &Request) -> Result<Option<(Conversation, Snapshot)>, Failure> {
        let (lines, mut asking) = stream.into_split();
        let mut line = serde_json::to_vec(request).expect("a request is plain data");
        line.push(b'\n');
        match asking.write_all(&line).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                return Ok(None);
            }
            Err(error) => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("failed to send to the supervisor: {error}"),
                ));
            }
        }
        let mut conversation = Conversation {
            lines: BufReader::new(lines),
            _asking: asking,
        };
        let late = |_| {
            Failure::new(Exit::TimedOut, "the supervisor does not answer")
                .hint("end it by its process id; the daemons keep running, and the next nexus up finds them again")
        };
        let first = timeout(PATIENCE, conversation.next()).await.map_err(late)??;
        Ok(first.map(|first| (conversation, first)))
    }

    /// `None` once the supervisor has ended.
    pub async fn next(&mut self) -> Result<Option<Snapshot>, Failure> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).await;
        match read {
            Ok(0) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("failed to read the supervisor's answer: {error}"),
                ));
            }
            Ok(_) => {}
        }
        let answer = serde_json::from_str(&line).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("the supervisor's answer has an unknown format: {error}"),
            )
            .hint("it is of another version; stop it with its own nexus: nexus down")
        })?;
        match answer {
            Answer::Snapshot(snapshot) => Ok(Some(*snapshot)),
            Answer::Refused { exit, message, hint } => Err(Failure {
                hint,
                ..Failure::new(Exit::of(exit), message)
            }),
        }
    }
}
