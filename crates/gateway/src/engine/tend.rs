//! Periodic work: timeouts, half-created sessions, and retention.

use std::time::Duration;

use super::{Handle, nanos, now};
use crate::{
    domain::session::Session,
    store::{Change, FIRST_ANSWER_TTL},
};

/// The longest sleep, so that a clock that jumps is noticed.
const LONGEST: Duration = Duration::from_secs(60);
/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);
const HOUSE_EVERY: Duration = Duration::from_secs(60);
/// First answers forgotten in one go.
const FORGET: usize = 1000;

impl Handle {
    /// Sessions fall asleep and end on time.
    pub(super) async fn keep_time(self) {
        loop {
            let due_at = self.inner.book.lock().due_at();
            let wait = due_at.map_or(LONGEST, |at| {
                Duration::from_nanos(u64::try_from(at - now()).unwrap_or(0))
            });
            tokio::select! {
                () = tokio::time::sleep(wait.min(LONGEST)) => {}
                () = self.inner.sooner.notified() => continue,
            }
            let due = self.inner.book.lock().due(now());
            for id in due {
                if let Err(error) = self.tick(&id).await {
                    tracing::error!(%error, session = id, "failed to change a session on time");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    pub(super) async fn keep_house(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(HOUSE_EVERY) => {}
                () = self.inner.tend.notified() => {}
            }
            self.settle().await;
            self.remember_use().await;
            let kept = nanos(self.inner.config.read().event_retention);
            if let Err(error) = self.inner.store.trim(now() - kept).await {
                tracing::warn!(%error, "failed to trim events");
            }
            loop {
                match self.inner.store.forget_answers(now() - FIRST_ANSWER_TTL, FORGET).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::warn!(%error, "failed to forget first answers");
                        break;
                    }
                }
            }
        }
    }

    /// Closes what was opened at the orchestrator for sessions that never came to be.
    pub(super) async fn settle(&self) {
        let abandoned = std::mem::take(&mut *self.inner.abandoned.lock());
        for session in abandoned {
            if let Err(error) = self.undo(&session).await {
                tracing::warn!(%error, session = session.id, "a session that was never finished is not cleaned up yet");
                self.inner.abandoned.lock().push(session);
            }
        }
    }

    async fn undo(&self, session: &Session) -> Result<(), crate::Error> {
        let orchestrator = &self.inner.orchestrator;
        let made = if session.orchestrator_session.is_empty() {
            // With the key of the first try: the session it made, if it made one.
            match orchestrator.create_session(session, &session.id).await {
                Ok(made) => Some(made),
                Err(error) if error.is_retryable() => return Err(error.into()),
                Err(_refused) => None,
            }
        } else {
            Some(session.orchestrator_session.clone())
        };
        if let Some(made) = made {
            orchestrator.close_session(&made, "it was never finished").await?;
        }
        self.inner
            .store
            .commit(Change::default().remove(&session.id), now())
            .await?;
        Ok(())
    }
}
