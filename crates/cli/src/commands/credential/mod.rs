//! `nexus credential`: accounts and where their secrets are stored, checked and replaced.
//!
//! A secret comes from the terminal without echo or from standard input, and goes to its store or to a pipe; it is
//! never an argument, never in a table, and never in a message.

mod add;
pub mod args;
mod ask;
mod get;
mod import;
mod list;
mod scan;
mod storage;
mod verify;

use std::time::Duration;

use nexus_credential::{Error, Kind, Resolver, Shell, Store};

use self::args::CredentialCommand;
use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::Output,
};

/// A store may ask a person for permission.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(context: &Context, command: CredentialCommand, output: &Output) -> Result<Exit, Failure> {
    // The secrets that pass through are as much worth as those a daemon holds.
    nexus_credential::protect::process().map_err(|error| Failure::new(Exit::Failed, error))?;
    match command {
        CredentialCommand::Add(args) => add::add(&resolver(context, PATIENCE)?, *args, output).await,
        CredentialCommand::Get(args) => get::run(&resolver(context, args.timeout)?, &args, output).await,
        CredentialCommand::List(args) => list::run(&store(context), &args, output),
        CredentialCommand::Verify(args) => verify::run(&resolver(context, args.timeout)?, &args, output).await,
        CredentialCommand::Scan(args) => scan::run(&resolver(context, PATIENCE)?, &args, output).await,
        CredentialCommand::Import(args) => import::run(&resolver(context, PATIENCE)?, &args, output).await,
        CredentialCommand::Remove(args) => add::remove(&resolver(context, PATIENCE)?, &args, output).await,
        CredentialCommand::Rotate(args) => add::rotate(&resolver(context, PATIENCE)?, &args, output).await,
        CredentialCommand::Sync => verify::sync(&resolver(context, PATIENCE)?, output).await,
    }
}

fn store(context: &Context) -> Store {
    Store::at(context.root.credential_dir())
}

fn resolver(context: &Context, timeout: Duration) -> Result<Resolver, Failure> {
    let shell = Shell::from_environment().map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    Ok(Resolver::new(store(context), shell).deadline(timeout))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match error.kind {
            Kind::NotFound => Exit::NotFound,
            Kind::Locked => Exit::Locked,
            Kind::Denied => Exit::Refused,
            Kind::MissingProvider => Exit::NoProvider,
            Kind::Timeout => Exit::TimedOut,
            Kind::Malformed => Exit::Malformed,
            Kind::Expired => Exit::Expired,
            Kind::Failed => Exit::Failed,
        };
        let failure = Failure::new(exit, error.to_string());
        match error.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
