//! Finds the daemons of this tree that run now, whoever started them.

use crate::{
    context::Context,
    failure::Failure,
    services::{
        names,
        peer::{Found, Peer, look},
        table::{ORCHESTRATOR, TABLE, control_socket, sockets},
    },
};

#[derive(Debug)]
pub struct Running {
    pub service: String,
    /// A connection to it that stands.
    pub peer: Peer,
}

/// Asked of their sockets; those of other users and other trees are not ours to tell anything.
pub async fn running(context: &Context) -> Result<Vec<Running>, Failure> {
    let known = match context.orchestrator_socket() {
        Some(_) => sockets(context)?,
        None => Vec::new(),
    };
    let mut found = Vec::new();
    for service in names(context) {
        let index = TABLE.iter().position(|entry| entry.name == service);
        let path = match index.and_then(|index| known.get(index)) {
            Some(socket) => socket.path.clone(),
            // It is somewhere else, over TCP.
            None if service == ORCHESTRATOR => continue,
            None => context.root.socket(&service),
        };
        if let Ok(Found::Running(peer)) = look(&path).await
            && peer.is_ours()
            && !peer.is_of_another_tree(&context.root.state())
        {
            found.push(Running { service, peer });
        }
    }
    Ok(found)
}

/// What keeps the daemons running, if it runs.
pub async fn supervisor(context: &Context) -> Option<Peer> {
    match look(&control_socket(&context.root)).await {
        Ok(Found::Running(peer)) => Some(peer),
        Ok(_) | Err(_) => None,
    }
}
