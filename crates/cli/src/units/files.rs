//! The units as they are checked in, and whose they are: one entry for each service of the catalogue, in its order.

use nexus_config::services::{self, ASSISTANT, GATEWAY, LLM, ORCHESTRATOR, Service, WORKER};

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
    pub daemon: File,
    pub socket: File,
}

pub const TABLE: &[Entry] = &[
    Entry {
        service: ORCHESTRATOR,
        daemon: file!("nexus-orchestrator.service"),
        socket: file!("nexus-orchestrator.socket"),
    },
    Entry {
        service: LLM,
        daemon: file!("nexus-llm.service"),
        socket: file!("nexus-llm.socket"),
    },
    Entry {
        service: ASSISTANT,
        daemon: file!("nexus-agent@.service"),
        socket: file!("nexus-agent@.socket"),
    },
    Entry {
        service: WORKER,
        daemon: file!("nexus-agent@.service"),
        socket: file!("nexus-agent@.socket"),
    },
    Entry {
        service: GATEWAY,
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

    fn catalogued(&self) -> &'static Service {
        services::find(self.service).expect("every unit is of a service in the catalogue")
    }

    pub fn binary(&self) -> &'static str {
        self.catalogued().binary
    }

    pub fn service_unit(&self) -> String {
        format!("{}.service", self.catalogued().unit)
    }

    pub fn socket_unit(&self) -> String {
        format!("{}.socket", self.catalogued().unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::launchd;

    #[test]
    fn every_service_has_its_units() {
        let catalogue: Vec<&str> = services::SERVICES.iter().map(|service| service.name).collect();
        let systemd: Vec<&str> = TABLE.iter().map(|entry| entry.service).collect();
        let launchd: Vec<&str> = launchd::SERVICES.iter().map(|(service, _)| *service).collect();
        assert_eq!(systemd, catalogue);
        assert_eq!(launchd, catalogue);
        for entry in TABLE {
            let started = entry.daemon.text(Scope::System);
            assert!(
                started.contains(entry.binary()),
                "{} starts another program",
                entry.service
            );
        }
    }
}
