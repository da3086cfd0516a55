//! Accounts and their secrets: where they are, whether they resolve, and how they are replaced.
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
    failure::{Exit, Failure},
    output::Output,
    place::Place,
};

/// A store may ask a person for permission.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn run(place: &Place, command: CredentialCommand, output: &Output) -> Result<Exit, Failure> {
    // The secrets that pass through are as much worth as those a daemon holds.
    nexus_credential::protect::process().map_err(|error| Failure::new(Exit::Failed, error))?;
    match command {
        CredentialCommand::Add(args) => add::add(&resolver(place, PATIENCE)?, *args, output).await,
        CredentialCommand::Get(args) => get::run(&resolver(place, args.timeout)?, &args, output).await,
        CredentialCommand::List(args) => list::run(&store(place), &args, output),
        CredentialCommand::Verify(args) => verify::run(&resolver(place, args.timeout)?, &args, output).await,
        CredentialCommand::Scan(args) => scan::run(&resolver(place, PATIENCE)?, &args, output).await,
        CredentialCommand::Import(args) => import::run(&resolver(place, PATIENCE)?, &args, output).await,
        CredentialCommand::Remove(args) => add::remove(&resolver(place, PATIENCE)?, &args, output).await,
        CredentialCommand::Rotate(args) => add::rotate(&resolver(place, PATIENCE)?, &args, output).await,
        CredentialCommand::Sync => verify::sync(&resolver(place, PATIENCE)?, output).await,
    }
}

fn store(place: &Place) -> Store {
    Store::at(place.root.credential_dir())
}

fn resolver(place: &Place, timeout: Duration) -> Result<Resolver, Failure> {
    let shell = Shell::from_environment().map_err(|error| Failure::new(Exit::Config, error.to_string()))?;
    Ok(Resolver::new(store(place), shell).deadline(timeout))
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
