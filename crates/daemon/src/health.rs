//! `grpc.health.v1`, true for each service: names follow the daemon (NOT_SERVING until ready and from stop on) or are
//! set one by one. It never probes anything; whoever knows a state sets it.

use futures_core::Stream;
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health as Service, HealthServer},
};

use crate::status_file::Credential;

/// Cheap to clone; all clones are the same state.
#[derive(Clone)]
pub struct Health {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    // Watchers wait for "newer than n" and read the state again; a change is never carried in the channel itself.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    ready: bool,
    stopping: bool,
    names: BTreeMap<String, bool>,
    degraded: BTreeMap<String, String>,
    credentials: Vec<Credential>,
    recovered: Option<String>,
    unlinked: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Knows `""`, the daemon itself, and nothing else yet.
    pub fn new() -> Self {
        let health = Health {
            inner: Arc::new(Inner {
                state: Mutex::default(),
                changed: watch::Sender::new(0),
            }),
        };
        health.follow("");
        health
    }

    /// `name` is known from now on and is what the daemon is: serving when it is ready, until it stops.
    pub fn follow(&self, name: &str) {
        self.change(|state| {
            state.names.entry(name.into()).or_insert(true);
        });
    }

    /// `name` is known from now on, and serving only if it is set so and the daemon is ready.
    pub fn set(&self, name: &str, serving: bool) {
        self.change(|state| {
            state.names.insert(name.into(), serving);
        });
    }

    /// Marks a part as degraded, with the reason, or as recovered (`None`). The daemon stays SERVING; its own health
    /// answer says DEGRADED.
    pub fn degrade(&self, part: &str, reason: Option<String>) {
        if self.state().degraded.get(part) == reason.as_ref() {
            return;
        }
        self.change(|state| match reason {
            Some(reason) => {
                state.degraded.insert(part.into(), reason);
            }
            None => {
                state.degraded.remove(part);
            }
        });
        crate::metrics::degraded(self.state().degraded.len());
    }

    /// The current state of the credentials that the settings name.
    pub fn named(&self, credentials: impl IntoIterator<Item = Credential>) {
        let credentials: Vec<Credential> = credentials.into_iter().collect();
        if self.state().credentials == credentials {
            return;
        }
        self.change(|state| state.credentials = credentials);
    }

    pub(crate) fn credentials(&self) -> Vec<Credential> {
        self.state().credentials.clone()
    }

    /// The result of the last recovery, for later reports.
    pub(crate) fn recovers(&self, how: String) {
        self.change(|state| state.recovered = Some(how));
    }

    pub(crate) fn recovered(&self) -> Option<String> {
        self.state().recovered.clone()
    }

    /// Why the orchestrator does not know this daemon, or `None` once it does. The daemon's own health is not affected.
    pub fn unlinked(&self, reason: Option<String>) {
        if self.state().unlinked != reason {
            self.change(|state| state.unlinked = reason);
        }
    }

    pub(crate) fn link(&self) -> Option<String> {
        self.state().unlinked.clone()
    }

    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// The degraded parts, each with its reason.
    pub fn degraded(&self) -> Vec<(String, String)> {
        let state = self.state();
        state
            .degraded
            .iter()
            .map(|(part, why)| (part.clone(), why.clone()))
            .collect()
    }

    /// Resolves once `part` is not degraded.
    pub async fn wait_recovered(&self, part: &str) {
        let mut changed = self.inner.changed.subscribe();
        // The sender is ours, so this cannot fail while we wait.
        let _recovered = changed.wait_for(|_| !self.state().degraded.contains_key(part)).await;
    }

    /// `None`: the name is unknown.
    pub fn is_serving(&self, name: &str) -> Option<bool> {
        let state = self.state();
        let wanted = *state.names.get(name)?;
        Some(wanted && state.ready && !state.stopping)
    }

    /// The store is open and the sockets are bound.
    pub fn ready(&self) {
        self.change(|state| state.ready = true);
    }

    /// From here on nothing is SERVING any more, whatever is set later.
    pub fn stopping(&self) {
        self.change(|state| state.stopping = true);
    }

    pub(crate) fn service(&self) -> HealthServer<Health> {
        HealthServer::new(self.clone())
    }

    fn change(&self, edit: impl FnOnce(&mut State)) {
        edit(&mut self.state());
        self.inner.changed.send_modify(|generation| *generation += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every edit leaves the maps whole, so a panic elsewhere cannot have spoilt them.
        self.inner.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn answer(&self, name: &str) -> ServingStatus {
        match self.is_serving(name) {
            Some(true) => ServingStatus::Serving,
            Some(false) => ServingStatus::NotServing,
            None => ServingStatus::ServiceUnknown,
        }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Service for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match self.answer(&request.get_ref().service) {
            ServingStatus::ServiceUnknown => Err(crate::status::status(
                Code::NotFound,
                "unknown service",
                "UNKNOWN_SERVICE",
            )),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Answers;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Answers>, Status> {
        let watcher = Watcher {
            health: self.clone(),
            name: request.into_inner().service,
            changed: self.inner.changed.subscribe(),
            told: None,
        };
        Ok(Response::new(Box::pin(futures_util::stream::unfold(
            watcher,
            Watcher::next,
        ))))
    }
}

struct Watcher {
    health: Health,
    name: String,
    changed: watch::Receiver<u64>,
    told: Option<ServingStatus>,
}

impl Watcher {
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Watcher)> {
        loop {
            // Seen before it is read: a change in between is looked at again, never missed.
            self.changed.borrow_and_update();
            let status = self.health.answer(&self.name);
            if self.told != Some(status) {
                self.told = Some(status);
                return Some((Ok(HealthCheckResponse { status: status.into() }), self));
            }
            self.changed.changed().await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_daemon_and_stop_is_final() {
        let health = Health::new();
        health.follow("orchestrator.v1.OrchestratorService");
        health.set("gateway", false);
        assert_eq!(health.is_serving(""), Some(false));
        health.ready();
        assert_eq!(health.is_serving(""), Some(true));
        assert_eq!(health.is_serving("orchestrator.v1.OrchestratorService"), Some(true));
        assert_eq!(health.is_serving("gateway"), Some(false));
        health.set("gateway", true);
        assert_eq!(health.is_serving("gateway"), Some(true));
        assert_eq!(health.is_serving("nobody"), None);
        health.stopping();
        health.set("gateway", true);
        assert_eq!(health.is_serving("gateway"), Some(false));
    }

    #[test]
    fn following_does_not_undo_what_was_set() {
        let health = Health::new();
        health.ready();
        health.set("llm", false);
        health.follow("llm");
        assert_eq!(health.is_serving("llm"), Some(false));
    }

    #[test]
    fn a_limping_part_keeps_serving() {
        let health = Health::new();
        health.ready();
        health.degrade("docker", Some("does not answer".into()));
        assert_eq!(health.degraded(), [("docker".into(), "does not answer".into())]);
        assert_eq!(health.is_serving(""), Some(true));
        health.degrade("docker", None);
        assert!(health.degraded().is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_a_part_hears_when_it_is_recovered() {
        let health = Health::new();
        health.wait_recovered("docker").await;
        health.degrade("docker", Some("does not answer".into()));
        let waits = tokio::spawn({
            let health = health.clone();
            async move { health.wait_recovered("docker").await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        health.degrade("other", Some("lame".into()));
        health.degrade("docker", None);
        tokio::time::timeout(std::time::Duration::from_secs(10), waits)
            .await
            .unwrap()
            .unwrap();
    }
}
