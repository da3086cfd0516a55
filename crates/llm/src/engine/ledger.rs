//! Usage in memory and on disk. Recording never waits: one task writes, at most a few times a second, and once more at
//! the end. A kill loses the counts of the last moment, never more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{
        answer::Tokens,
        catalogue,
        error::Error,
        usage::{Tally, Usage},
    },
    store::{self, UsageFile},
};

const BETWEEN_WRITES: Duration = Duration::from_millis(250);

/// Cheap to clone; all clones are the same ledger.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    usage: Mutex<Usage>,
    file: UsageFile,
    // Wakes the writer; many records before it runs are one write.
    changed: Notify,
    // Whether the file lags behind memory.
    dirty: AtomicBool,
    // Writes are one at a time, so that an older state never replaces a newer one.
    writing: tokio::sync::Mutex<()>,
}

impl Ledger {
    pub fn open(file: UsageFile) -> Result<Self, store::Error> {
        let usage = Mutex::new(file.load()?);
        let (changed, dirty, writing) = (Notify::new(), AtomicBool::new(false), tokio::sync::Mutex::new(()));
        Ok(Self(Arc::new(Inner {
            usage,
            file,
            changed,
            dirty,
            writing,
        })))
    }

    pub fn record(&self, provider: &str, tokens: Tokens) {
        self.0.usage.lock().record(today(), provider, tokens);
        self.0.dirty.store(true, Ordering::Release);
        self.0.changed.notify_one();
    }

    pub fn allow(&self, budget: u64) -> Result<(), Error> {
        self.0.usage.lock().allow(today(), budget, catalogue::OFFLINE)
    }

    /// Today's and all time's.
    pub fn tally(&self, provider: &str) -> (Tally, Tally) {
        let usage = self.0.usage.lock();
        (usage.today(today(), provider), usage.total(provider))
    }

    /// Until `stop`. `told` hears of each outcome, to say in the daemon's health that usage is not kept.
    pub async fn keep(self, stop: CancellationToken, told: impl Fn(Option<String>)) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.changed.notified() => {}
            }
            told(self.save().await.err());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BETWEEN_WRITES) => {}
            }
        }
    }

    pub async fn save(&self) -> Result<(), String> {
        let _one = self.0.writing.lock().await;
        if !self.0.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let (usage, file) = (self.0.usage.lock().clone(), self.0.file.clone());
        let saved = match tokio::task::spawn_blocking(move || file.save(&usage)).await {
            Ok(saved) => saved.map_err(|error| match std::error::Error::source(&error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            }),
            Err(error) => Err(format!("failed to write usage: {error}")),
        };
        if let Err(reason) = &saved {
            tracing::warn!(reason, "usage is not saved");
            self.0.dirty.store(true, Ordering::Release);
        }
        saved
    }
}

/// Days since 1970-01-01 UTC.
fn today() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs() / 86_400)
}
