//! The tree of commands, as `--help` and the completions show it.

use clap::{CommandFactory, Parser, Subcommand};
use nexus_config::services;

use crate::args::{
    ChatArgs, DownArgs, EventsArgs, ForegroundArgs, Global, LogsArgs, ModelsArgs, ServiceChangeArgs, ServiceStatusArgs,
    SessionCommand, StatusArgs, TokenCommand, UpArgs,
};

const EXITS: &str = "\
Exit codes:
    0  done
    1  it did not work; of `status`: a service is degraded or has failed
    2  wrong usage
    3  not running (the orchestrator, or a service asked for by name)
    4  not found
    5  refused: no permission, or the socket belongs to another user
    6  timed out
    7  of a credential: its store is locked
    8  of a credential: its store is not installed, or does not run
    9  of a credential: what was found is no secret
   10  of a credential: it has expired
   11  of an upgrade: the new version did not work, and the one before is back
   12  of an upgrade: neither version works as it did before
   13  of a run: it was stopped, by nexus stop or /stop
   14  of a run: it reached a limit (--max-steps, --budget, a budget of the settings)
   65  a store that this version cannot work with
   78  the config is wrong
  130  interrupted

Environment:
  NEXUS_ROOT        the tree everything lives in (default ~/nexus)
  GRPC_SOCKET_PATH  the orchestrator's socket (default /tmp/baaaht-grpc.sock)
  NEXUS_TOKEN       a bearer token, for an address that wants one
  NEXUS_BIN_DIR     where the daemons' programs are, if not beside this one
  NO_COLOR          no colours";

/// Runs AI agents on your own machine: starts the daemons, talks to the assistant, shows what is there.
#[derive(Debug, Parser)]
#[command(name = "nexus", version, after_help = EXITS, propagate_version = false)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the daemons and wait until they are ready
    Up(UpArgs),
    /// Stop the daemons
    Down(DownArgs),
    /// Show the status of the daemons
    Status(StatusArgs),
    /// Show, start and stop single services, and read their logs
    #[command(subcommand, visible_alias = "service")]
    Services(ServicesCommand),
    /// Run the supervisor in the foreground; `nexus up` runs it in the background
    Supervise,
    /// Run the gateway in the foreground, with these arguments
    GatewayDaemon(ForegroundArgs),
    /// Run the cloud daemon in the foreground, with these arguments
    Cloud(ForegroundArgs),
    /// Run the skills hub in the foreground, with these arguments
    Hub(ForegroundArgs),
    /// Run the collaboration daemon in the foreground, with these arguments
    Collab(ForegroundArgs),
    /// Find, install and update skills of the hub
    Skills(ForegroundArgs),
    /// Talk to the assistant
    Chat(ChatArgs),
    /// Give an agent one task, and follow it to its end
    Run(crate::run::RunArgs),
    /// List, show and call tools, and add your own
    #[command(subcommand, visible_alias = "tool")]
    Tools(crate::commands::tools::ToolsCommand),
    /// Decide what agents may do that has an effect outside of their sandbox
    #[command(subcommand, visible_alias = "approval")]
    Approvals(crate::commands::approvals::ApprovalsCommand),
    /// List runs and show what they did
    #[command(subcommand)]
    Runs(crate::commands::runs::RunsCommand),
    /// Show what models have used: tokens and money
    Usage(crate::commands::usage::UsageArgs),
    /// Stop what agents do: in a session, of an agent, or everything
    Stop(crate::commands::stop::StopArgs),
    /// Let agents go on after nexus stop --agent or --all
    Resume(crate::commands::stop::ResumeArgs),
    /// List, show, search, close, delete and export conversations
    #[command(subcommand, visible_alias = "session")]
    Sessions(SessionCommand),
    /// Read the event log
    Events(EventsArgs),
    /// Run commands in containers, and manage containers
    #[command(subcommand, visible_alias = "container")]
    Containers(crate::commands::containers::ContainersCommand),
    /// Manage container images
    #[command(subcommand, visible_alias = "image")]
    Images(crate::commands::images::ImagesCommand),
    /// List registered agents
    Agents,
    /// List models, and keep the keys of their providers
    Models(ModelsArgs),
    /// Create and revoke bearer tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Store the secrets that daemons use, or refer to where they are stored
    #[command(subcommand, visible_alias = "credentials")]
    Credential(crate::commands::credential::args::CredentialCommand),
    /// Read and change settings, checked by the daemons that use them
    Config(crate::commands::config::ConfigArgs),
    /// Check everything the daemons depend on, and say how to fix what is wrong
    Doctor(crate::doctor::DoctorArgs),
    /// Back up the state to one file, and restore it
    Backup(crate::commands::backup::BackupArgs),
    /// Install another version, and roll back automatically if it does not become ready
    Upgrade(crate::upgrade::UpgradeArgs),
    /// Remove the files that Nexus created; only lists them unless --confirm is given
    Reset(crate::commands::reset::ResetArgs),
    /// Create the directories and a settings file
    Init(crate::commands::init::InitArgs),
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
    /// Print the manual, page by page, for packages
    #[command(hide = true)]
    Manual,
}

/// Commands that need a daemon, by its program.
const OF_A_DAEMON: [(&str, &str); 5] = [
    ("gateway-daemon", "nexus-gateway"),
    ("cloud", "nexus-cloud"),
    ("hub", "nexus-hub"),
    ("skills", "nexus-hub"),
    ("collab", "nexus-collab"),
];

/// The tree of commands, without those whose daemon is not part of this build. They stay known, to say so.
pub fn command() -> clap::Command {
    let of_this_build = |binary: &str| services::SERVICES.iter().any(|service| service.binary == binary);
    let mut command = Cli::command();
    for (verb, _) in OF_A_DAEMON.into_iter().filter(|(_, binary)| !of_this_build(binary)) {
        command = command.mut_subcommand(verb, |verb| verb.hide(true));
    }
    command
}

/// The services are orchestrator, llm, agent-assistant, agent-worker and gateway. A supervisor keeps them running; it is started by
/// `nexus up` and by the commands here that need it.
#[derive(Debug, Subcommand)]
pub enum ServicesCommand {
    /// Show each service as the supervisor last saw it; exits with 1 if one is not in its desired state
    Status(ServiceStatusArgs),
    /// Start services and their dependencies, and wait until they are ready
    Start(ServiceChangeArgs),
    /// Stop services, dependents first; they stay stopped until they are started again
    Stop(ServiceChangeArgs),
    /// Restart services; clients that connect meanwhile wait
    Restart(ServiceChangeArgs),
    /// Let `nexus up` start these services again
    Enable(ServiceChangeArgs),
    /// Stop these services, and have `nexus up` skip them
    Disable(ServiceChangeArgs),
    /// Show the logs of the services, ordered by time
    Logs(LogsArgs),
    /// Write units of the init system (systemd, launchd), enable them, and start everything
    Install(crate::units::args::InstallArgs),
    /// Stop everything and remove the units; the data of the daemons stays
    Uninstall(crate::units::args::UninstallArgs),
    /// Succeed if no process listens on a socket; the units check this before they bind it
    #[command(hide = true)]
    Claim(crate::units::args::ClaimArgs),
    /// Replace this process by a service's daemon, for launchd
    #[command(hide = true)]
    Exec(crate::units::args::ExecArgs),
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wait_may_stand_alone_or_bring_a_time() {
        let wait = |line: &[&str]| match Cli::try_parse_from(line).unwrap().command {
            Command::Up(args) => args.wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(&["nexus", "up"]), Duration::from_secs(30));
        assert_eq!(wait(&["nexus", "up", "--wait"]), Duration::from_secs(30));
        assert_eq!(wait(&["nexus", "up", "--wait", "2s"]), Duration::from_secs(2));
    }

    #[test]
    fn help_names_no_command_whose_daemon_is_not_part_of_this_build() {
        let help = command().render_long_help().to_string();
        let lists = |verb: &str| {
            help.lines()
                .any(|line| line.trim_start().starts_with(&format!("{verb} ")))
        };
        for (verb, binary) in OF_A_DAEMON {
            let built = services::SERVICES.iter().any(|service| service.binary == binary);
            assert_eq!(lists(verb), built, "{verb}");
            // It stays known, to say that it is not there.
            assert!(command().try_get_matches_from(["nexus", verb]).is_ok(), "{verb}");
        }
        assert!(lists("chat") && lists("up"));
    }

    #[test]
    fn every_exit_code_is_documented() {
        use crate::failure::Exit;
        let all = [
            Exit::Ok,
            Exit::Failed,
            Exit::Usage,
            Exit::NotRunning,
            Exit::NotFound,
            Exit::Refused,
            Exit::TimedOut,
            Exit::Locked,
            Exit::NoProvider,
            Exit::Malformed,
            Exit::Expired,
            Exit::Returned,
            Exit::Stuck,
            Exit::Stopped,
            Exit::Limit,
            Exit::Data,
            Exit::Config,
            Exit::Interrupted,
        ];
        for exit in all {
            let number = format!("{:>5}  ", exit as u8);
            assert!(
                EXITS.lines().any(|line| line.starts_with(&number)),
                "{exit:?} is not in --help"
            );
        }
    }
}
