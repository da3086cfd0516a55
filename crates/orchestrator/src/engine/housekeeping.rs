//! Now and then: trims old events, forgets first answers that expired and tasks that ended long ago, and looks at every
//! page of the store once after a start.

use std::time::Duration;

use nexus_store::{Op, Table, Transaction};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::publish::Pending;
use super::{Engine, wall};
use crate::domain::{Error, event};
use crate::store::{FIRST, First, TASK, task};

const EVERY: Duration = Duration::from_secs(600);
/// Documents removed from a table in one round.
const AT_ONCE: usize = 10_000;
/// Documents read at once.
const PAGE: usize = 512;
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
        let first_over = |_: &[u8], value: &[u8]| Ok(First::decode(value).map_or(true, |first| first.expires <= now));
        let task_over = |key: &[u8], value: &[u8]| {
            let ended = task(key, value)?.wire.completed_at;
            Ok(ended.is_some_and(|at| event::time(&at) < now.saturating_sub(TASK_KEPT_NS)))
        };
        self.collect_old(FIRST, first_over, &mut ops).await?;
        self.collect_old(TASK, task_over, &mut ops).await?;
        if ops.is_empty() {
            return Ok(());
        }
        self.change_disk(ops).await
    }

    /// Kept first answers that name a session, and the calls they answer, hold its words: they go before it does.
    pub(super) async fn forget_answers(&self, session_id: &str) -> Result<(), Error> {
        loop {
            let mut ops = Vec::new();
            let names = |value: &[u8]| {
                value
                    .windows(session_id.len())
                    .any(|part| part == session_id.as_bytes())
            };
            self.collect_old(FIRST, |_, value| Ok(names(value)), &mut ops).await?;
            if ops.is_empty() {
                return Ok(());
            }
            self.change_disk(ops).await?;
        }
    }

    /// Adds the removal of what is old in a table, up to a bound; the next round finds the rest.
    async fn collect_old(
        &self,
        table: Table,
        is_old: impl Fn(&[u8], &[u8]) -> Result<bool, Error>,
        ops: &mut Vec<Op>,
    ) -> Result<(), Error> {
        let most = ops.len() + AT_ONCE;
        let mut from = Vec::new();
        while ops.len() < most {
            let page = self.inner.reader.scan(table, from, vec![0xff; 9], PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            from = [last, &[0][..]].concat();
            for (key, value) in &page {
                if is_old(key, value)? {
                    ops.push(Op::Delete {
                        table,
                        key: key.clone(),
                    });
                }
            }
        }
        Ok(())
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
            let receipt = Pending {
                tx,
                epoch,
                drafts: Vec::new(),
                first: 0,
                effects: Vec::new(),
                tell: Some(tell),
            };
            permit.send(Transaction {
                epoch,
                grows: false,
                ops,
                receipt,
            });
        }
        done.await.map_err(|_| nexus_store::Error::Closed)?
    }

    /// Looks at every page of the store.
    pub async fn verify(&self) -> Result<(), Error> {
        Ok(self.inner.reader.verify().await?)
    }
}
