//! Sessions read back: from memory where they are live, from disk where they are not.

use std::sync::Arc;

use nexus_proto::orchestrator::v1::{
    CloseSessionRequest, CloseSessionResponse, CreateSessionRequest, CreateSessionResponse, DeleteSessionRequest,
    DeleteSessionResponse, Session as Wire, SessionContext, SessionFilter, SessionMetadata,
    SessionState, UpdateSessionRequest, UpdateSessionResponse,
};

use super::{Engine, Once};
use crate::domain::sessions::View;
use crate::domain::{Error, filter, ids};
use crate::domain::session::wire;
use crate::store::{self, CLOSED};

/// Messages of one session in a listing.
const LISTED_MESSAGES: usize = 100;
/// Sessions in one page when the caller asks for pages without a usable size.
const MAX_PAGE: usize = 1000;

/// Which messages of a session an answer carries.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub newest: usize,
    /// Only those before this number; 0 for all.
    pub before: u64,
}

/// One page of a listing.
#[derive(Debug)]
pub struct Page {
    pub sessions: Vec<Wire>,
    pub total: usize,
    pub next: String,
}

impl Engine {
    pub async fn create_session(
        &self,
        once: Option<Once>,
        creator: &str,
        request: CreateSessionRequest,
    ) -> Result<CreateSessionResponse, Error> {
        self.room()?;
        self.once(once, |parts, step| {
            let metadata = request.metadata.unwrap_or_default();
            let key = parts.state.create_session(step, creator, metadata, request.config)?;
            let session = parts.state.sessions.get(key).expect("it was just made");
            let wire = wire(session, Vec::new(), 0);
            Ok(CreateSessionResponse { session_id: wire.id.clone(), session: Some(wire) })
        })
        .await
    }

    pub async fn update_session(
        &self,
        once: Option<Once>,
        view: View<'_>,
        request: UpdateSessionRequest,
    ) -> Result<UpdateSessionResponse, Error> {
        self.room()?;
        let key = self.open_session(&request.session_id, view).await?;
        let mut answer = self
            .once(once, |parts, step| {
                parts.state.update_session(step, key, request.metadata, request.context)?;
                let session = parts.state.sessions.get(key).expect("it was just updated");
                Ok(UpdateSessionResponse { session: Some(wire(session, Vec::new(), session.head)) })
            })
            .await?;
        if let Some(session) = &mut answer.session {
            *session = self.session(&session.id, View::All, Wanted { newest: LISTED_MESSAGES, before: 0 }).await?;
        }
        Ok(answer)
    }

    pub async fn close_session(
        &self,
        once: Option<Once>,
        view: View<'_>,
        request: CloseSessionRequest,
    ) -> Result<CloseSessionResponse, Error> {
        let key = self.open_session(&request.session_id, view).await?;
        self.once(once, |parts, step| {
            parts.state.close_session(step, key, &request.reason)?;
            Ok(CloseSessionResponse { session_id: request.session_id, state: SessionState::Closed.into() })
        })
        .await
    }

    pub async fn delete_session(
        &self,
        once: Option<Once>,
        view: View<'_>,
        request: DeleteSessionRequest,
    ) -> Result<DeleteSessionResponse, Error> {
        let key = match (self.open_session(&request.session_id, view).await, &once) {
            // Deleting again under the same key gets the first answer, though nothing is left to find.
            (Err(Error::SessionNotFound(_)), Some(_)) => None,
            (key, _) => Some(key?),
        };
        self.once(once, |parts, step| {
            let key = key.ok_or_else(|| Error::SessionNotFound(request.session_id.clone()))?;
            parts.state.delete_session(step, key);
            Ok(DeleteSessionResponse { session_id: request.session_id })
        })
        .await
    }

    /// Makes sure that a session is in memory, if there is one that this caller may see. Returns its key.
    pub(crate) async fn open_session(&self, id: &str, view: View<'_>) -> Result<u64, Error> {
        let held = self.look(|core| core.state.sessions.visible(id, view).map(|session| session.key));
        match held {
            Err(Error::SessionNotFound(_)) => {}
            other => return other,
        }
        let missing = || Error::SessionNotFound(id.into());
        let key = ids::number(id).ok_or_else(missing)?;
        let found = self.inner.reader.run(move |read| store::find_session(read, key)).await?.ok_or_else(missing)?;
        if *found.id != *id || !view.shows(&found) {
            return Err(missing());
        }
        self.look_mut(|core| {
            if core.state.sessions.get(key).is_none() {
                core.state.sessions.insert(found);
            }
        });
        Ok(key)
    }

    /// What an event of a session shows of it.
    pub(crate) async fn session_by_key(
        &self,
        key: u64,
    ) -> Result<Option<(Arc<str>, Arc<SessionMetadata>, Arc<str>)>, Error> {
        if key == 0 {
            return Ok(None);
        }
        let shown = |session: &crate::domain::session::Session| {
            (session.id.clone(), session.metadata.clone(), session.creator.clone())
        };
        if let Some(found) = self.look(|core| core.state.sessions.get(key).map(shown)) {
            return Ok(Some(found));
        }
        let found = self.inner.reader.run(move |read| store::find_session(read, key)).await?;
        Ok(found.as_ref().map(shown))
    }

    /// A session with its messages.
    pub async fn session(&self, id: &str, view: View<'_>, wanted: Wanted) -> Result<Wire, Error> {
        let key = self.open_session(id, view).await?;
        self.settled(self.look(|core| core.state.sessions.get(key).map_or(0, |session| session.version))).await?;
        let held = self.look(|core| {
            let session = core.state.sessions.get(key).ok_or_else(|| Error::SessionNotFound(id.into()))?;
            let end = if wanted.before > 0 { wanted.before.min(session.committed + 1) } else { session.committed + 1 };
            let start = end.saturating_sub(wanted.newest as u64).max(1);
            if start < session.tail_start() && start < end {
                return Ok(Err((wire(session, Vec::new(), start - 1), start, end)));
            }
            let messages = (start..end).filter_map(|n| session.in_tail(n)).map(|stored| (*stored.message).clone());
            Ok::<_, Error>(Ok(wire(session, messages.collect(), start - 1)))
        })?;
        match held {
            Ok(session) => Ok(session),
            Err((mut session, start, end)) => {
                let messages = self.read_messages(key, start - 1, end, usize::MAX, false).await?;
                session.context.get_or_insert_with(SessionContext::default).messages = messages;
                Ok(session)
            }
        }
    }

    /// Sessions in the order of their making.
    pub async fn sessions(
        &self,
        filter: &SessionFilter,
        view: View<'_>,
        page_size: i32,
        token: &str,
        without_messages: bool,
    ) -> Result<Page, Error> {
        let size = usize::try_from(page_size).map_err(|_| Error::Invalid("page_size must not be negative".into()))?;
        let size = if size == 0 && token.is_empty() { usize::MAX } else { size.clamp(1, MAX_PAGE) };
        let after = if token.is_empty() {
            0
        } else {
            u64::from_str_radix(token, 16).map_err(|_| Error::Invalid("page_token is not one of ours".into()))?
        };
        self.settled(self.look(|core| core.tx)).await?;
        let mut keys = self.matching(filter, view).await?;
        keys.sort_unstable();
        let total = keys.len();
        keys.retain(|key| *key > after);
        let next = if keys.len() > size { format!("{:016x}", keys[size - 1]) } else { String::new() };
        keys.truncate(size);
        let wanted = Wanted { newest: if without_messages { 0 } else { LISTED_MESSAGES }, before: 0 };
        let mut sessions = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for key in keys {
            let Some((id, _, _)) = self.session_by_key(key).await? else { continue };
            let session = match self.session(&id, View::All, wanted).await {
                Err(Error::SessionNotFound(_)) => continue, // deleted meanwhile
                other => other?,
            };
            bytes += prost::Message::encoded_len(&session) + 8;
            if bytes > self.max_message_bytes() {
                return Err(Error::TooLarge { max: self.max_message_bytes(), with: "page_size or without_messages" });
            }
            sessions.push(session);
        }
        Ok(Page { sessions, total, next })
    }

    /// Keys of all sessions that a listing shows.
    async fn matching(&self, filter: &SessionFilter, view: View<'_>) -> Result<Vec<u64>, Error> {
        let mut keys: Vec<u64> = self.look(|core| {
            let live = core.state.sessions.iter().filter(|session| !session.is_closed());
            live.filter(|s| view.shows(s) && filter::shows(s, filter)).map(|session| session.key).collect()
        });
        let closed = filter.state == 0 || filter.state == i32::from(SessionState::Closed);
        let mut from = Vec::new();
        while closed {
            let page = self.inner.reader.scan(CLOSED, from.clone(), vec![0xff; 9], 1024).await?;
            let Some((last, _)) = page.last() else { break };
            from = [last, &[0][..]].concat();
            for (key, value) in &page {
                let session = store::session(key, value)?;
                if view.shows(&session) && filter::shows(&session, filter) {
                    keys.push(session.key);
                }
            }
        }
        Ok(keys)
    }

    /// Sessions that are ACTIVE or IDLE.
    pub fn active_sessions(&self) -> usize {
        self.look(|core| core.state.sessions.iter().filter(|session| !session.is_closed()).count())
    }

    pub fn active_tasks(&self) -> usize {
        self.look(|core| core.state.tasks.iter().count())
    }
}
