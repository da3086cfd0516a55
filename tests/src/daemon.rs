//! The daemons by name.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    Orchestrator,
    Llm,
    Agent,
    /// The agent in its other role; what a conversation needs is complete without it.
    Worker,
    Gateway,
}

impl Daemon {
    pub const ALL: [Daemon; 4] = [Daemon::Orchestrator, Daemon::Llm, Daemon::Agent, Daemon::Gateway];
    /// What a conversation needs.
    pub const LINE: [Daemon; 3] = [Daemon::Orchestrator, Daemon::Llm, Daemon::Agent];

    pub fn program(self) -> &'static str {
        match self {
            Daemon::Orchestrator => "nexus-orchestrator",
            Daemon::Llm => "nexus-llm",
            Daemon::Agent | Daemon::Worker => "nexus-agent",
            Daemon::Gateway => "nexus-gateway",
        }
    }

    /// Its section in the config, and the prefix of its variables.
    pub fn section(self) -> &'static str {
        self.program().trim_start_matches("nexus-")
    }

    /// The name of its socket and of its log.
    pub fn service(self) -> &'static str {
        match self {
            Daemon::Agent => "agent-assistant",
            Daemon::Worker => "agent-worker",
            other => other.section(),
        }
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.service())
    }
}
