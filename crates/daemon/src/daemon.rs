//! The interface between a daemon and this crate: what a daemon declares, and what it is given when it is built.

use std::fmt::Debug;
use std::future::Future;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use nexus_config::{Root, Setting};
use serde::de::DeserializeOwned;

use crate::exit::Exit;
use crate::listener::BindError;
use crate::settings::Common;
use crate::{Health, OwnToken, Services, Stop, Wake};

/// One daemon: a library with this trait, and a `main` that hands over to [`crate::main`].
pub trait Daemon: Sized + 'static {
    /// `"orchestrator"`: the section in the file, the middle of `NEXUS_ORCHESTRATOR__KEY`, the end of `nexus-orchestrator`.
    const NAME: &'static str;
    /// One line for `--help`.
    const ABOUT: &'static str;
    /// A flat struct; its field names are the keys of [`Daemon::settings`].
    type Config: DeserializeOwned + Clone + Debug + Send + Sync + 'static;

    /// The daemon's own settings. One that has the key of a setting every daemon has (`socket_path`) replaces it.
    fn settings() -> Vec<Setting>;

    /// The name of this instance: its socket, log file and health name.
    fn service(_config: &Self::Config) -> String {
        Self::NAME.into()
    }

    /// Where it listens if `socket_path` is not set.
    fn socket(config: &Self::Config, root: &Root) -> std::path::PathBuf {
        root.socket(&Self::service(config))
    }

    /// What is wrong between settings that are each right by themselves; all of it at once.
    fn check(_config: &Self::Config) -> Vec<String> {
        Vec::new()
    }

    /// Opens what it needs and wires its parts. The socket is bound already and answers once this is done.
    fn build(boot: Boot<Self::Config>) -> impl Future<Output = Result<Built<Self::Config>, BootError>> + Send;
}

/// What a daemon is built from.
pub struct Boot<C> {
    /// Its own section of the settings.
    pub config: C,
    /// The section `[common]`.
    pub common: Common,
    /// Where everything of this installation lies.
    pub root: Root,
    /// The name of this instance: `llm`, `agent-assistant`.
    pub service: String,
    /// The socket that is bound, whoever bound it.
    pub socket: PathBuf,
    /// What the daemon tells of itself.
    pub health: Health,
    /// What the daemon shows its neighbours, and they show it, where the settings demand a token of everybody.
    pub own_token: Option<OwnToken>,
    /// Told when it has to stop.
    pub stop: Stop,
    /// Told when the host woke.
    pub wake: Wake,
}

/// Applies a newer config; it differs from the present one in live settings only.
pub type Reload<C> = Box<dyn Fn(&C) + Send + Sync>;

/// What a daemon is once it is built.
pub struct Built<C> {
    /// What it serves.
    pub services: Services,
    /// Applies newer settings that are live.
    pub reload: Option<Reload<C>>,
    /// Runs after the last call has ended, inside the stop budget.
    pub flush: Option<BoxFuture<'static, ()>>,
}

impl<C> Built<C> {
    /// Serves `services`; nothing is reloaded or flushed.
    pub fn new(services: Services) -> Self {
        Built {
            services,
            reload: None,
            flush: None,
        }
    }

    /// Adds what applies newer settings.
    pub fn reload(mut self, apply: impl Fn(&C) + Send + Sync + 'static) -> Self {
        self.reload = Some(Box::new(apply));
        self
    }

    /// Adds what runs after the last call.
    pub fn flush(mut self, flush: impl Future<Output = ()> + Send + 'static) -> Self {
        self.flush = Some(Box::pin(flush));
        self
    }
}

/// Why a daemon did not come up; each kind has its exit code.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The settings are wrong; each mistake is a line.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// A store that is damaged or from a newer version.
    #[error("{0}")]
    Data(String),
    /// Somebody else has the socket.
    #[error("{0}")]
    Taken(String),
    /// Something that should have worked did not.
    #[error("{0}")]
    Failed(String),
}

impl BootError {
    /// The exit code of this kind.
    pub fn exit(&self) -> Exit {
        match self {
            BootError::Config(_) => Exit::Config,
            BootError::Data(_) => Exit::Data,
            BootError::Taken(_) => Exit::Taken,
            BootError::Failed(_) => Exit::Failed,
        }
    }
}

impl From<BindError> for BootError {
    fn from(error: BindError) -> Self {
        let text = chain(&error);
        match error {
            BindError::Taken { .. } | BindError::NotOurs { .. } => BootError::Taken(text),
            BindError::Tcp { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => BootError::Taken(text),
            BindError::NotSocket { .. }
            | BindError::TooLong { .. }
            | BindError::NoGroup(_)
            | BindError::Insecure(_)
            | BindError::Tls(_) => BootError::Config(vec![text]),
            BindError::Activation(_) | BindError::Io { .. } | BindError::Tcp { .. } => BootError::Failed(text),
        }
    }
}

/// The disk, or this user's share of it, has no room.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::{Error, ErrorKind};
    let kind = error.downcast_ref::<Error>().map(Error::kind);
    matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        if is_full(error) {
            text.push_str("; the disk is full: make room there");
        }
        cause = error.source();
    }
    text
}
