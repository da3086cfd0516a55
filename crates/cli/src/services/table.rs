//! The services there are. A new one joins by one entry here.

use std::path::PathBuf;

use nexus_client::Address;
use nexus_config::{Kind, Root, Schema, Setting, Sources};
use serde::Deserialize;

use crate::{
    failure::{Exit, Failure},
    place::Place,
};

/// What makes a daemon that serves useful to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Serving is all.
    None,
    /// The orchestrator passes calls on to it: it is known there by its name.
    Registered,
    /// It holds its line to the orchestrator and can be given messages.
    Connected,
}

/// A daemon that is kept running.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    pub binary: &'static str,
    pub args: &'static [&'static str],
    /// Its section in the config, where its socket may be set.
    pub section: &'static str,
    /// Started before it and stopped after it. Only entries that stand above.
    pub needs: &'static [&'static str],
    pub link: Link,
}

pub const ORCHESTRATOR: &str = "orchestrator";
pub const ASSISTANT: &str = "agent-assistant";

pub const TABLE: &[Entry] = &[
    Entry {
        name: ORCHESTRATOR,
        binary: "nexus-orchestrator",
        args: &[],
        section: "orchestrator",
        needs: &[],
        link: Link::None,
    },
    Entry {
        name: "llm",
        binary: "nexus-llm",
        args: &[],
        section: "llm",
        needs: &[ORCHESTRATOR],
        link: Link::Registered,
    },
    Entry {
        name: ASSISTANT,
        binary: "nexus-agent",
        args: &["--role", "assistant", "--name", "assistant"],
        section: "agent",
        needs: &[ORCHESTRATOR, "llm"],
        link: Link::Connected,
    },
    Entry {
        name: "gateway",
        binary: "nexus-gateway",
        args: &[],
        section: "gateway",
        needs: &[ORCHESTRATOR],
        link: Link::Registered,
    },
];

pub fn find(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == name)
}

/// A name that no entry has.
pub fn unknown(name: &str) -> Failure {
    let names: Vec<&str> = TABLE.iter().map(|entry| entry.name).collect();
    let hint = match nexus_config::nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {near}? There are: {}", names.join(", ")),
        None => format!("there are: {}", names.join(", ")),
    };
    Failure::new(Exit::NotFound, format!("there is no service {name}")).hint(hint)
}

/// For each entry the places in the table of what it needs.
pub fn needs() -> Vec<Vec<usize>> {
    let place = |name: &&str| TABLE.iter().position(|entry| entry.name == *name);
    let needs = |entry: &Entry| entry.needs.iter().filter_map(place).collect();
    TABLE.iter().map(needs).collect()
}

/// Where a daemon listens, and who may reach it, as its own settings have it.
#[derive(Clone, Debug)]
pub struct Socket {
    pub path: PathBuf,
    pub mode: u32,
    pub group: Option<String>,
}

#[derive(Deserialize)]
struct Told {
    socket_path: Option<PathBuf>,
    socket_mode: String,
    socket_group: Option<String>,
}

/// The sockets of all entries. What is wrong in a section is its daemon's to say: here its default stands.
pub fn sockets(place: &Place) -> Result<Vec<Socket>, Failure> {
    let schemas: Vec<Schema> = TABLE.iter().map(schema).collect();
    let schemas: Vec<&Schema> = schemas.iter().collect();
    let loaded = nexus_config::read(&schemas, &Sources::new(&place.root).with_process_env());
    let own = place.local()?;
    let sockets = TABLE.iter().zip(&loaded.settings).map(|(entry, settings)| {
        let told: Option<Told> = settings.extract().ok();
        let mode = told
            .as_ref()
            .and_then(|told| u32::from_str_radix(&told.socket_mode, 8).ok())
            .filter(|mode| *mode <= 0o777);
        let group = told.as_ref().and_then(|told| told.socket_group.clone());
        let path = match entry.name {
            ORCHESTRATOR => own.to_path_buf(),
            name => told
                .and_then(|told| told.socket_path)
                .unwrap_or_else(|| place.root.socket(name)),
        };
        Socket {
            path,
            mode: mode.unwrap_or(0o600),
            group,
        }
    });
    Ok(sockets.collect())
}

fn schema(entry: &Entry) -> Schema {
    let settings = vec![
        Setting::new("socket_path", Kind::Path, "", "where it listens"),
        Setting::new("socket_mode", Kind::Text, "0600", "mode of the socket file"),
        Setting::new("socket_group", Kind::Text, "", "group of the socket file"),
    ];
    Schema::new(entry.section, settings)
}

/// Where this service is reached; the orchestrator may be somewhere else.
pub fn address(place: &Place, entry: &Entry, socket: &Socket) -> Address {
    match entry.name {
        ORCHESTRATOR => place.orchestrator.clone(),
        _ => Address::Unix(socket.path.clone()),
    }
}

pub fn control_socket(root: &Root) -> PathBuf {
    root.socket("supervisor")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_needs_only_what_stands_above_it() {
        for (index, (entry, needs)) in TABLE.iter().zip(needs()).enumerate() {
            assert_eq!(needs.len(), entry.needs.len(), "{}", entry.name);
            assert!(needs.iter().all(|needed| *needed < index), "{}", entry.name);
        }
    }
}
