//! Builds the agent in its role: its settings, its neighbours, its engine, its own service.

use std::{path::PathBuf, sync::Arc, time::Duration};

use nexus_client::{Address, Connection, Options};
use nexus_config::{Kind, Root, Setting};
use nexus_daemon::{Access, Boot, BootError, Built, Daemon, Services};
use nexus_proto::agent::v1::agent_service_server::AgentServiceServer;
use parking_lot::RwLock;
use serde::Deserialize;

use crate::{
    domain::{
        assistant::{role::is_name, turn_queue::Limits},
        worker::queue,
    },
    engine::{
        Board, PART,
        assistant::{self, BudgetLimit, Style},
        worker::{self, Tools, workbench},
    },
    remote::{self, Models, Orchestrator, Profile},
    service::{Service, Work},
};

const ASSISTANT: &str = "assistant";
const WORKER: &str = "worker";
const ROLES: &[&str] = &[ASSISTANT, WORKER];
/// What a worker takes.
const WORK: &[&str] = &["tool_execution", "file_operation", "code_execution"];

/// The daemon; `nexus-agent` runs it.
pub struct Agent;

#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    pub role: String,
    pub name: String,
    pub orchestrator_url: String,
    pub llm_url: String,
    pub model: String,
    pub provider: String,
    pub system_prompt: String,
    pub assistant_role: String,
    pub run_tokens: u64,
    pub run_dollars: f64,
    pub session_tokens: u64,
    pub session_dollars: f64,
    pub agent_tokens: u64,
    pub agent_dollars: f64,
    pub day_tokens: u64,
    pub day_dollars: f64,
    pub context_tokens: u64,
    pub answer_tokens: u32,
    pub answer_bytes: u64,
    pub temperature: Option<f64>,
    pub history_messages: u32,
    pub concurrency: usize,
    pub queue: usize,
    pub turn_timeout: Duration,
    pub idle_timeout: Duration,
    pub llm_grace: Duration,
    pub heartbeat_interval: Duration,
    pub worker_tasks: usize,
    pub worker_image: String,
    pub worker_memory: u64,
    pub worker_cpus: f64,
    pub worker_pids: u64,
    pub container_backend: String,
    pub container_host: String,
}

impl Config {
    fn agent_name(&self) -> &str {
        if self.name.is_empty() { &self.role } else { &self.name }
    }

    fn tools(&self, root: &Root, name: &str) -> worker::Settings {
        let state = root.state();
        // Each worker has its own.
        let own = state.join(WORKER).join(name);
        let owner = format!("{}@{}", name, root.path().display());
        worker::Settings {
            state: own.clone(),
            workspaces: state.join("workspaces"),
            skills: root.skills(),
            workbench: workbench::Settings {
                runtime: workbench::runtime(
                    &own,
                    &state,
                    workbench::backend(&self.container_backend),
                    &self.container_host,
                ),
                image: self.worker_image.clone(),
                limits: nexus_runtime::Limits {
                    memory_bytes: self.worker_memory,
                    nano_cpus: (self.worker_cpus * 1e9) as u64,
                    pids: self.worker_pids,
                    ..nexus_runtime::Limits::default()
                },
                owner,
            },
        }
    }

    fn budgets(&self) -> Vec<BudgetLimit> {
        let limit = |(kind, tokens, dollars)| BudgetLimit { kind, tokens, dollars };
        let all = [
            ("run", self.run_tokens, self.run_dollars),
            ("session", self.session_tokens, self.session_dollars),
            ("agent", self.agent_tokens, self.agent_dollars),
            ("day", self.day_tokens, self.day_dollars),
        ];
        let set = all
            .into_iter()
            .filter(|(_, tokens, dollars)| *tokens > 0 || *dollars > 0.0);
        set.map(limit).collect()
    }

    fn style(&self) -> Style {
        Style {
            model: self.model.clone(),
            provider: self.provider.clone(),
            system_prompt: self.system_prompt.clone(),
            assistant_role: self.assistant_role.clone(),
            budgets: self.budgets(),
            context_tokens: self.context_tokens,
            answer_tokens: self.answer_tokens,
            answer_bytes: usize::try_from(self.answer_bytes).unwrap_or(usize::MAX),
            temperature: self.temperature,
            history_messages: self.history_messages,
            turn_timeout: self.turn_timeout,
            idle_timeout: self.idle_timeout,
            llm_grace: self.llm_grace,
        }
    }
}

impl Daemon for Agent {
    const NAME: &'static str = "agent";
    const ABOUT: &'static str = "Runs what the orchestrator gives it: as assistant it answers conversations, as worker it executes calls of tools";
    type Config = Config;

    fn settings() -> Vec<Setting> {
        let count = |max| Kind::Int { min: 1, max };
        let limit = || Kind::Int {
            min: 0,
            max: 1_000_000_000_000,
        };
        vec![
            Setting::new("role", Kind::Text, "assistant", "what this agent does: assistant or worker").flag("role"),
            Setting::new("name", Kind::Text, "", "the name it registers with; unset: its role").flag("name"),
            Setting::new(
                "orchestrator_url",
                Kind::Text,
                "",
                "the orchestrator's address; unset: [common] orchestrator",
            )
            .env(&["ORCHESTRATOR_URL"])
            .flag("orchestrator-addr"),
            Setting::new(
                "llm_url",
                Kind::Text,
                "",
                "the model daemon's address; unset: its socket in this tree",
            ),
            Setting::new(
                "model",
                Kind::Text,
                "",
                "the model asked for; unset: the model daemon chooses",
            )
            .env(&["ASSISTANT_DEFAULT_MODEL"])
            .flag("model")
            .live(),
            Setting::new(
                "provider",
                Kind::Text,
                "",
                "the provider asked for; unset: the model's own",
            )
            .env(&["ASSISTANT_DEFAULT_PROVIDER"])
            .live(),
            Setting::new("system_prompt", Kind::Text, "", "instructions that precede every conversation").live(),
            Setting::new(
                "assistant_role",
                Kind::Text,
                "assistant",
                "the role of an assistant with tools: assistant, coder, researcher, or the name of a file in state/roles",
            )
            .live(),
            Setting::new("run_tokens", limit(), "0", "the most tokens of one run; 0: no limit").live(),
            Setting::new("run_dollars", Kind::Float, "0", "the most dollars that one run may cost; 0: no limit").live(),
            Setting::new("session_tokens", limit(), "0", "the most tokens of one session; 0: no limit").live(),
            Setting::new("session_dollars", Kind::Float, "0", "the most dollars that one session may cost; 0: no limit").live(),
            Setting::new("agent_tokens", limit(), "0", "the most tokens of this agent in all, over all days; 0: no limit").live(),
            Setting::new("agent_dollars", Kind::Float, "0", "the most dollars that this agent may cost in all, over all days; 0: no limit").live(),
            Setting::new("day_tokens", limit(), "0", "the most tokens of one day; 0: no limit").live(),
            Setting::new("day_dollars", Kind::Float, "0", "the most dollars that one day may cost; 0: no limit").live(),
            Setting::new(
                "context_tokens",
                Kind::Int {
                    min: 0,
                    max: 100_000_000,
                },
                "0",
                "the most tokens of a model's window to use; 0: all of it",
            )
            .live(),
            Setting::new(
                "answer_tokens",
                count(1_000_000),
                "4096",
                "the longest answer, in tokens, with the calls that it asks for; at most half of a model's window",
            )
            .live(),
            Setting::new("answer_bytes", Kind::Size, "4MiB", "the longest answer, in bytes").live(),
            Setting::new(
                "temperature",
                Kind::Float,
                "",
                "how freely the model chooses its words; unset: its own default",
            )
            .live(),
            Setting::new(
                "history_messages",
                count(100_000),
                "2000",
                "the most messages of a session that are looked at for one answer",
            )
            .live(),
            Setting::new("concurrency", count(10_000), "32", "answers in the making at once"),
            Setting::new(
                "queue",
                Kind::Int { min: 0, max: 100_000 },
                "1000",
                "turns that may wait for their answer to begin",
            ),
            Setting::new("turn_timeout", Kind::Duration, "1h", "the longest time for one answer").live(),
            Setting::new(
                "idle_timeout",
                Kind::Duration,
                "60s",
                "the longest silence of the model daemon in an answer; it gives a sign of life each second while a model \
                 loads or thinks",
            )
            .live(),
            Setting::new(
                "llm_grace",
                Kind::Duration,
                "3s",
                "how long a turn waits for a model daemon that is not there",
            )
            .live(),
            Setting::new(
                "heartbeat_interval",
                Kind::Duration,
                "30s",
                "between two signs of life to the orchestrator",
            )
            .flag("heartbeat-interval"),
            Setting::new("worker_tasks", count(1_000), "16", "calls of tools that a worker executes at once"),
            Setting::new(
                "worker_image",
                Kind::Text,
                "",
                "the image that a worker's commands run in; empty: the host's own programs, in the built-in sandbox",
            ),
            Setting::new("worker_memory", Kind::Size, "2GiB", "memory of one command of a worker"),
            Setting::new("worker_cpus", Kind::Float, "2", "cores of one command of a worker"),
            Setting::new("worker_pids", count(100_000), "512", "processes of one command of a worker"),
            Setting::new(
                "container_backend",
                Kind::Choice(&["auto", "docker", "podman", "sandbox", "host-unsafe"]),
                "auto",
                "what runs images for a worker; unset: as [orchestrator] container_backend",
            )
            .borrow("orchestrator", "container_backend"),
            Setting::new(
                "container_host",
                Kind::Text,
                "",
                "where a worker finds Docker or Podman; unset: as [orchestrator] container_host",
            )
            .borrow("orchestrator", "container_host"),
        ]
    }

    fn service(config: &Config) -> String {
        format!("agent-{}", config.agent_name())
    }

    fn check(config: &Config) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !ROLES.contains(&config.role.as_str()) {
            mistakes.push(format!(
                "role: unknown role {:?}; this build has: {}",
                config.role,
                ROLES.join(", ")
            ));
        }
        if !(0.001..=10_000.0).contains(&config.worker_cpus) {
            mistakes.push(format!("worker_cpus: {} is not a number of cores", config.worker_cpus));
        }
        if !is_name(&config.assistant_role) {
            mistakes.push(format!(
                "assistant_role: {:?} is not the name of a role; use letters, digits, - and _",
                config.assistant_role
            ));
        }
        for (key, dollars) in [
            ("run_dollars", config.run_dollars),
            ("session_dollars", config.session_dollars),
            ("agent_dollars", config.agent_dollars),
            ("day_dollars", config.day_dollars),
        ] {
            if !(0.0..=1e9).contains(&dollars) {
                mistakes.push(format!("{key}: {dollars} is not an amount of dollars"));
            }
        }
        let name = config.agent_name();
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) || name.starts_with('.') {
            mistakes.push(format!(
                "name: {name:?} cannot be part of a file name; use letters, digits, - and _"
            ));
        }
        for (key, url) in [
            ("orchestrator_url", &config.orchestrator_url),
            ("llm_url", &config.llm_url),
        ] {
            if let Err(error) = address(url, PathBuf::new()) {
                mistakes.push(format!("{key}: {error}"));
            }
        }
        for (key, value) in [
            ("turn_timeout", config.turn_timeout),
            ("idle_timeout", config.idle_timeout),
            ("heartbeat_interval", config.heartbeat_interval),
        ] {
            if value.is_zero() {
                mistakes.push(format!("{key}: must be longer than nothing"));
            }
        }
        mistakes
    }

    async fn build(boot: Boot<Config>) -> Result<Built<Config>, BootError> {
        let config = &boot.config;
        let options = Options {
            dial_timeout: boot.common.dial_timeout,
            rpc_timeout: boot.common.rpc_timeout,
            reconnect_interval: boot.common.reconnect_interval,
            reconnect_max_attempts: boot.common.reconnect_max_attempts,
            max_message_bytes: boot.common.max_message_bytes,
            max_send_bytes: boot.common.max_message_bytes,
            traceparent: Some(nexus_daemon::spans::outgoing),
            own_token: boot.own_token.as_ref().map(|own| own.file().to_owned()),
            ..Options::default()
        };
        let bad = |error: nexus_client::BadAddress| BootError::Config(vec![error.to_string()]);
        let orchestrator = address(&config.orchestrator_url, boot.common.orchestrator.clone()).map_err(bad)?;
        let llm = address(&config.llm_url, boot.root.socket("llm")).map_err(bad)?;

        let profile = Profile {
            name: config.agent_name().to_owned(),
            role: config.role.clone(),
            socket: boot.socket.clone(),
            concurrency: config.concurrency,
            tasks: &["conversation"],
            tools: &[],
        };
        let (redial, health) = (options.redial.clone(), boot.health.clone());
        boot.wake.on_wake("orchestrator", move |_| {
            // Recovers with the stream that opens next.
            health.degrade(PART, Some("dials again after a wake".into()));
            redial.now();
            let health = health.clone();
            async move { health.wait_recovered(PART).await }
        });
        let board = Board::new(boot.health.clone());
        if config.role == WORKER {
            let profile = Profile {
                concurrency: config.worker_tasks,
                tasks: WORK,
                tools: worker::NAMES,
                ..profile
            };
            let orchestrator = Orchestrator::new(Connection::lazy(&orchestrator, &options), profile.clone());
            return work(&boot, orchestrator, board, profile);
        }
        let style = Arc::new(RwLock::new(Arc::new(config.style())));
        let (handle, engine) = assistant::build(assistant::Parts {
            orchestrator: Orchestrator::new(Connection::lazy(&orchestrator, &options), profile.clone()),
            models: Models::new(Connection::lazy(&llm, &options)),
            places: assistant::Places {
                root: boot.root.path().to_owned(),
                workspaces: boot.root.state().join("workspaces"),
                skills: boot.root.skills(),
                roles: boot.root.state().join("roles"),
            },
            name: config.agent_name().to_owned(),
            style: style.clone(),
            board: board.clone(),
            limits: Limits {
                active: config.concurrency,
                waiting: config.queue,
            },
            heartbeat_every: config.heartbeat_interval,
        });
        let running = tokio::spawn(engine.run(boot.stop.token()));

        let service = AgentServiceServer::new(Service::new(Work::Assistant(handle), board, profile))
            .max_decoding_message_size(boot.common.max_message_bytes);
        let services = Services::new().add(Access::AGENTS, service).alias();
        Ok(Built::new(services)
            .reload(move |fresh: &Config| *style.write() = Arc::new(fresh.style()))
            .flush(async move {
                if let Err(error) = running.await {
                    tracing::error!(%error, "the engine ended with an error");
                }
            }))
    }
}

/// Everything of a worker but its neighbour.
fn work(
    boot: &Boot<Config>,
    orchestrator: Orchestrator,
    board: Board,
    profile: Profile,
) -> Result<Built<Config>, BootError> {
    let config = &boot.config;
    let settings = config.tools(&boot.root, config.agent_name());
    let place = settings.state.clone();
    let (tools, notices) = Tools::open(settings)
        .map_err(|error| BootError::Failed(format!("{} cannot be used: {error}", place.display())))?;
    let (handle, worker) = remote::worker::build(remote::worker::Parts {
        orchestrator,
        board: board.clone(),
        tools,
        notices,
        limits: queue::Limits {
            active: config.worker_tasks,
            waiting: config.queue,
        },
        heartbeat_every: config.heartbeat_interval,
    });
    let running = tokio::spawn(worker.run(boot.stop.token()));
    let service = AgentServiceServer::new(Service::new(Work::Worker(handle), board, profile))
        .max_decoding_message_size(boot.common.max_message_bytes);
    let services = Services::new().add(Access::AGENTS, service).alias();
    Ok(Built::new(services).flush(async move {
        if let Err(error) = running.await {
            tracing::error!(%error, "the worker ended with an error");
        }
    }))
}

fn address(url: &str, default: PathBuf) -> Result<Address, nexus_client::BadAddress> {
    if url.is_empty() {
        return Ok(Address::Unix(default));
    }
    url.parse()
}
