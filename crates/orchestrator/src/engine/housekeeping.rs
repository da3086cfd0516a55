//! Now and then: trims old events, forgets first answers that expired and tasks that ended long ago, and looks at every
//! page of the store once after a start.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Engine, wall};
use crate::domain::Error;
use crate::store::Changes;

const EVERY: Duration = Duration::from_secs(600);
/// First answers, and tasks, removed in one round.
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
            tracing::warn!(%error, "failed to clean up the store; the next round tries again");
        }
    }
}

impl Engine {
    /// One round of tidying.
    pub async fn tidy(&self) -> Result<(), Error> {
        let mut changes = Changes::default();
        if let Some(through) = self.trim_through().await? {
            changes.trim(through);
        }
        let (stored, now) = (&self.shared.stored, wall());
        stored.forget_expired(now, AT_ONCE, &mut changes).await?;
        stored
            .forget_tasks(now.saturating_sub(TASK_KEPT_NS), AT_ONCE, &mut changes)
            .await?;
        if changes.is_empty() {
            return Ok(());
        }
        self.store(changes).await
    }

    /// Kept first answers that name a session, and the calls they answer, hold its words: they go before it does.
    pub(super) async fn forget_answers(&self, session: u64) -> Result<(), Error> {
        loop {
            let mut changes = Changes::default();
            let more = self
                .shared
                .stored
                .forget_answers(session, AT_ONCE, &mut changes)
                .await?;
            if !changes.is_empty() {
                self.store(changes).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Up to which event the log is too old, or too big.
    async fn trim_through(&self) -> Result<Option<u64>, Error> {
        let (age, bytes) = (self.shared.options.event_max_age, self.shared.options.event_max_bytes);
        let newest = self.shared.ring.newest();
        let mut through = 0;
        if !age.is_zero() {
            let since = wall().saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
            through = self.shared.stored.before(since).await?;
        }
        if bytes > 0 && self.shared.stored.size().await? > bytes {
            // A tenth at a time: messages cannot be trimmed, so how much this frees is only known afterwards.
            let trimmed = self.shared.stored.trimmed().await?;
            through = through.max(trimmed + newest.saturating_sub(trimmed) / 10);
        }
        let trimmed = self.shared.stored.trimmed().await?;
        Ok((through > trimmed).then_some(through))
    }

    /// Looks at every page of the store.
    pub async fn verify(&self) -> Result<(), Error> {
        self.shared.stored.verify().await
    }
}
