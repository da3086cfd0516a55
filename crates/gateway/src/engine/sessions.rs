//! Creates, finds, uses and closes sessions.

use nexus_client::Kind as Remote;
use nexus_daemon::Caller;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Handle, new_id, now, once, once::Before};
use crate::{
    Error,
    domain::{
        event::{Event, Kind},
        filter::SessionFilter,
        message::Asked,
        session::{Command, NewSession, Outcome, Session},
    },
    store::Change,
};

/// A message that is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub message_id: String,
    pub session_id: String,
    pub time: i64,
}

impl Handle {
    pub async fn create(&self, caller: &Caller, requested: NewSession, key: Option<&str>) -> Result<Session, Error> {
        requested.check()?;
        if requested.requires_auth() && caller.is_anonymous() {
            return Err(Error::RequiresAuth);
        }
        let ticket = match self.before(caller, "CreateGatewaySession", key, &requested).await? {
            Before::Answered(session) => return Ok(session),
            Before::Fresh(ticket) => ticket,
        };
        let most = self.inner.config.read().max_sessions;
        if !self.inner.book.lock().reserve(most) {
            return Err(Error::TooManySessions(most));
        }
        // In a task of its own: a caller that goes away in the middle leaves nothing half made.
        let (handle, owner) = (self.clone(), caller.principal.to_string());
        let made = tokio::spawn(async move {
            let made = handle.make(owner, requested, ticket).await;
            handle.inner.book.lock().release();
            made
        });
        made.await.map_err(|_| Error::Deadline("make a session"))?
    }

    /// The intent is written first, so that nothing is left behind at the orchestrator whatever fails.
    async fn make(&self, owner: String, requested: NewSession, ticket: Option<once::Ticket>) -> Result<Session, Error> {
        let mut session = Session::new(new_id()?, owner, requested, now());
        self.inner
            .store
            .commit(Change::default().put(&session), session.created_at)
            .await?;
        match self.inner.orchestrator.create_session(&session, &session.id).await {
            Ok(made) => session.orchestrator_session = made,
            Err(error) => {
                self.abandon(session);
                return Err(error.into());
            }
        }
        let mut open = session.clone();
        open.step(Command::Open, now())?;
        let event = Event::of(&open, Kind::SessionCreated)
            .with("gateway_session_id", &open.id)
            .with("orch_session_id", &open.orchestrator_session)
            .with("name", &open.requested.metadata.name)
            .with("user_id", &open.requested.metadata.user_id);
        let change = once::answered(Change::default().put(&open).event(event), ticket.as_ref(), &open);
        if let Err(error) = self.inner.store.commit(change, open.updated_at).await {
            self.abandon(session);
            return Err(error);
        }
        self.inner.book.lock().insert(open.clone());
        self.inner.sooner.notify_one();
        Ok(open)
    }

    fn abandon(&self, session: Session) {
        self.inner.abandoned.lock().push(session);
        self.inner.tend.notify_one();
    }

    /// What others made is not there.
    pub fn get(&self, caller: &Caller, id: &str) -> Result<Session, Error> {
        self.find(caller, id).map(|(session, _)| session)
    }

    pub(super) fn find(&self, caller: &Caller, id: &str) -> Result<(Session, CancellationToken), Error> {
        let book = self.inner.book.lock();
        let entry = book
            .get(id)
            .filter(|entry| caller.sees(&entry.session.owner))
            .ok_or(Error::SessionNotFound)?;
        if entry.session.requested.requires_auth() && caller.is_anonymous() {
            return Err(Error::RequiresAuth);
        }
        Ok((entry.session.clone(), entry.ended.clone()))
    }

    /// Oldest first.
    pub fn list(&self, caller: &Caller, filter: &SessionFilter) -> Vec<Session> {
        let mut found: Vec<Session> = {
            let book = self.inner.book.lock();
            let seen = book
                .iter()
                .map(|entry| &entry.session)
                .filter(|session| caller.sees(&session.owner));
            seen.filter(|session| filter.matches(session)).cloned().collect()
        };
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        found
    }

    pub async fn close(&self, caller: &Caller, id: &str, reason: &str, key: Option<&str>) -> Result<(), Error> {
        let ticket = match self.before(caller, "CloseGatewaySession", key, &(id, reason)).await? {
            Before::Answered(()) => return Ok(()),
            Before::Fresh(ticket) => ticket,
        };
        let (session, _) = self.find(caller, id)?;
        self.inner
            .orchestrator
            .close_session(&session.orchestrator_session, reason)
            .await?;
        if self.end(id, reason, ticket.as_ref()).await? || ticket.is_none() {
            return Ok(());
        }
        // Someone else's close came between; the answer to this one must be known all the same.
        let change = once::answered(Change::default(), ticket.as_ref(), &());
        self.inner.store.commit(change, now()).await?;
        Ok(())
    }

    /// Ends a session here; the orchestrator's side is closed already, or closes by itself. False if it was gone.
    pub(super) async fn end(&self, id: &str, reason: &str, ticket: Option<&once::Ticket>) -> Result<bool, Error> {
        let Some(turn) = self.turn_of(id) else { return Ok(false) };
        let _turn = turn.lock().await;
        let Some(mut session) = self.present(id) else {
            return Ok(false);
        };
        session.step(Command::Close, now())?;
        let change = once::answered(closing(&session, reason), ticket, &());
        self.inner.store.commit(change, session.updated_at).await?;
        self.inner.book.lock().remove(id);
        Ok(true)
    }

    /// Time has passed for this session.
    pub(super) async fn tick(&self, id: &str) -> Result<(), Error> {
        let Some(turn) = self.turn_of(id) else { return Ok(()) };
        let _turn = turn.lock().await;
        let Some(mut session) = self.present(id) else {
            return Ok(());
        };
        match session.step(Command::Tick, now())? {
            Outcome::Idled => {
                let event = Event::of(&session, Kind::SessionUpdated).with("state", "idle");
                self.inner
                    .store
                    .commit(Change::default().put(&session).event(event), session.updated_at)
                    .await?;
                self.show(session);
            }
            Outcome::Expired => {
                self.inner
                    .store
                    .commit(closing(&session, "timeout"), session.updated_at)
                    .await?;
                self.inner.book.lock().remove(id);
                let (handle, orchestrator_session) = (self.clone(), session.orchestrator_session);
                // Its own timeout is the same; this only makes it sooner.
                tokio::spawn(async move {
                    let closed = handle
                        .inner
                        .orchestrator
                        .close_session(&orchestrator_session, "timeout")
                        .await;
                    if let Err(error) = closed {
                        tracing::debug!(%error, orchestrator_session, "left to its own timeout");
                    }
                });
            }
            Outcome::Unchanged | Outcome::Opened | Outcome::Used | Outcome::Woke | Outcome::Closed => {}
        }
        Ok(())
    }

    /// A message is about to be sent: wakes the session, and checks the message's size.
    pub(super) async fn touch(&self, id: &str, size: usize) -> Result<(), Error> {
        let turn = self.turn_of(id).ok_or(Error::SessionClosed)?;
        let _turn = turn.lock().await;
        let mut session = self.present(id).ok_or(Error::SessionClosed)?;
        let most = usize::try_from(self.inner.config.read().max_message_size).unwrap_or(usize::MAX);
        session.check_size(size, most)?;
        if session.step(Command::Use, now())? == Outcome::Woke {
            let event = Event::of(&session, Kind::SessionUpdated).with("state", "active");
            self.inner
                .store
                .commit(Change::default().put(&session).event(event), session.updated_at)
                .await?;
            self.show(session);
        } else {
            self.show(session);
            if let Some(entry) = self.inner.book.lock().get_mut(id) {
                entry.dirty = true;
            }
        }
        self.inner.sooner.notify_one();
        Ok(())
    }

    pub async fn send(&self, caller: &Caller, id: &str, asked: Asked, key: Option<&str>) -> Result<Sent, Error> {
        let (session, _) = self.find(caller, id)?;
        let ticket = match self.before(caller, "GatewaySendMessage", key, &(id, &asked)).await? {
            Before::Answered(sent) => return Ok(sent),
            Before::Fresh(ticket) => ticket,
        };
        self.touch(id, asked.content.len()).await?;
        let chosen = !asked.id.is_empty();
        let (fresh, correlation_id) = (new_id()?, asked.correlation_id.clone());
        // With a key the id is made of it: what a crash left stored is found again, not stored twice.
        let outgoing = asked.outgoing(|| ticket.as_ref().map_or(fresh, once::Ticket::id));
        let (message_id, time) = match self
            .inner
            .orchestrator
            .send(&session.orchestrator_session, outgoing)
            .await
        {
            Ok(sent) => sent,
            Err(error) if error.kind == Remote::Exists && !chosen => return Err(Error::KeyReused),
            Err(error) => return Err(self.refused(id, error).await),
        };
        let sent = Sent {
            message_id,
            session_id: id.into(),
            time: time.unwrap_or_else(now),
        };
        let followed_by = if correlation_id.is_empty() {
            &sent.message_id
        } else {
            &correlation_id
        };
        tracing::debug!(
            correlation_id = followed_by,
            message_id = sent.message_id,
            session_id = id,
            "message sent"
        );
        let event = Event::of(&session, Kind::MessageSent).about(&sent.message_id, &correlation_id);
        let change = once::answered(Change::default().event(event), ticket.as_ref(), &sent);
        self.inner.store.commit(change, now()).await?;
        Ok(sent)
    }

    /// What the orchestrator's refusal means here. A session it has closed is closed here too.
    pub(super) async fn refused(&self, id: &str, error: nexus_client::Error) -> Error {
        if !matches!(error.kind, Remote::NotFound | Remote::Precondition) {
            return error.into();
        }
        match self.end(id, "closed at the orchestrator", None).await {
            Ok(_) => Error::SessionClosed,
            Err(failed) => failed,
        }
    }

    /// Writes down when sessions were last used.
    pub(super) async fn remember_use(&self) {
        let dirty: Vec<String> = {
            let mut book = self.inner.book.lock();
            let used = book
                .iter_mut()
                .filter_map(|entry| std::mem::take(&mut entry.dirty).then_some(&entry.session.id));
            used.cloned().collect()
        };
        for id in dirty {
            let Some(turn) = self.turn_of(&id) else { continue };
            let _turn = turn.lock().await;
            let Some(session) = self.present(&id) else { continue };
            if let Err(error) = self.inner.store.commit(Change::default().put(&session), now()).await {
                tracing::warn!(%error, session = session.id, "failed to write when it was last used");
            }
        }
    }

    /// True if no stream told of this answer yet.
    pub(super) fn tells(&self, id: &str, sequence: u64) -> bool {
        let mut book = self.inner.book.lock();
        let Some(entry) = book.get_mut(id) else { return false };
        let news = sequence == 0 || sequence > entry.told;
        entry.told = entry.told.max(sequence);
        news
    }

    fn turn_of(&self, id: &str) -> Option<std::sync::Arc<tokio::sync::Mutex<()>>> {
        self.inner.book.lock().get(id).map(|entry| entry.turn.clone())
    }

    fn present(&self, id: &str) -> Option<Session> {
        self.inner.book.lock().get(id).map(|entry| entry.session.clone())
    }

    fn show(&self, session: Session) {
        if let Some(entry) = self.inner.book.lock().get_mut(&session.id) {
            entry.session = session;
        }
    }
}

fn closing(session: &Session, reason: &str) -> Change {
    let event = Event::of(session, Kind::SessionClosed)
        .with("gateway_session_id", &session.id)
        .with("orch_session_id", &session.orchestrator_session)
        .with("reason", reason);
    Change::default().remove(&session.id).event(event)
}
