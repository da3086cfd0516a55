//! The context of a command: the tree, the orchestrator's address, and timeouts of calls.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nexus_client::{Address, Channel, Connection, Options};
use nexus_config::{ORCHESTRATOR_SOCKET, Root, Sources};
use nexus_proto::orchestrator::v1::{
    approval_service_client::ApprovalServiceClient, run_service_client::RunServiceClient,
};
use serde::Deserialize;

use crate::{
    args::Global,
    failure::{Exit, Failure},
    output::Output,
};

/// What to do about a wrong config: most commands stop; what only looks or stops things shows it and goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistakes {
    Fail,
    Show,
}

#[derive(Debug)]
pub struct Context {
    pub root: Root,
    pub orchestrator: Address,
    pub options: Options,
    /// The orchestrator's socket as told on the command line, for the daemons that we start.
    pub told: Option<PathBuf>,
}

/// What the command reads of `[common]`.
#[derive(Debug, Deserialize)]
struct Shared {
    orchestrator: PathBuf,
    dial_timeout: Duration,
    rpc_timeout: Duration,
    max_message_bytes: u64,
    require_token: bool,
}

impl Context {
    pub fn resolve(global: &Global, mistakes: Mistakes, output: &Output) -> Result<Context, Failure> {
        let root = Root::resolve(global.root.as_deref()).map_err(|e| Failure::new(Exit::Config, e.to_string()))?;
        let schema = nexus_config::common();
        let loaded = nexus_config::read(&[&schema], &Sources::new(&root).with_process_env());
        if !loaded.mistakes.is_empty() {
            let said = loaded.mistakes.to_string();
            match mistakes {
                Mistakes::Fail => return Err(Failure::new(Exit::Config, said).hint("correct it, then try again")),
                Mistakes::Show => output.warn(&said),
            }
        }
        let settings = loaded.settings.first().expect("one table gives one section");
        let shared: Shared = settings
            .extract()
            .map_err(|e| Failure::new(Exit::Config, e.to_string()))?;
        let (orchestrator, told) = match &global.socket {
            Some(text) => address(text)?,
            None => (Address::Unix(shared.orchestrator), None),
        };
        let options = Options {
            dial_timeout: shared.dial_timeout,
            rpc_timeout: shared.rpc_timeout,
            max_message_bytes: usize::try_from(shared.max_message_bytes).unwrap_or(usize::MAX),
            token: std::env::var("NEXUS_TOKEN").ok().filter(|token| !token.is_empty()),
            own_token: shared.require_token.then(|| root.own_token_file()),
            ..Options::default()
        };
        Ok(Context {
            root,
            orchestrator,
            options,
            told,
        })
    }

    pub fn connection(&self) -> Connection {
        Connection::lazy(&self.orchestrator, &self.options)
    }

    /// The orchestrator's socket here; `None` if it is somewhere else, over TCP.
    pub fn orchestrator_socket(&self) -> Option<&Path> {
        match &self.orchestrator {
            Address::Unix(path) => Some(path),
            Address::Tcp(..) => None,
        }
    }

    /// For commands that start and stop daemons, which only works where they are.
    pub fn local(&self) -> Result<&Path, Failure> {
        self.orchestrator_socket().ok_or_else(|| {
            Failure::usage(format!("{} is not a socket of this machine", self.orchestrator)).hint(format!(
                "leave --socket out, or give it a path such as {ORCHESTRATOR_SOCKET}"
            ))
        })
    }
}

/// A client of `orchestrator.v1.RunService`, with the message limits of the options.
pub fn runs(connection: &Connection) -> RunServiceClient<Channel> {
    RunServiceClient::new(connection.channel()).max_decoding_message_size(connection.options().max_message_bytes)
}

/// A client of `orchestrator.v1.ApprovalService`, with the message limits of the options.
pub fn approvals(connection: &Connection) -> ApprovalServiceClient<Channel> {
    ApprovalServiceClient::new(connection.channel()).max_decoding_message_size(connection.options().max_message_bytes)
}

fn address(text: &str) -> Result<(Address, Option<PathBuf>), Failure> {
    match text
        .parse::<Address>()
        .map_err(|error| Failure::usage(error.to_string()))?
    {
        Address::Unix(path) => {
            let path = std::path::absolute(&path).map_err(|error| Failure::file("find", &path, &error))?;
            Ok((Address::Unix(path.clone()), Some(path)))
        }
        other => Ok((other, None)),
    }
}
