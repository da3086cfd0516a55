//! Now and then: trims old events, forgets first answers that expired and tasks that ended long ago, and looks at every
//! page of the store once after a start.

use std::time::Duration;

use nexus_store::{Op, Transaction};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::publish::Pending;
use super::{Engine, wall};
use crate::domain::Error;
use crate::store::{FIRST, First, TASK, task};

const EVERY: Duration = Duration::from_secs(600);
/// Documents looked at in one round.
const AT_ONCE: usize = 10_000;
/// How long a task that ended can still be asked for.
const TASK_KEPT_NS: i64 = 7 * 24 * 3600 * 1_000_000_000;

pub(super) async fn run(engine: Engine, stop: CancellationToken) {
    let mut sleep = Duration::from_secs(60);
    loop {
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = stop.cancelled() => return,
        }
        sleep = EVERY;
        if let Err(error) = engine.tidy().await {
            tracing::warn!(%error, "failed to tidy the store; the next round tries again");
        }
    }
}

impl Engine {
    /// One round of tidying.
    pub async fn tidy(&self) -> Result<(), Error> {
        let mut ops = Vec::new();
        if let Some(through) = self.trim_through().await? {
            ops.push(Op::Trim { through });
        }
        let now = wall();
        for (key, value) in self.inner.reader.scan(FIRST, Vec::new(), vec![0xff; 9], AT_ONCE).await? {
            if First::decode(value).map_or(true, |first| first.expires <= now) {
                ops.push(Op::Delete { table: FIRST, key });
            }
        }
        for (key, value) in self.inner.reader.scan(TASK, Vec::new(), vec![0xff; 9], AT_ONCE).await? {
            let ended = task(&key, &value)?.wire.completed_at;
            if ended.is_some_and(|at| crate::domain::event::time(&at) < now.saturating_sub(TASK_KEPT_NS)) {
                ops.push(Op::Delete { table: TASK, key });
            }
        }
        if ops.is_empty() {
            return Ok(());
        }
        self.change_disk(ops).await
    }

    /// Up to which event the log is too old, or too big.
    async fn trim_through(&self) -> Result<Option<u64>, Error> {
        let (age, bytes) = (self.inner.options.event_max_age, self.inner.options.event_max_bytes);
        let newest = self.inner.ring.newest();
        let mut through = 0;
        if !age.is_zero() {
            let since = wall().saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
            through = self.inner.reader.before(since).await?;
        }
        if bytes > 0 && self.inner.reader.size().await? > bytes {
            // A tenth at a time: messages cannot be trimmed, so how much this frees is only known afterwards.
            let trimmed = self.inner.reader.trimmed().await?;
            through = through.max(trimmed + newest.saturating_sub(trimmed) / 10);
        }
        let trimmed = self.inner.reader.trimmed().await?;
        Ok((through > trimmed).then_some(through))
    }

    /// Changes that touch nothing in memory.
    async fn change_disk(&self, ops: Vec<Op>) -> Result<(), Error> {
        let writer = self.inner.writer.lock().clone().ok_or(nexus_store::Error::Closed)?;
        let permit = writer.reserve().await?;
        let (tell, done) = tokio::sync::oneshot::channel();
        {
            let mut core = self.inner.core.lock();
            core.tx += 1;
            let (tx, epoch) = (core.tx, core.epoch);
            let receipt =
                Pending { tx, epoch, drafts: Vec::new(), published: Vec::new(), effects: Vec::new(), tell: Some(tell) };
            permit.send(Transaction { epoch, grows: false, ops, receipt });
        }
        done.await.map_err(|_| nexus_store::Error::Closed)?
    }

    /// Looks at every page of the store.
    pub async fn verify(&self) -> Result<(), Error> {
        Ok(self.inner.reader.verify().await?)
    }
}
