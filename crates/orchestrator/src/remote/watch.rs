//! Watches the health of registered daemons over their own sockets, so that a dead one is known at once and not after
//! its next heartbeat is missed. What is found decides which of several serves, and what our own health says of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nexus_client::{Address, Connection, Options, ServerUid};
use nexus_config::services::{SERVICES, Service};
use nexus_daemon::{Health, OwnToken};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::engine::Engine;

/// First and longest pause between looks at a daemon that does not answer.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// Names that are always known, each with the service that a daemon registers for to be followed under that name.
pub fn followed() -> impl Iterator<Item = (&'static str, &'static str)> {
    let passed_on = |service: &'static Service| Some((service.name, service.front_door?.service));
    SERVICES.iter().filter_map(passed_on)
}

/// Asks registered daemons how they are.
#[derive(Clone)]
pub struct Watch {
    engine: Engine,
    /// What this installation's own daemons are shown.
    own_token: Option<PathBuf>,
}

impl Watch {
    pub fn new(engine: Engine, own_token: Option<&OwnToken>) -> Self {
        Watch {
            engine,
            own_token: own_token.map(|own| own.file().to_owned()),
        }
    }

    pub async fn run(self, health: Health, stop: CancellationToken) {
        let engine = &self.engine;
        let mut watched: HashMap<PathBuf, JoinHandle<()>> = HashMap::new();
        loop {
            let moved = engine.daemons_moved();
            let daemons = engine.daemons();
            let sockets: std::collections::HashSet<&PathBuf> = daemons.values().flatten().collect();
            watched.retain(|socket, task| {
                let keep = sockets.contains(socket);
                if !keep {
                    task.abort();
                    engine.set_serving(socket, false);
                }
                keep
            });
            for socket in sockets {
                watched
                    .entry(socket.clone())
                    .or_insert_with(|| tokio::spawn(self.clone().follow(socket.clone())));
            }
            for (name, service) in followed() {
                let serving = engine.serving(service).is_some();
                health.set(name, serving);
                health.set(service, serving);
            }
            tokio::select! {
                () = moved => {}
                () = stop.cancelled() => break,
            }
        }
        watched.into_values().for_each(|task| task.abort());
    }

    /// Resolves once every daemon that is registered and served before a wake answers a new connection, or is known not to.
    pub async fn answer_again(self) {
        let engine = &self.engine;
        let sockets: std::collections::HashSet<PathBuf> = engine.daemons().into_values().flatten().collect();
        for socket in sockets {
            let mut pause = PAUSE;
            while engine.is_answering(&socket) && !self.asked(&socket).await {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
        }
    }

    /// Nothing is said to a process that is not of the uid that registered the socket.
    fn connection(&self, socket: &Path) -> Connection {
        let server_uid = self
            .engine
            .server_uid(socket)
            .map_or(ServerUid::OwnOrRoot, ServerUid::Is);
        let options = Options {
            server_uid,
            own_token: self.own_token.clone(),
            ..Options::default()
        };
        Connection::lazy(&Address::Unix(socket.into()), &options)
    }

    async fn asked(&self, socket: &Path) -> bool {
        let connection = self.connection(socket);
        let answer = connection.health().check(HealthCheckRequest::default()).await;
        answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving)
    }

    /// Follows one daemon until nobody is registered there.
    async fn follow(self, socket: PathBuf) {
        let mut pause = PAUSE;
        loop {
            if self.watch_once(&socket).await {
                pause = PAUSE;
            }
            self.engine.set_serving(&socket, false);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Returns whether the daemon answered at all.
    async fn watch_once(&self, socket: &Path) -> bool {
        let connection = self.connection(socket);
        let watching = connection.health().watch(HealthCheckRequest::default()).await;
        let Ok(mut states) = watching.map(tonic::Response::into_inner) else {
            return false;
        };
        let mut answered = false;
        while let Ok(Some(state)) = states.message().await {
            answered = true;
            self.engine
                .set_serving(socket, state.status() == ServingStatus::Serving);
        }
        answered
    }
}
