//! Reconciles records and engines: at the start, on engine events, and periodically.
//!
//! What an engine has of ours and no record knows is removed; what a record says runs and its engine does not have is
//! lost; what was being made when we were killed is unmade. An engine that does not answer holds nothing up but the look
//! at its own containers.

use std::time::Duration;

use futures_util::StreamExt;
use nexus_runtime::{Event, EventKind, Found};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{CONTAINER, Containers, OWNER};
use crate::domain::Error;
use crate::domain::container::{Container, Phase};
use crate::engine::wall;

/// What engines told that nobody has looked at yet.
const EVENTS: usize = 256;
/// A look at everything, whatever was told.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Pause before an engine's events are asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// Containers worked on at once.
const AT_ONCE: usize = 8;

enum EngineEvent {
    /// An engine's stream is open: what happened before was not heard.
    Open(Found),
    /// Something happened to the container with this id of ours.
    Happened(Found, String, EventKind),
}

impl Containers {
    /// Until the stop.
    pub async fn watch(self, stop: CancellationToken) {
        tokio::spawn(self.clone().clean(stop.clone()));
        tokio::spawn(self.clone().count(stop.clone()));
        let (tell, mut told) = mpsc::channel(EVENTS);
        let mut listening: Vec<&'static str> = Vec::new();
        let mut sample = tokio::time::interval(self.options().sample_every);
        let mut look = tokio::time::interval(LOOK_EVERY);
        sample.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.listen_to_all(&mut listening, &tell, &stop).await;
            for session in self.engine().take_deleted() {
                self.session_gone(&session);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.inner.moved.notified() => self.work(),
                () = tokio::time::sleep(self.next_due()) => self.work(),
                told = told.recv() => match told {
                    Some(EngineEvent::Open(found)) => self.spawn_look(found),
                    Some(EngineEvent::Happened(found, id, kind)) => self.happened(&found, &id, kind).await,
                    None => return,
                },
                _ = look.tick() => {
                    for found in self.inner.runtime.known() {
                        self.spawn_look(found);
                    }
                }
                _ = sample.tick() => self.sample(),
            }
        }
    }

    /// Every engine that has containers of ours, or may get some, is listened to.
    async fn listen_to_all(
        &self,
        listening: &mut Vec<&'static str>,
        tell: &mpsc::Sender<EngineEvent>,
        stop: &CancellationToken,
    ) {
        let mut wanted: Vec<String> = self.engine().look(|ledger| {
            let engines = ledger.state.containers.iter().filter(|one| !one.engine.is_empty());
            engines.map(|one| one.engine.clone()).collect()
        });
        wanted.sort_unstable();
        wanted.dedup();
        let creating = self
            .engine()
            .look(|ledger| ledger.state.containers.iter().any(|one| one.phase == Phase::Creating));
        if creating && self.inner.runtime.known().is_empty() {
            // Made by the run before; by which engine was not noted yet.
            let _absent = self.inner.runtime.main().await;
            let _absent = self.inner.runtime.named("sandbox").await;
        }
        for name in wanted {
            if !listening.iter().any(|known| *known == name) {
                let _absent = self.engine_of(&name).await;
            }
        }
        for found in self.inner.runtime.known() {
            let name = found.engine.name();
            if !listening.contains(&name) {
                listening.push(name);
                tokio::spawn(listen(self.clone(), found, tell.clone(), stop.clone()));
            }
        }
    }

    /// Time until a container is to be started again.
    fn next_due(&self) -> Duration {
        let next = self.engine().look(|ledger| {
            let due = ledger.state.containers.iter().filter_map(|one| match one.phase {
                Phase::Restarting { at } => Some(at),
                _ => None,
            });
            due.min()
        });
        match next {
            Some(at) => Duration::from_nanos(u64::try_from(at.saturating_sub(wall())).unwrap_or(0))
                .max(Duration::from_millis(10)),
            None => LOOK_EVERY,
        }
    }

    /// Takes up what is to be done, each on its own; what somebody else works on is left to that.
    fn work(&self) {
        let now = wall();
        let todo: Vec<Container> = self.engine().look(|ledger| {
            let wanted = ledger.state.containers.iter().filter(|one| match one.phase {
                Phase::Removing => true,
                Phase::Restarting { at } => at <= now,
                Phase::Running => one.stopped,
                _ => false,
            });
            wanted.take(AT_ONCE * 4).cloned().collect()
        });
        for one in todo {
            if self.inner.held.lock().len() >= AT_ONCE * 4 {
                return; // Each of them calls again when it is done.
            }
            let this = self.clone();
            if one.phase == Phase::Running {
                tokio::spawn(async move {
                    if this.inner.held.lock().contains(&one.key) {
                        return;
                    }
                    if let Err(error) = this.stop_now(&one, this.options().stop_timeout).await {
                        tracing::warn!(%error, container = %one.id, "failed to stop a container; the next look tries again");
                    }
                });
                continue;
            }
            let Some(hold) = self.hold(one.key) else { continue };
            tokio::spawn(async move {
                let done = match one.phase {
                    Phase::Removing => this.forget(&one).await,
                    _ => this.start_again(&one).await,
                };
                if let Err(error) = done {
                    tracing::warn!(%error, container = %one.id, "failed to bring a container to its desired state");
                    tokio::time::sleep(AGAIN).await;
                }
                drop(hold);
            });
        }
    }

    async fn start_again(&self, one: &Container) -> Result<(), Error> {
        let found = self.engine_of(&one.engine).await?;
        let key = one.key;
        let started = match self.inner.runtime.allows(&one.engine) {
            Ok(()) => {
                let start = found.engine.start(&one.engine_id);
                self.ask(&found, "start a container", start).await
            }
            Err(error) => Err(Error::Runtime(error)),
        };
        if let Err(Error::Runtime(error)) = &started
            && error.is_passing()
        {
            return started;
        }
        self.engine()
            .write(|state, step| {
                match &started {
                    Ok(()) => state.container_again(step, key),
                    Err(error) => state.container_failed(step, key, &error.to_string()),
                }
                Ok(())
            })
            .await?;
        // It may have ended before we listened again.
        self.settle(&found, key, &one.engine_id).await
    }

    async fn happened(&self, found: &Found, id: &str, kind: EventKind) {
        if kind == EventKind::Created && !self.is_wanted(id) {
            // Made after all, by an engine that was given up: the look removes it.
            self.spawn_look(found.clone());
        }
        if !matches!(kind, EventKind::Exited { .. } | EventKind::Removed) {
            return;
        }
        let known = self.engine().look(|ledger| {
            let one = crate::domain::ids::number(id).and_then(|key| ledger.state.containers.get(key));
            one.filter(|one| *one.id == *id && one.engine == found.engine.name())
                .map(|one| (one.key, one.engine_id.clone()))
        });
        let Some((key, engine_id)) = known else { return };
        let (this, found) = (self.clone(), found.clone());
        tokio::spawn(async move {
            if let Err(error) = this.settle(&found, key, &engine_id).await {
                tracing::warn!(%error, "failed to see how a container ended; the next look does");
            }
        });
    }

    /// Whether somebody makes it just now, or has.
    fn is_wanted(&self, id: &str) -> bool {
        let phase = self.engine().look(|ledger| {
            let one = crate::domain::ids::number(id).and_then(|key| ledger.state.containers.get(key));
            one.filter(|one| *one.id == *id).map(|one| (one.key, one.phase))
        });
        match phase {
            Some((key, Phase::Creating)) => self.inner.held.lock().contains(&key),
            Some(_) => true,
            None => false,
        }
    }

    pub(super) fn spawn_look(&self, found: Found) {
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.look_over(&found).await {
                tracing::warn!(%error, engine = found.engine.name(), "failed to look at the containers of an engine");
            }
        });
    }

    /// Compares everything that an engine has of ours with the records.
    async fn look_over(&self, found: &Found) -> Result<(), Error> {
        let name = found.engine.name();
        // Records first: what is made after this is not missed in the listing that follows.
        let records: Vec<Container> = self.engine().look(|ledger| {
            let own = ledger
                .state
                .containers
                .iter()
                .filter(|one| one.engine == name || one.phase == Phase::Creating);
            own.cloned().collect()
        });
        let there = self
            .ask(found, "list containers", found.engine.list(&self.own()))
            .await?;
        for info in &there {
            let id = info.labels.get(CONTAINER).map(String::as_str).unwrap_or_default();
            let key = crate::domain::ids::number(id);
            let known = key.is_some_and(|key| {
                self.engine()
                    .look(|ledger| ledger.state.containers.get(key).is_some_and(|one| *one.id == *id))
            });
            if !known {
                tracing::info!(
                    container = id,
                    engine = name,
                    "removing a container that no record knows"
                );
                self.ask(found, "remove a container", found.engine.remove(&info.id, true))
                    .await?;
            }
        }
        for one in records {
            let info = there
                .iter()
                .find(|info| info.labels.get(CONTAINER).is_some_and(|id| **id == *one.id));
            let Some(_hold) = self.hold(one.key) else { continue };
            match one.phase {
                Phase::Creating if self.is_creating(one.key) => {
                    let why = Some("the orchestrator ended while it was made");
                    self.unmake(found, one.key, &one.id, why).await;
                }
                Phase::Running | Phase::Paused => self.note(one.key, info).await?,
                _ => {}
            }
        }
        self.work();
        Ok(())
    }

    fn is_creating(&self, key: u64) -> bool {
        self.engine().look(|ledger| {
            ledger
                .state
                .containers
                .get(key)
                .is_some_and(|now| now.phase == Phase::Creating)
        })
    }

    fn sample(&self) {
        let running: Vec<Container> = self.engine().look(|ledger| {
            ledger
                .state
                .containers
                .iter()
                .filter(|one| one.phase == Phase::Running)
                .cloned()
                .collect()
        });
        if running.is_empty() {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let looks = futures_util::stream::iter(running).for_each_concurrent(AT_ONCE, |one| {
                let this = this.clone();
                async move {
                    let looked = this.look_at(&one).await;
                    let gone = matches!(
                        looked,
                        Err(Error::Runtime(
                            nexus_runtime::Error::State { .. } | nexus_runtime::Error::NotFound(_)
                        ))
                    );
                    if gone && let Ok(found) = this.engine_of(&one.engine).await {
                        // It has ended, and that was not told.
                        let _next_look = this.settle(&found, one.key, &one.engine_id).await;
                    }
                }
            });
            looks.await;
        });
    }
}

/// Hears what an engine tells, for ever.
async fn listen(containers: Containers, found: Found, tell: mpsc::Sender<EngineEvent>, stop: CancellationToken) {
    let owner = containers.engine().log_id().to_owned();
    // Said once, and not with every try.
    let mut told_away = false;
    loop {
        let heard = async {
            let mut events = containers.ask(&found, "listen", found.engine.events()).await?;
            containers.ask(&found, "say what it is", found.engine.probe()).await?;
            told_away = false;
            if tell.send(EngineEvent::Open(found.clone())).await.is_err() {
                return Ok(());
            }
            while let Some(event) = events.next().await {
                let Event { kind, labels, .. } = event.map_err(Error::Runtime)?;
                let ours = labels.get(OWNER).is_some_and(|of| *of == owner);
                let Some(id) = labels.get(CONTAINER).filter(|_| ours) else {
                    continue;
                };
                if tell
                    .send(EngineEvent::Happened(found.clone(), id.clone(), kind))
                    .await
                    .is_err()
                {
                    return Ok(());
                }
            }
            Ok::<(), Error>(())
        };
        tokio::select! {
            () = stop.cancelled() => return,
            ended = heard => if let Err(error) = ended {
                containers.inner.health.degrade(found.engine.name(), Some(error.to_string()));
                if !std::mem::replace(&mut told_away, true) {
                    tracing::warn!(%error, engine = found.engine.name(), "a container engine does not answer; trying again every second");
                }
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}
