//! The `nexus` command: starts and stops the daemons, talks to the assistant, and shows what is there.
//!
//! It keeps no state of its own but the history of the prompt, and decides nothing that a daemon decides: every fact
//! it shows comes from a socket or from the files under `NEXUS_ROOT`.

mod chat;
mod cli;
mod commands;
mod failure;
mod output;
mod place;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command, SessionCommand},
    failure::{Exit, Failure},
    output::Output,
    place::{Mistakes, Place},
};

fn main() -> ExitCode {
    if let Some(failed) = up::detach::run_if_asked() {
        return failed;
    }
    let cli = Cli::parse();
    let output = Output::new(cli.global.json);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(cli, &output));
            // A prompt that waits for a key must not hold the exit.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::new(Exit::Failed, format!("failed to start: {error}"))),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => output.fail(&failure).into(),
    }
}

async fn run(cli: Cli, output: &Output) -> Result<Exit, Failure> {
    let strict = |mistakes| Place::resolve(&cli.global, mistakes, output);
    match cli.command {
        Command::Up(args) => up::start::run(&strict(Mistakes::Fail)?, &args, output).await,
        Command::Down(args) => up::down::run(&strict(Mistakes::Show)?, &args, output).await,
        Command::Status(args) => commands::status::run(&strict(Mistakes::Show)?, &args, output).await,
        Command::Chat(args) => chat::run(&strict(Mistakes::Fail)?, args, output).await,
        Command::Sessions(command) => {
            let place = strict(Mistakes::Fail)?;
            match command {
                SessionCommand::List(args) => commands::sessions::list(&place, &args, output).await,
                SessionCommand::Show(args) => commands::sessions::show(&place, &args, output).await,
                SessionCommand::Close(args) => commands::sessions::close(&place, &args, output).await,
                SessionCommand::Delete(args) => commands::delete::delete(&place, &args, output).await,
                SessionCommand::Prune(args) => commands::delete::prune(&place, &args, output).await,
                SessionCommand::Export(args) => commands::export::run(&place, &args, output).await,
            }
        }
        Command::Events(args) => commands::events::run(&strict(Mistakes::Fail)?, &args, output).await,
        Command::Agents => commands::agents::run(&strict(Mistakes::Fail)?, output).await,
        Command::Models(args) => commands::models::run(&strict(Mistakes::Fail)?, args, output).await,
        Command::Token(command) => commands::token::run(&strict(Mistakes::Show)?, command, output),
        Command::Completion { shell } => commands::completion::run(shell, output),
    }
}
