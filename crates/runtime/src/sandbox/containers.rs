//! The containers of one directory: their records, their states, and who watches them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nexus_sandbox::{Ended, Isolation, Started};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use super::helper::{self, Helper, failed};
use super::process;
use super::record::{LOST, Life, Record, exit_info, now_ms};
use crate::{Error, Event, EventKind, ExitInfo, Result};

/// Events that a slow reader may be behind.
const EVENTS: usize = 1024;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// Longest between a KILL and the end.
const DEATH: Duration = Duration::from_secs(20);
/// Longest that control groups may be busy after that.
const GROUPS: Duration = Duration::from_secs(5);
/// An end that was missed is noticed after this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Containers {
    pub dir: PathBuf,
    records: Mutex<BTreeMap<String, Arc<Record>>>,
    /// Being started just now.
    starting: Mutex<HashSet<String>>,
    events: broadcast::Sender<Event>,
    /// Closed once the end of a container's latest life was told: the next life, and its removal, come after that.
    watched: Mutex<HashMap<String, watch::Receiver<()>>>,
}

impl Containers {
    /// Takes over what is there. A container that runs is watched from here on; one whose helper was killed is ended.
    pub fn open(dir: &Path) -> Result<Arc<Containers>> {
        let wrong = |error: std::io::Error| failed(format!("{}: {error}", dir.display()));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(wrong)?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(wrong)?.flatten() {
            match Record::load(&entry.path()) {
                Ok(Some(record)) => drop(records.insert(record.id.clone(), Arc::new(record))),
                // Made in part, or removed in part.
                Ok(None) => drop(fs::remove_dir_all(entry.path())),
                Err(error) => tracing::warn!(path = %entry.path().display(), %error, "a container cannot be read"),
            }
        }
        let containers = Arc::new(Containers {
            dir: dir.into(),
            records: Mutex::new(records),
            starting: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
            watched: Mutex::default(),
        });
        for record in containers.all() {
            match record.life() {
                Ok(Life::Running(started)) => containers.watch(record, *started, None),
                Ok(Life::Lost(started)) => containers.bury(&record, &started),
                // Its helper may have been killed when only its groups were left.
                Ok(Life::Exited(_)) => {
                    if let Ok(Some(started)) = record.started() {
                        remove_groups(&started);
                    }
                }
                Ok(Life::Created) => {}
                Err(error) => tracing::warn!(id = record.id, %error, "a container's state cannot be read"),
            }
        }
        Ok(containers)
    }

    pub fn all(&self) -> Vec<Arc<Record>> {
        self.records.lock().values().cloned().collect()
    }

    pub fn get(&self, id: &str) -> Result<Arc<Record>> {
        self.records
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| Error::NotFound(id.into()))
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn tell(&self, record: &Record, kind: EventKind) {
        // Nobody listens: nothing is lost, as the files say it too.
        let _ = self.events.send(Event {
            id: record.id.clone(),
            kind,
            labels: record.labels.clone(),
        });
    }

    pub fn create(&self, record: Record) -> Result<String> {
        let record = Arc::new(record);
        let mut records = self.records.lock();
        if records.values().any(|known| known.name == record.name) {
            return Err(Error::Exists(record.name.clone()));
        }
        if let Err(error) = record.save() {
            let _ = fs::remove_dir_all(&record.dir);
            return Err(failed(format!("{}: {error}", record.dir.display())));
        }
        records.insert(record.id.clone(), Arc::clone(&record));
        drop(records);
        self.tell(&record, EventKind::Created);
        Ok(record.id.clone())
    }

    /// Goes on to its end even if its reader is gone.
    pub async fn start(self: &Arc<Self>, id: &str, helper: &Path) -> Result<()> {
        let record = self.get(id)?;
        if matches!(record.life().map_err(failed)?, Life::Running(_)) {
            return Ok(());
        }
        if !self.starting.lock().insert(record.id.clone()) {
            return Err(state(id, "is being started"));
        }
        let containers = Arc::clone(self);
        let helper = helper.to_path_buf();
        let started = tokio::spawn(async move {
            let started = containers.start_record(&record, &helper).await;
            containers.starting.lock().remove(&record.id);
            started
        });
        started.await.map_err(failed)?
    }

    async fn start_record(self: &Arc<Self>, record: &Arc<Record>, helper: &Path) -> Result<()> {
        self.settled(&record.id).await;
        record.forget_life().map_err(failed)?;
        let running = helper::run(helper, &record.run).await?;
        if !self.records.lock().contains_key(&record.id) {
            let _ = process::signal(running.started.init, SIGKILL);
            return Err(Error::NotFound(record.id.clone()));
        }
        self.tell(record, EventKind::Started);
        self.watch(Arc::clone(record), running.started, Some(running.helper));
        Ok(())
    }

    /// Until it has ended.
    fn watch(self: &Arc<Self>, record: Arc<Record>, started: Started, helper: Option<Helper>) {
        let containers = Arc::clone(self);
        let (told, watched) = watch::channel(());
        self.watched.lock().insert(record.id.clone(), watched);
        tokio::spawn(async move {
            let _told = told;
            let ended = match helper {
                Some(helper) => helper.done().await,
                None => process::ended(started.monitor).await,
            };
            if let Err(error) = ended {
                tracing::warn!(id = record.id, %error, "a sandbox cannot be waited for");
            }
            match record.life() {
                Ok(Life::Exited(ended)) => containers.tell_end(&record, exit_info(&ended)),
                Ok(Life::Lost(started)) => containers.bury(&record, &started),
                // Removed, or started again.
                Ok(Life::Created | Life::Running(_)) => {}
                Err(error) => tracing::warn!(id = record.id, %error, "a container's end cannot be read"),
            }
        });
    }

    /// Until the end of its latest life was told.
    async fn settled(&self, id: &str) {
        let watched = self.watched.lock().get(id).cloned();
        if let Some(mut watched) = watched {
            let told = async { while watched.changed().await.is_ok() {} };
            let _ = tokio::time::timeout(DEATH, told).await;
        }
    }

    fn tell_end(&self, record: &Record, exit: ExitInfo) {
        if exit.oom {
            self.tell(record, EventKind::Oom);
        }
        self.tell(record, EventKind::Exited { code: exit.code });
    }

    /// Its helper was killed, and everything inside with it: what the helper would have done.
    fn bury(&self, record: &Record, started: &Started) {
        let _ = process::signal(started.init, SIGKILL);
        if record.run.isolation == Isolation::HostUnsafe {
            process::kill_group(started);
        }
        remove_groups(started);
        let ended = Ended {
            code: LOST.code,
            signal: Some(SIGKILL),
            oom: false,
            at_ms: now_ms(),
        };
        if let Err(error) = record.write_exit(&ended) {
            tracing::warn!(id = record.id, %error, "a container's end cannot be written");
        }
        self.tell_end(record, LOST);
    }

    pub fn running(&self, id: &str) -> Result<(Arc<Record>, Started)> {
        let record = self.get(id)?;
        match record.life().map_err(failed)? {
            Life::Running(started) => Ok((record, *started)),
            Life::Created | Life::Exited(_) | Life::Lost(_) => Err(state(id, "is not running")),
        }
    }

    pub fn signal(&self, id: &str, number: i32) -> Result<()> {
        let (_, started) = self.running(id)?;
        match process::signal(started.init, number) {
            Ok(true) => Ok(()),
            Ok(false) => Err(state(id, "is not running")),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Err(Error::Invalid(error.to_string())),
            Err(error) => Err(failed(error)),
        }
    }

    pub async fn stop(&self, id: &str, timeout: Duration) -> Result<()> {
        for (signal, patience) in [(SIGTERM, timeout), (SIGKILL, DEATH)] {
            if patience.is_zero() {
                continue;
            }
            let started = match self.running(id) {
                Ok((_, started)) => started,
                Err(Error::State { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            // Its first process may be gone while its helper still writes down how it ended.
            let _gone = !process::signal(started.init, signal).map_err(failed)?;
            match tokio::time::timeout(patience, self.wait(id)).await {
                Ok(Ok(_) | Err(Error::NotFound(_))) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
        Err(failed(format!("container {id} does not die")))
    }

    pub async fn wait(&self, id: &str) -> Result<ExitInfo> {
        let mut events = self.subscribe();
        loop {
            let record = self.get(id)?;
            match record.life().map_err(failed)? {
                Life::Exited(ended) => return Ok(exit_info(&ended)),
                Life::Created | Life::Running(_) | Life::Lost(_) => {}
            }
            // Any event, or none for a while: look again.
            let next = async {
                while let Ok(event) = events.recv().await {
                    if event.id == record.id {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(LOOK_AGAIN, next).await;
        }
    }

    pub async fn remove(&self, id: &str, force: bool) -> Result<()> {
        let record = match self.get(id) {
            Err(Error::NotFound(_)) if force => return Ok(()),
            other => other?,
        };
        if matches!(record.life().map_err(failed)?, Life::Running(_)) || self.starting.lock().contains(id) {
            if !force {
                return Err(state(id, "is running; stop it first"));
            }
            self.stop(id, Duration::ZERO).await?;
        }
        self.settled(id).await;
        // Away under another name, so that half of one is never found.
        let gone = self.dir.join(format!(".{}", record.id));
        fs::rename(&record.dir, &gone).map_err(|error| failed(format!("{}: {error}", record.dir.display())))?;
        self.records.lock().remove(&record.id);
        self.watched.lock().remove(&record.id);
        let _ = fs::remove_file(gone.join("record.json"));
        let _ = fs::remove_dir_all(&gone);
        self.tell(&record, EventKind::Removed);
        Ok(())
    }
}

/// They can be removed once the last process is gone, which takes the kernel a moment.
fn remove_groups(started: &Started) {
    let mut dirs: Vec<String> = started.cgroups.values().cloned().collect();
    dirs.dedup();
    tokio::task::spawn_blocking(move || {
        let until = Instant::now() + GROUPS;
        for dir in dirs {
            while let Err(error) = fs::remove_dir(&dir) {
                // Those of further commands, which their helpers could not remove.
                for below in fs::read_dir(&dir).into_iter().flatten().flatten() {
                    let _busy = fs::remove_dir(below.path());
                }
                if error.kind() == std::io::ErrorKind::NotFound {
                    break;
                }
                if error.kind() != std::io::ErrorKind::ResourceBusy || Instant::now() > until {
                    tracing::debug!(dir, %error, "a control group stays");
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
}

pub fn state(id: &str, why: &str) -> Error {
    Error::State {
        id: id.into(),
        why: why.into(),
    }
}
