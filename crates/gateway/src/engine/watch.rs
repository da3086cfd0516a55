//! Watches the orchestrator: whether it can be reached, and which of our sessions it closed.
//!
//! Listening starts before the list is read, so nothing closes unseen in between; after every loss both are done again.

use nexus_client::{Backoff, Error, Kind};
use nexus_proto::orchestrator::v1::Event;
use tonic::Streaming;

use super::{Handle, now};

/// The part of our health that is the orchestrator.
pub const PART: &str = "orchestrator";

impl Handle {
    pub(super) async fn watch(self) {
        let mut backoff = self.inner.orchestrator.connection().backoff().endless();
        loop {
            let error = match self.listen(&mut backoff).await {
                Ok(()) => Error::new(Kind::Unavailable, "the orchestrator ended the events"),
                Err(error) => error,
            };
            let known = !self.inner.health.degraded().iter().any(|(part, _)| part == PART);
            if known {
                tracing::warn!(%error, hint = error.hint, "the orchestrator cannot be reached");
            }
            self.inner.health.degrade(PART, Some(error.to_string()));
            backoff.wait().await;
        }
    }

    async fn listen(&self, backoff: &mut Backoff) -> Result<(), Error> {
        let mut events = self.inner.orchestrator.closings().await?;
        self.compare().await?;
        self.inner.health.degrade(PART, None);
        backoff.reset();
        self.settle().await;
        while let Some(event) = next(&mut events).await? {
            if event.gap.is_some() {
                self.compare().await?;
                continue;
            }
            let closed = event.metadata.map(|metadata| metadata.session_id).unwrap_or_default();
            let ours = self.inner.book.lock().of_orchestrator(&closed);
            if let Some(id) = ours {
                self.closed_there(&id).await;
            }
        }
        Ok(())
    }

    /// Closes what the orchestrator no longer has open.
    async fn compare(&self) -> Result<(), Error> {
        let before = now();
        let ours: Vec<(String, String)> = {
            let book = self.inner.book.lock();
            let older = book
                .iter()
                .map(|entry| &entry.session)
                .filter(|session| session.created_at <= before);
            older
                .map(|session| (session.id.clone(), session.orchestrator_session.clone()))
                .collect()
        };
        if ours.is_empty() {
            return Ok(());
        }
        let open = self.inner.orchestrator.open_sessions().await?;
        for (id, _) in ours.into_iter().filter(|(_, there)| !open.contains(there)) {
            self.closed_there(&id).await;
        }
        Ok(())
    }

    async fn closed_there(&self, id: &str) {
        match self.end(id, "closed at the orchestrator", None).await {
            Ok(true) => tracing::info!(session = id, "closed at the orchestrator"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, session = id, "failed to close a session"),
        }
    }
}

async fn next(events: &mut Streaming<Event>) -> Result<Option<Event>, Error> {
    Ok(events.message().await?)
}
