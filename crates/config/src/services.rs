//! The catalogue of services: the one list that the command, the supervisor, the units, the settings and the
//! orchestrator read. A new daemon joins by one entry here, and by its unit files.

/// What must hold, beside serving, before a service is of use to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Serving is enough.
    None,
    /// The orchestrator passes calls on to it, so it must be registered there under its name.
    Registered,
    /// It must hold its stream to the orchestrator, or no message reaches it.
    Connected,
}

/// Who may call a service through the orchestrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Users and admins.
    Users,
    /// Users, admins and agents.
    UsersAndAgents,
}

/// What the orchestrator passes on to this service instead of serving it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrontDoor {
    /// Begins every path that is passed on: `/gateway.v1.`.
    pub prefix: &'static str,
    /// The full gRPC name by which the daemon registers: `gateway.v1.GatewayService`.
    pub service: &'static str,
    /// Which roles may call it.
    pub callers: Callers,
}

/// A daemon that is kept running.
#[derive(Debug)]
pub struct Service {
    /// The name on the command line and in status output: `agent-assistant`.
    pub name: &'static str,
    /// The program: `nexus-agent`.
    pub binary: &'static str,
    /// Arguments that the program is started with.
    pub args: &'static [&'static str],
    /// Its section in the settings file.
    pub section: &'static str,
    /// Services that start before this one and stop after it. They stand above it in the catalogue.
    pub needs: &'static [&'static str],
    /// How the daemon is connected to the orchestrator once it is ready.
    pub link: Link,
    /// What the orchestrator passes on to it; none where it passes nothing on.
    pub front_door: Option<FrontDoor>,
    /// Its systemd unit, without the suffix.
    pub unit: &'static str,
    /// Environment variables that this daemon reads, beside [`EVERY_DAEMON`], those of `[common]`, and
    /// `NEXUS_<SECTION>__<KEY>`. A name that ends in `*` stands for all names that begin so.
    pub variables: &'static [&'static str],
}

/// The service name of the orchestrator.
pub const ORCHESTRATOR: &str = "orchestrator";
/// The service name of the model daemon.
pub const LLM: &str = "llm";
/// The service name of the assistant.
pub const ASSISTANT: &str = "agent-assistant";
/// The service name of the worker.
pub const WORKER: &str = "agent-worker";
/// The service name of the gateway.
pub const GATEWAY: &str = "gateway";

/// The catalogue: every service, dependencies first.
pub const SERVICES: &[Service] = &[
    Service {
        name: ORCHESTRATOR,
        binary: "nexus-orchestrator",
        args: &[],
        section: "orchestrator",
        needs: &[],
        link: Link::None,
        front_door: None,
        unit: "nexus-orchestrator",
        variables: &[
            "MAX_SESSIONS",
            "DOCKER_HOST",
            "CONTAINER_HOST",
            // The folder of the registry logins.
            "DOCKER_CONFIG",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "no_proxy",
        ],
    },
    Service {
        name: LLM,
        binary: "nexus-llm",
        args: &[],
        section: "llm",
        needs: &[ORCHESTRATOR],
        link: Link::Registered,
        front_door: Some(FrontDoor {
            prefix: "/llm.v1.",
            service: "llm.v1.LLMService",
            callers: Callers::UsersAndAgents,
        }),
        unit: "nexus-llm",
        variables: &[
            "LLM_DEFAULT_PROVIDER",
            "LLM_DEFAULT_MODEL",
            "ANTHROPIC_BASE_URL",
            "OPENAI_BASE_URL",
            "OPENROUTER_BASE_URL",
            "GEMINI_BASE_URL",
            "OLLAMA_BASE_URL",
            "LMSTUDIO_BASE_URL",
            "BAAAHT_LLM_GATEWAY_URL",
            "LLM_GATEWAY_URL",
            "LLM_MAX_CONCURRENT_REQUESTS",
            "LLM_TIMEOUT",
            // Provider keys.
            "NEXUS_LLM_KEY_*",
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
            "OPENROUTER_API_KEY",
            "GEMINI_API_KEY",
            // How it looks references up: the login shell, the vault, 1Password, a keyring that asks on a display.
            "NEXUS_LOAD_SHELL_ENV",
            "NEXUS_SHELL_ENV_TIMEOUT_MS",
            "NEXUS_VAULT_IDENTITY",
            "OP_*",
            "DISPLAY",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "no_proxy",
        ],
    },
    Service {
        name: ASSISTANT,
        binary: "nexus-agent",
        args: &["--role", "assistant", "--name", "assistant"],
        section: "agent",
        needs: &[ORCHESTRATOR, LLM],
        link: Link::Connected,
        front_door: None,
        unit: "nexus-agent@assistant",
        variables: &[
            "ORCHESTRATOR_URL",
            "ASSISTANT_DEFAULT_MODEL",
            "ASSISTANT_DEFAULT_PROVIDER",
            // Settings of its section, which it has in common with the worker.
            "NEXUS_ORCHESTRATOR__CONTAINER_BACKEND",
            "NEXUS_ORCHESTRATOR__CONTAINER_HOST",
        ],
    },
    Service {
        name: WORKER,
        binary: "nexus-agent",
        args: &["--role", "worker", "--name", "worker"],
        section: "agent",
        needs: &[ORCHESTRATOR],
        link: Link::Connected,
        front_door: None,
        unit: "nexus-agent@worker",
        variables: &[
            "ORCHESTRATOR_URL",
            "ASSISTANT_DEFAULT_MODEL",
            "ASSISTANT_DEFAULT_PROVIDER",
            "DOCKER_HOST",
            "CONTAINER_HOST",
            // Which backend runs containers is set once, for both.
            "NEXUS_ORCHESTRATOR__CONTAINER_BACKEND",
            "NEXUS_ORCHESTRATOR__CONTAINER_HOST",
        ],
    },
    Service {
        name: GATEWAY,
        binary: "nexus-gateway",
        args: &[],
        section: "gateway",
        needs: &[ORCHESTRATOR],
        link: Link::Registered,
        front_door: Some(FrontDoor {
            prefix: "/gateway.v1.",
            service: "gateway.v1.GatewayService",
            callers: Callers::Users,
        }),
        unit: "nexus-gateway",
        variables: &[],
    },
];

/// Environment variables that every daemon gets: who and where it is, and how it logs. None of them holds a secret,
/// but for what `OTEL_EXPORTER_OTLP_HEADERS` may say, which every daemon needs to send its traces.
pub const EVERY_DAEMON: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NEXUS_ROOT",
    "NEXUS_BIN_DIR",
    "NEXUS_AGENT_ID",
    "NEXUS_COMMON__*",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "OTEL_*",
    // Written by builds that measure which lines of the tests' programs ran.
    "LLVM_PROFILE_FILE",
];

/// Sections of the settings file that belong to no daemon alone.
const SHARED: [&str; 2] = ["common", "cli"];

/// The service of this name.
pub fn find(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.name == name)
}

/// The sections of the daemons, each once.
pub fn daemon_sections() -> impl Iterator<Item = &'static str> {
    let first = |index: usize, section: &str| SERVICES[..index].iter().all(|before| before.section != section);
    let sections = SERVICES.iter().enumerate();
    sections.filter_map(move |(index, service)| first(index, service.section).then_some(service.section))
}

/// Every section that the settings file may have. A daemon reads `common` and its own; any other name is a mistake.
pub fn sections() -> impl Iterator<Item = &'static str> {
    let [common, cli] = SHARED;
    [common].into_iter().chain(daemon_sections()).chain([cli])
}

impl Service {
    /// Whether this daemon reads the environment variable of this name, whatever its settings say.
    pub fn reads(&self, variable: &str) -> bool {
        let own = || {
            let rest = variable.strip_prefix("NEXUS_")?;
            let (section, _) = rest.split_once("__")?;
            Some(section.eq_ignore_ascii_case(self.section))
        };
        let listed = EVERY_DAEMON.iter().chain(self.variables);
        matches(listed, variable) || is_common(variable) || own().unwrap_or(false)
    }
}

/// Whether every daemon may see the environment variable of this name.
pub fn is_for_every_daemon(variable: &str) -> bool {
    matches(EVERY_DAEMON.iter(), variable)
}

/// Whether the environment variable of this name sets something in `[common]`, by a name of its own or by that of a
/// setting whose value is taken.
pub fn is_common(variable: &str) -> bool {
    let borrowed = |(section, key): (&str, &str)| crate::layers::variable(section, key) == variable;
    let mut settings = crate::common().settings.into_iter();
    settings.any(|setting| setting.env.contains(&variable) || setting.borrowed.is_some_and(borrowed))
}

fn matches<'a>(mut patterns: impl Iterator<Item = &'a &'static str>, name: &str) -> bool {
    patterns.any(|pattern| match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_needs_only_what_stands_above_it() {
        for (index, service) in SERVICES.iter().enumerate() {
            for needed in service.needs {
                let above = SERVICES[..index].iter().any(|before| before.name == *needed);
                assert!(above, "{} needs {needed}", service.name);
            }
        }
    }

    #[test]
    fn a_daemon_reads_its_own_variables_and_nobody_elses() {
        let reads = |service: &str, variable: &str| find(service).unwrap().reads(variable);
        for service in SERVICES {
            for variable in [
                "PATH",
                "LC_CTYPE",
                "LOG_LEVEL",
                "GRPC_SOCKET_PATH",
                "NEXUS_COMMON__LOG_LEVEL",
            ] {
                assert!(service.reads(variable), "{} {variable}", service.name);
            }
            for variable in [
                "GITHUB_TOKEN",
                "NEXUS_TOKEN",
                "AWS_SECRET_ACCESS_KEY",
                "PATHS",
                "NEXUS_",
            ] {
                assert!(!service.reads(variable), "{} {variable}", service.name);
            }
            let keys = [
                "ANTHROPIC_API_KEY",
                "NEXUS_LLM_KEY_RACK",
                "NEXUS_LLM__ENDPOINTS",
                "OP_SERVICE_ACCOUNT_TOKEN",
            ];
            for variable in keys {
                assert_eq!(
                    service.reads(variable),
                    service.name == LLM,
                    "{} {variable}",
                    service.name
                );
            }
        }
        assert!(reads(GATEWAY, "NEXUS_GATEWAY__TCP_LISTEN") && reads(ORCHESTRATOR, "NEXUS_ORCHESTRATOR__X"));
    }

    #[test]
    fn every_section_is_there_once() {
        let sections: Vec<&str> = sections().collect();
        assert_eq!(sections, ["common", "orchestrator", "llm", "agent", "gateway", "cli"]);
    }
}
