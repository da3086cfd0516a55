//! Changes on their way to the disk, and waiting for them.

use super::ledger::{Next, Outcome};
use super::{Engine, Parts, outlets};
use crate::domain::{Error, State, Step};
use crate::store::{Answer, Changes};

/// A change that was decided and queued: its answer, and when it is on disk.
pub(crate) struct Queued<R> {
    pub answer: R,
    outcome: Option<Outcome>,
}

impl<R> Queued<R> {
    /// Does not wait: for what may happen again after a crash.
    pub fn answer_now(self) -> R {
        self.answer
    }

    /// Waits until it is on disk.
    pub async fn done(self) -> Result<R, Error> {
        match self.outcome {
            None => Ok(self.answer),
            Some(outcome) => outcome
                .await
                .map_err(|_| nexus_store::Error::Closed)?
                .map(|()| self.answer),
        }
    }
}

impl Engine {
    /// Decides a change, waits until it is on disk, and gives its answer.
    pub(crate) async fn write<R>(
        &self,
        f: impl FnOnce(&mut State, &mut Step<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.queue(|parts, step| f(parts.state, step)).await?.done().await
    }

    /// Decides a change and queues it; the caller waits for the disk when it wants to.
    pub(crate) async fn queue<R>(
        &self,
        f: impl FnOnce(&mut Parts<'_>, &mut Step<'_>) -> Result<R, Error>,
    ) -> Result<Queued<R>, Error> {
        self.queue_with(f, |_| None).await
    }

    /// As [`Engine::queue`], with one more change on disk that is made of the answer.
    pub(crate) async fn queue_with<R>(
        &self,
        f: impl FnOnce(&mut Parts<'_>, &mut Step<'_>) -> Result<R, Error>,
        beside: impl FnOnce(&R) -> Option<Answer>,
    ) -> Result<Queued<R>, Error> {
        let writer = self.shared.writer.lock().clone().ok_or(nexus_store::Error::Closed)?;
        let permit = writer.reserve().await?;
        let mut ledger = self.shared.ledger.lock();
        let committed = *self.shared.committed.borrow();
        let (answer, next) = ledger.decide(permit, committed, f, beside)?;
        let outcome = match next {
            Next::Wait(outcome) => Some(outcome),
            Next::Run(effects) => {
                outlets::follow(self, &mut ledger, effects);
                None
            }
        };
        Ok(Queued { answer, outcome })
    }

    /// Stores changes that touch nothing in memory.
    pub(super) async fn store(&self, changes: Changes) -> Result<(), Error> {
        let writer = self.shared.writer.lock().clone().ok_or(nexus_store::Error::Closed)?;
        let permit = writer.reserve().await?;
        let outcome = self.look_mut(|ledger| ledger.append(permit, changes));
        outcome.await.map_err(|_| nexus_store::Error::Closed)?
    }

    /// Waits until transaction `tx` is on disk, or has failed and is undone.
    pub(crate) async fn settled(&self, tx: u64) -> Result<(), Error> {
        if *self.shared.committed.borrow() >= tx {
            return Ok(());
        }
        let mut committed = self.shared.committed.subscribe();
        let settled = tokio::time::timeout(
            self.shared.options.store.read_deadline,
            committed.wait_for(|at| *at >= tx),
        );
        settled
            .await
            .map_err(|_| nexus_store::Error::Busy)?
            .map_err(|_| nexus_store::Error::Closed)?;
        Ok(())
    }

    /// Waits until what was seen in this epoch, at this transaction, is on disk; false if it was undone.
    pub(crate) async fn came_to_be(&self, (epoch, tx): (u64, u64)) -> Result<bool, Error> {
        if *self.shared.committed.borrow() >= tx {
            return Ok(true);
        }
        self.settled(tx).await?;
        Ok(self.look(|ledger| ledger.epoch == epoch))
    }
}
