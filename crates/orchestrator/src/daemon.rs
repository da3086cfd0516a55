//! Builds the orchestrator's parts in order and wires them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nexus_config::services::{Callers, SERVICES};
use nexus_config::{Kind, ORCHESTRATOR_SOCKET, Root, Setting};
use nexus_daemon::{Access, Boot, BootError, Built, Daemon, Services};
use nexus_proto::agent::v1::agent_service_server::AgentServiceServer;
use nexus_proto::orchestrator::v1::approval_service_server::ApprovalServiceServer;
use nexus_proto::orchestrator::v1::container_service_server::ContainerServiceServer;
use nexus_proto::orchestrator::v1::driver_service_server::DriverServiceServer;
use nexus_proto::orchestrator::v1::orchestrator_service_server::OrchestratorServiceServer;
use nexus_proto::orchestrator::v1::run_service_server::RunServiceServer;
use nexus_proto::tool::v1::tool_service_server::ToolServiceServer;
use nexus_store::{Durability, Sqlite};
use serde::Deserialize;

use crate::container_settings::{self, ContainerConfig};
use crate::domain::Rules;
use crate::domain::shares::Shares;
use crate::engine::containers::Containers;
use crate::engine::{Engine, Options};
use crate::remote::front_door::FrontDoor;
use crate::remote::watch::Watch;
use crate::service::{agent, approvals, containers, driver, orchestrator, raw, runs, tool};

#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    socket_path: PathBuf,
    database: PathBuf,
    durability: String,
    max_sessions: usize,
    session_idle_timeout: Duration,
    max_agents: usize,
    assistants: Vec<String>,
    front_door: Vec<String>,
    workers: Vec<String>,
    user_sessions: usize,
    user_agents: usize,
    user_containers: usize,
    user_open_tasks: usize,
    user_stored_bytes: u64,
    user_events_per_minute: u64,
    user_metadata_bytes: u64,
    agent_ttl: Duration,
    forget_agent_after: Duration,
    max_kept_messages: usize,
    kept_message_ttl: Duration,
    max_open_tasks: usize,
    task_timeout: Duration,
    task_expiry: Duration,
    assistant_grace: Duration,
    answer_timeout: Duration,
    turns_per_assistant: usize,
    max_queued_turns: usize,
    event_max_age: Duration,
    event_max_bytes: u64,
    event_memory_bytes: u64,
    low_disk: u64,
    #[serde(flatten)]
    containers: ContainerConfig,
}

/// The daemon behind `nexus-orchestrator`.
#[derive(Debug)]
pub struct Orchestrator;

const COUNT: Kind = Kind::Int {
    min: 1,
    max: 10_000_000,
};

impl Daemon for Orchestrator {
    const NAME: &'static str = "orchestrator";
    const ABOUT: &'static str = "Sessions, messages, events, agents and tasks, durable, over one socket.";
    type Config = Config;

    fn check(config: &Config) -> Vec<String> {
        let mut wrong = container_settings::check(&config.containers);
        for (setting, names) in [
            ("assistants", &config.assistants),
            ("front_door", &config.front_door),
            ("workers", &config.workers),
        ] {
            for name in names.iter().filter(|name| principal(name).is_none()) {
                wrong.push(format!(
                    "orchestrator.{setting}: {name:?} is neither \"uid:<user>\", with a user of this host by number or name, \
                     nor \"token:<id>\""
                ));
            }
        }
        wrong
    }

    fn settings() -> Vec<Setting> {
        let mut all = vec![
            Setting::new(
                "socket_path",
                Kind::Path,
                ORCHESTRATOR_SOCKET,
                "where it listens; existing clients have this",
            )
            .env(&["GRPC_SOCKET_PATH"])
            .flag("grpc-socket-path"),
            Setting::new(
                "database",
                Kind::Path,
                "$NEXUS_ROOT/state/db/orchestrator.db",
                "where it keeps everything",
            ),
            Setting::new(
                "durability",
                Kind::Choice(&["full", "process"]),
                "full",
                "full survives a power cut, process a killed process",
            ),
            Setting::new(
                "max_sessions",
                COUNT,
                "10000",
                "sessions that are active, or idle with an open stream",
            )
            .env(&["MAX_SESSIONS"]),
            Setting::new(
                "session_idle_timeout",
                Kind::Duration,
                "10m",
                "silence after which a session is idle",
            ),
            Setting::new("max_agents", COUNT, "10000", "agents that may be registered"),
            Setting::new(
                "assistants",
                Kind::List,
                "",
                "callers beside administrators that may register as an assistant: uid:<user>, token:<id>",
            ),
            Setting::new(
                "front_door",
                Kind::List,
                "",
                "callers beside administrators whose daemons may serve behind the front door: uid:<user>",
            ),
            Setting::new(
                "workers",
                Kind::List,
                "",
                "callers beside administrators whose workers are given tool calls: uid:<user>, token:<id>",
            ),
            Setting::new(
                "user_sessions",
                COUNT,
                "1000",
                "sessions of one user that are not closed; administrators have no share",
            ),
            Setting::new("user_agents", COUNT, "100", "agents that one user may have registered"),
            Setting::new(
                "user_containers",
                COUNT,
                "250",
                "containers of one user that are not removed, whether or not they have ended",
            ),
            Setting::new("user_open_tasks", COUNT, "1000", "tasks of one user that are not over"),
            Setting::new(
                "user_stored_bytes",
                Kind::Size,
                "1GiB",
                "messages and sessions kept for one user, closed sessions included",
            ),
            Setting::new(
                "user_events_per_minute",
                COUNT,
                "6000",
                "messages that one user sends, and sessions that it makes or changes, in a minute",
            ),
            Setting::new(
                "user_metadata_bytes",
                Kind::Size,
                "64KiB",
                "what a user may say of one session beside its messages, and of one container",
            ),
            Setting::new(
                "agent_ttl",
                Kind::Duration,
                "90s",
                "silence after which an agent is lost",
            ),
            Setting::new(
                "forget_agent_after",
                Kind::Duration,
                "24h",
                "how long a lost agent is remembered",
            ),
            Setting::new(
                "max_kept_messages",
                COUNT,
                "1000",
                "messages kept for an agent that holds no stream",
            ),
            Setting::new(
                "kept_message_ttl",
                Kind::Duration,
                "24h",
                "how long such a message is kept",
            ),
            Setting::new("max_open_tasks", COUNT, "10000", "tasks that are not over"),
            Setting::new(
                "task_timeout",
                Kind::Duration,
                "30m",
                "how long a task may run that does not say",
            ),
            Setting::new(
                "task_expiry",
                Kind::Duration,
                "24h",
                "how long a task may exist before it is given up",
            ),
            Setting::new(
                "assistant_grace",
                Kind::Duration,
                "5s",
                "how long a message waits for an assistant",
            ),
            Setting::new(
                "answer_timeout",
                Kind::Duration,
                "1h",
                "how long an assistant may take for an answer",
            ),
            Setting::new(
                "turns_per_assistant",
                COUNT,
                "64",
                "answers that one assistant works on at once",
            ),
            Setting::new(
                "max_queued_turns",
                COUNT,
                "1000",
                "messages of one session that may wait for answers",
            ),
            Setting::new(
                "event_max_age",
                Kind::Duration,
                "30d",
                "older events are trimmed; messages never are",
            ),
            Setting::new(
                "event_max_bytes",
                Kind::Size,
                "4GiB",
                "a bigger log has its oldest events trimmed",
            ),
            Setting::new(
                "event_memory_bytes",
                Kind::Size,
                "4MiB",
                "newest events kept in memory for readers",
            ),
            Setting::new(
                "low_disk",
                Kind::Size,
                "64MiB",
                "free space below which nothing new is taken",
            ),
        ];
        all.extend(container_settings::settings());
        all
    }

    fn socket(config: &Config, _root: &Root) -> PathBuf {
        config.socket_path.clone()
    }

    async fn build(boot: Boot<Config>) -> Result<Built<Config>, BootError> {
        let config = &boot.config;
        if let Some(directory) = config.database.parent().filter(|d| !d.starts_with(boot.root.path())) {
            made(directory)?;
        }
        let durability = if config.durability == "process" {
            Durability::Process
        } else {
            Durability::Full
        };
        let backend = Arc::new(Sqlite::new(&config.database, durability));
        let engine = Engine::open(
            backend,
            options(config, &boot.root, boot.common.max_message_bytes),
            &boot.stop,
        )
        .map_err(|e| broken(&e))?;
        engine
            .started_up(&boot.service)
            .await
            .map_err(|e| BootError::Failed(format!("failed to note the start: {e}")))?;
        verify_later(&engine, &boot);
        watch_disk(&engine, &boot);
        let watch = Watch::new(engine.clone(), boot.own_token.as_ref());
        tokio::spawn(watch.clone().run(boot.health.clone(), boot.stop.token()));

        engine.follow(&boot.wake);
        let door = FrontDoor::new(engine.clone(), boot.own_token.clone());
        boot.wake.on_wake("daemons", {
            let door = door.clone();
            move |_| {
                door.renew();
                watch.clone().answer_again()
            }
        });
        #[cfg(target_os = "linux")]
        tokio::spawn(crate::remote::logind::follow(boot.wake.clone(), boot.stop.token()));

        let runtime = container_settings::runtime(&config.containers, &boot.root);
        let how = container_settings::options(&config.containers, &boot.root);
        let containers = Containers::new(engine.clone(), runtime, how, boot.health.clone());
        tokio::spawn(containers.clone().watch(boot.stop.token()));

        let max = boot.common.max_message_bytes;
        let orchestrator = orchestrator::Service {
            engine: engine.clone(),
            containers: containers.clone(),
            health: boot.health.clone(),
        };
        for name in [
            "agent",
            "agent.v1.AgentService",
            "tool",
            "tool.v1.ToolService",
            "orchestrator.v1.ApprovalService",
            "orchestrator.v1.DriverService",
            "orchestrator.v1.RunService",
        ] {
            boot.health.follow(name);
        }
        let services = Services::new()
            .add(
                // An agent may read the sessions that it was offered; the domain refuses it everything else.
                Access::ALL,
                OrchestratorServiceServer::new(orchestrator)
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .route(
                raw::GET_SESSION,
                raw::GetSession {
                    engine: engine.clone(),
                    max_message_bytes: max,
                },
            )
            .add(
                Access::USERS,
                ContainerServiceServer::new(containers::Service { containers })
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .route(
                raw::SUBSCRIBE_EVENTS,
                raw::SubscribeEvents {
                    engine: engine.clone(),
                    max_message_bytes: max,
                },
            )
            .add(
                Access::AGENTS,
                AgentServiceServer::new(agent::Service { engine: engine.clone() })
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .add(
                Access::AGENTS,
                DriverServiceServer::new(driver::Service { engine: engine.clone() })
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .add(
                // An agent may read the runs that it drives; the domain refuses it everything else.
                Access::ALL,
                RunServiceServer::new(runs::Service { engine: engine.clone() })
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .add(
                Access::USERS,
                ApprovalServiceServer::new(approvals::Service { engine: engine.clone() })
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .add(
                Access::ALL,
                ToolServiceServer::new(tool::Service { engine: engine.clone() })
                    .max_decoding_message_size(max)
                    .max_encoding_message_size(max),
            )
            .front_door(passed_on(), door.clone())
            .alias();
        let mut built = Built::new(services);
        let budget = boot.common.stop_budget;
        built.flush = Some(Box::pin(async move { engine.shut_down(budget).await }));
        Ok(built)
    }
}

/// The paths that other daemons serve, and who may call them here.
fn passed_on() -> impl Iterator<Item = (&'static str, Access)> {
    let doors = SERVICES.iter().filter_map(|service| service.front_door);
    doors.map(|door| match door.callers {
        Callers::Users => (door.prefix, Access::USERS),
        Callers::UsersAndAgents => (door.prefix, Access::AGENTS),
    })
}

fn options(config: &Config, root: &Root, max_message_bytes: usize) -> Options {
    let ns = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    let ring_bytes = usize::try_from(config.event_memory_bytes).unwrap_or(usize::MAX);
    Options {
        rules: Rules {
            max_sessions: config.max_sessions,
            idle_timeout: ns(config.session_idle_timeout),
            max_agents: config.max_agents,
            assistants: principals(&config.assistants),
            front_door: principals(&config.front_door),
            workers: principals(&config.workers),
            shares: Shares {
                sessions: config.user_sessions,
                agents: config.user_agents,
                open_tasks: config.user_open_tasks,
                containers: config.user_containers,
                stored_bytes: config.user_stored_bytes,
                events_per_minute: config.user_events_per_minute,
                metadata_bytes: config.user_metadata_bytes,
            },
            max_kept_messages: config.max_kept_messages,
            kept_message_ttl: ns(config.kept_message_ttl),
            agent_ttl: ns(config.agent_ttl),
            forget_agent_after: ns(config.forget_agent_after),
            max_open_tasks: config.max_open_tasks,
            task_timeout: ns(config.task_timeout),
            task_expiry: ns(config.task_expiry),
            assistant_grace: ns(config.assistant_grace),
            answer_timeout: ns(config.answer_timeout),
            turns_per_assistant: config.turns_per_assistant,
            max_queued_turns: config.max_queued_turns,
            workspaces: root.state().join("workspaces").to_string_lossy().into_owned(),
            remove_containers: config.containers.container_on_close == "remove",
            ..Rules::default()
        },
        store: nexus_store::Options {
            low_disk: config.low_disk,
            ..nexus_store::Options::default()
        },
        ring_events: 8192,
        ring_bytes,
        event_max_age: config.event_max_age,
        event_max_bytes: config.event_max_bytes,
        max_message_bytes,
    }
}

/// A caller that the settings name, as the edge calls it: a user's name becomes its number.
fn principal(name: &str) -> Option<String> {
    match name.split_once(':')? {
        ("uid", user) => {
            let named = || Some(nix::unistd::User::from_name(user).ok()??.uid.as_raw());
            let uid = user.parse().ok().or_else(named)?;
            Some(format!("uid:{uid}"))
        }
        ("token", id) if !id.is_empty() => Some(name.to_owned()),
        _ => None,
    }
}

fn principals(names: &[String]) -> BTreeSet<String> {
    names.iter().filter_map(|name| principal(name)).collect()
}

fn made(directory: &Path) -> Result<(), BootError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|e| BootError::Failed(format!("failed to create {}: {e}", directory.display())))
}

fn broken(error: &nexus_store::Error) -> BootError {
    use nexus_store::Error;
    match error {
        Error::Damaged { .. } => BootError::Data(format!(
            "{error}; restore a backup, or move the file away to start with an empty store"
        )),
        Error::TooNew { .. } => BootError::Data(format!("{error}; run the newer version, or restore an older backup")),
        Error::InUse { .. } => BootError::Taken(format!("{error}; another orchestrator runs with this NEXUS_ROOT")),
        other => BootError::Failed(other.to_string()),
    }
}

/// Between two looks at a disk to which this daemon writes nothing; others may fill it.
const DISK_LOOK: Duration = Duration::from_secs(10);

/// Reports by health and by one line of the log when the disk has too little room, and when it has enough again.
fn watch_disk(engine: &Engine, boot: &Boot<Config>) {
    let Some(room) = engine.disk().cloned() else { return };
    let (health, stop) = (boot.health.clone(), boot.stop.token());
    tokio::spawn(async move {
        let mut changed = room.watch();
        let mut was_low = false;
        loop {
            // A disk that cannot be looked at is reported by the next write.
            let _told = room.check();
            let low = changed.borrow_and_update().clone();
            match &low {
                Some(error) if !was_low => tracing::error!(%error, "too little room on the disk: new data is refused"),
                None if was_low => tracing::info!("there is enough room on the disk again"),
                _ => {}
            }
            was_low = low.is_some();
            health.degrade("disk", low.map(|error| error.to_string()));
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(DISK_LOOK) => {}
                () = stop.cancelled() => return,
            }
        }
    });
}

/// Looks at every page once we serve: a big store must not delay the start, and a damaged one must be told.
fn verify_later(engine: &Engine, boot: &Boot<Config>) {
    let (engine, health) = (engine.clone(), boot.health.clone());
    tokio::spawn(async move {
        if let Err(error) = engine.verify().await {
            tracing::error!(%error, "the store is damaged; restore a backup");
            health.degrade("store", Some(error.to_string()));
        }
    });
}
