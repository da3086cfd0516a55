//! The `nexus` command: starts and stops the daemons, talks to the assistant, and shows what is there.
//!
//! It keeps no state of its own but the history of the prompt, and decides nothing that a daemon decides: every fact
//! it shows comes from a socket or from the files under `NEXUS_ROOT`.

mod args;
mod backup;
mod chat;
mod cli;
mod commands;
mod context;
mod doctor;
mod environment;
mod failure;
mod output;
mod run;
mod running;
mod services;
mod settings;
mod supervise;
mod units;
mod upgrade;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::{
    args::{Global, SessionCommand},
    cli::{Cli, Command, ServicesCommand},
    context::{Context, Mistakes},
    environment::Environment,
    failure::{Exit, Failure},
    output::Output,
};

fn main() -> ExitCode {
    if let Some(failed) = supervise::detach::run_if_asked() {
        return failed;
    }
    let cli = match Cli::from_arg_matches(&cli::command().get_matches()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let output = Output::new(cli.global.json);
    let environment = match &cli.command {
        Command::Supervise => match environment::seclude() {
            Ok(environment) => environment,
            Err(error) => {
                let failure = Failure::new(Exit::Failed, format!("failed to keep the environment apart: {error}"));
                return output.fail(&failure).into();
            }
        },
        _ => Environment::of_process(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(cli, environment, &output));
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

async fn run(cli: Cli, environment: Environment, output: &Output) -> Result<Exit, Failure> {
    let strict = |mistakes| Context::resolve(&cli.global, mistakes, output);
    match cli.command {
        Command::Up(args) => services::up::run(&strict(Mistakes::Fail)?, &args, output).await,
        Command::Down(args) => services::down::run(&strict(Mistakes::Show)?, &args, output).await,
        Command::Status(args) => commands::status::run(&strict(Mistakes::Show)?, &args, output).await,
        Command::Services(command) => service(command, &cli.global, output).await,
        Command::Supervise => supervise::run(strict(Mistakes::Fail)?, environment).await,
        Command::GatewayDaemon(args) => Err(services::foreground::run(
            &strict(Mistakes::Show)?,
            "nexus-gateway",
            &args.args,
        )),
        Command::Cloud(args) => Err(services::foreground::run(
            &strict(Mistakes::Show)?,
            "nexus-cloud",
            &args.args,
        )),
        Command::Hub(args) => Err(services::foreground::run(
            &strict(Mistakes::Show)?,
            "nexus-hub",
            &args.args,
        )),
        Command::Collab(args) => Err(services::foreground::run(
            &strict(Mistakes::Show)?,
            "nexus-collab",
            &args.args,
        )),
        Command::Skills(_) => Err(services::foreground::not_here("nexus-hub")),
        Command::Chat(args) => chat::run(&strict(Mistakes::Fail)?, args, output).await,
        Command::Run(args) => run::run(&strict(Mistakes::Fail)?, args, output).await,
        Command::Tools(command) => commands::tools::run(&strict(Mistakes::Fail)?, command, output).await,
        Command::Approvals(command) => commands::approvals::run(&strict(Mistakes::Fail)?, command, output).await,
        Command::Runs(command) => commands::runs::run(&strict(Mistakes::Fail)?, command, output).await,
        Command::Usage(args) => commands::usage::run(&strict(Mistakes::Fail)?, args, output).await,
        Command::Stop(args) => commands::stop::stop(&strict(Mistakes::Show)?, &args, output).await,
        Command::Resume(args) => commands::stop::resume(&strict(Mistakes::Show)?, &args, output).await,
        Command::Containers(command) => commands::containers::run(&strict(Mistakes::Fail)?, command, output).await,
        Command::Images(command) => commands::images::run(&strict(Mistakes::Fail)?, command, output).await,
        Command::Sessions(command) => {
            let context = strict(Mistakes::Fail)?;
            match command {
                SessionCommand::List(args) => commands::sessions::list(&context, &args, output).await,
                SessionCommand::Show(args) => commands::sessions::show(&context, &args, output).await,
                SessionCommand::Search(args) => commands::search::run(&context, &args, output).await,
                SessionCommand::Close(args) => commands::sessions::close(&context, &args, output).await,
                SessionCommand::Delete(args) => commands::delete::delete(&context, &args, output).await,
                SessionCommand::Prune(args) => commands::delete::prune(&context, &args, output).await,
                SessionCommand::Export(args) => commands::export::run(&context, &args, output).await,
            }
        }
        Command::Events(args) => commands::events::run(&strict(Mistakes::Fail)?, &args, output).await,
        Command::Agents => commands::agents::run(&strict(Mistakes::Fail)?, output).await,
        Command::Models(args) => commands::models::run(&strict(Mistakes::Fail)?, args, output).await,
        Command::Token(command) => commands::token::run(&strict(Mistakes::Show)?, command, output),
        Command::Config(args) => commands::config::run(&strict(Mistakes::Show)?, args, output).await,
        Command::Init(args) => commands::init::run(&cli.global, &args, output),
        Command::Credential(command) => commands::credential::run(&strict(Mistakes::Show)?, command, output).await,
        Command::Doctor(args) => doctor::run(&strict(Mistakes::Show)?, &args, output).await,
        Command::Backup(args) => commands::backup::run(&strict(Mistakes::Show)?, args, output).await,
        Command::Upgrade(args) => upgrade::run(&strict(Mistakes::Show)?, &args, output).await,
        Command::Reset(args) => commands::reset::run(strict(Mistakes::Show)?, &args, output).await,
        Command::Completion { shell } => commands::completion::run(shell, output),
        Command::Manual => commands::manual::run(),
    }
}

async fn service(command: ServicesCommand, global: &Global, output: &Output) -> Result<Exit, Failure> {
    use services::change::{self, Change};
    let shown = || Context::resolve(global, Mistakes::Show, output);
    let strict = || Context::resolve(global, Mistakes::Fail, output);
    match command {
        ServicesCommand::Status(args) => services::status::run(&shown()?, &args, output).await,
        ServicesCommand::Logs(args) => services::logs::run(&shown()?, &args, output).await,
        ServicesCommand::Start(args) => change::run(&strict()?, Change::Start, &args, output).await,
        ServicesCommand::Stop(args) => change::run(&shown()?, Change::Stop, &args, output).await,
        ServicesCommand::Restart(args) => change::run(&strict()?, Change::Restart, &args, output).await,
        ServicesCommand::Enable(args) => change::run(&shown()?, Change::Enable, &args, output).await,
        ServicesCommand::Disable(args) => change::run(&shown()?, Change::Disable, &args, output).await,
        ServicesCommand::Install(args) => units::install(&strict()?, &args, output).await,
        ServicesCommand::Uninstall(args) => units::uninstall(&args, output).await,
        ServicesCommand::Claim(args) => units::claim::run(&args.path),
        ServicesCommand::Exec(args) => units::launchd::exec::run(&args.service),
    }
}
