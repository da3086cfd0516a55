//! The catalogue of services as the command uses it: their sockets and addresses here, and what a wrong name gets.

use std::path::PathBuf;

use nexus_client::Address;
pub use nexus_config::services::{ASSISTANT, Link, ORCHESTRATOR, SERVICES as TABLE, Service as Entry, WORKER, find};
use nexus_config::{Kind, Root, Schema, Setting, Sources};
use serde::Deserialize;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

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
    let position = |name: &&str| TABLE.iter().position(|entry| entry.name == *name);
    let needs = |entry: &Entry| entry.needs.iter().filter_map(position).collect();
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
struct SocketSettings {
    socket_path: Option<PathBuf>,
    socket_mode: String,
    socket_group: Option<String>,
}

/// The sockets of all entries. What is wrong in a section is its daemon's to say: here its default stands.
pub fn sockets(context: &Context) -> Result<Vec<Socket>, Failure> {
    let schemas: Vec<Schema> = TABLE.iter().map(schema).collect();
    let schemas: Vec<&Schema> = schemas.iter().collect();
    let loaded = nexus_config::read(&schemas, &Sources::new(&context.root).with_process_env());
    let own = context.local()?;
    let sockets = TABLE.iter().zip(&loaded.settings).map(|(entry, settings)| {
        let told: Option<SocketSettings> = settings.extract().ok();
        let mode = told
            .as_ref()
            .and_then(|told| u32::from_str_radix(&told.socket_mode, 8).ok())
            .filter(|mode| *mode <= 0o777);
        let group = told.as_ref().and_then(|told| told.socket_group.clone());
        let path = match entry.name {
            ORCHESTRATOR => own.to_path_buf(),
            name => told
                .and_then(|told| told.socket_path)
                .unwrap_or_else(|| context.root.socket(name)),
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
pub fn address(context: &Context, entry: &Entry, socket: &Socket) -> Address {
    match entry.name {
        ORCHESTRATOR => context.orchestrator.clone(),
        _ => Address::Unix(socket.path.clone()),
    }
}

pub fn control_socket(root: &Root) -> PathBuf {
    root.socket("supervisor")
}

/// The message about a daemon that runs while the file of its socket is gone, and what to do.
pub fn socket_gone(path: &str, service: &str) -> (String, String) {
    (
        format!("runs, and the file of its socket {path} is gone"),
        format!("it binds it again within seconds; if it does not: nexus services restart {service}"),
    )
}
