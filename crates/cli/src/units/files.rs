//! The units as they are checked in, and whose they are. A new service joins by one entry here.

use super::Scope;

/// One unit file, in both forms.
#[derive(Debug)]
pub struct File {
    pub name: &'static str,
    user: &'static str,
    system: &'static str,
}

impl File {
    pub fn text(&self, scope: Scope) -> &'static str {
        match scope {
            Scope::User => self.user,
            Scope::System => self.system,
        }
    }
}

macro_rules! file {
    ($name:literal) => {
        File {
            name: $name,
            user: include_str!(concat!("../../../../systemd/user/", $name)),
            system: include_str!(concat!("../../../../systemd/system/", $name)),
        }
    };
}

/// The units of one service. For an instance of a template the files are the template's.
#[derive(Debug)]
pub struct Entry {
    pub service: &'static str,
    pub binary: &'static str,
    /// Without its suffix.
    pub unit: &'static str,
    pub daemon: File,
    pub socket: File,
}

pub const TABLE: &[Entry] = &[
    Entry {
        service: "orchestrator",
        binary: "nexus-orchestrator",
        unit: "nexus-orchestrator",
        daemon: file!("nexus-orchestrator.service"),
        socket: file!("nexus-orchestrator.socket"),
    },
    Entry {
        service: "llm",
        binary: "nexus-llm",
        unit: "nexus-llm",
        daemon: file!("nexus-llm.service"),
        socket: file!("nexus-llm.socket"),
    },
    Entry {
        service: "agent-assistant",
        binary: "nexus-agent",
        unit: "nexus-agent@assistant",
        daemon: file!("nexus-agent@.service"),
        socket: file!("nexus-agent@.socket"),
    },
    Entry {
        service: "gateway",
        binary: "nexus-gateway",
        unit: "nexus-gateway",
        daemon: file!("nexus-gateway.service"),
        socket: file!("nexus-gateway.socket"),
    },
];

pub const TARGET: File = file!("nexus.target");
pub const SYSUSERS: &str = include_str!("../../../../systemd/sysusers.d/nexus.conf");
pub const TMPFILES: &str = include_str!("../../../../systemd/tmpfiles.d/nexus.conf");

pub fn find(service: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.service == service)
}

impl Entry {
    pub fn files(&self) -> [&File; 2] {
        [&self.daemon, &self.socket]
    }

    pub fn service_unit(&self) -> String {
        format!("{}.service", self.unit)
    }

    pub fn socket_unit(&self) -> String {
        format!("{}.socket", self.unit)
    }
}
