//! Reads sessions: from memory while they are open, else from disk.

use std::sync::Arc;

use bytes::Bytes;
use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::{
    CloseSessionRequest, CloseSessionResponse, CreateSessionRequest, CreateSessionResponse, DeleteSessionRequest,
    DeleteSessionResponse, GetSessionResponse, Message, Session as Wire, SessionContext, SessionMetadata, SessionState,
    UpdateSessionRequest, UpdateSessionResponse,
};

use super::listing::LISTED_MESSAGES;
use super::{Engine, Once, wire as wire_form};
use crate::domain::session::wire;
use crate::domain::sessions::{View, session_not_found};
use crate::domain::{Error, ids};

/// Messages read from disk at once.
const READ_AT_ONCE: usize = 256;

/// Which messages of a session an answer carries.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub newest: usize,
    /// Only those before this number; 0 for all.
    pub before: u64,
}

/// A session as far as memory goes.
enum Held<R> {
    Whole(R),
    Rest(Rest),
}

/// A session whose messages with `start <= n < end` have to be read from disk.
struct Rest {
    key: u64,
    session: Box<Wire>,
    start: u64,
    end: u64,
}

impl Engine {
    pub async fn create_session(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: CreateSessionRequest,
    ) -> Result<CreateSessionResponse, Error> {
        View::of(caller, "make sessions")?;
        self.room()?;
        self.once(once, |parts, step| {
            let metadata = request.metadata.unwrap_or_default();
            let key = parts.state.create_session(step, caller, metadata, request.config)?;
            let session = parts.state.sessions.get(key).expect("it was just made");
            let wire = wire(session, Vec::new(), 0);
            Ok(CreateSessionResponse {
                session_id: wire.id.clone(),
                session: Some(wire),
            })
        })
        .await
    }

    pub async fn update_session(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: UpdateSessionRequest,
    ) -> Result<UpdateSessionResponse, Error> {
        self.room()?;
        let key = self
            .open_session_for(&request.session_id, View::of(caller, "update sessions")?, &once)
            .await?;
        let mut answer: UpdateSessionResponse = self
            .once(once, |parts, step| {
                let key = key?;
                parts
                    .state
                    .update_session(step, key, request.metadata, request.context)?;
                let session = parts.state.sessions.get(key).expect("it was just updated");
                Ok(UpdateSessionResponse {
                    session: Some(wire(session, Vec::new(), session.head())),
                })
            })
            .await?;
        if let Some(session) = &mut answer.session {
            let wanted = Wanted {
                newest: LISTED_MESSAGES,
                before: 0,
            };
            match self.session(&session.id, View::All, wanted).await {
                Ok(now) => {
                    let (now, shown) = (now.context.unwrap_or_default(), session.context.get_or_insert_default());
                    (shown.messages, shown.messages_omitted) = (now.messages, now.messages_omitted);
                }
                // Deleted meanwhile, or too much for an answer: the change is made, whatever is shown of the rest.
                Err(Error::SessionNotFound(_) | Error::TooLarge { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(answer)
    }

    pub async fn close_session(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: CloseSessionRequest,
    ) -> Result<CloseSessionResponse, Error> {
        let key = self
            .open_session_for(&request.session_id, View::of(caller, "close sessions")?, &once)
            .await?;
        self.once(once, |parts, step| {
            parts.state.close_session(step, key?, &request.reason)?;
            Ok(CloseSessionResponse {
                session_id: request.session_id,
                state: SessionState::Closed.into(),
            })
        })
        .await
    }

    pub async fn delete_session(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: DeleteSessionRequest,
    ) -> Result<DeleteSessionResponse, Error> {
        let key = self
            .open_session_for(&request.session_id, View::of(caller, "delete sessions")?, &once)
            .await?;
        if let Ok(key) = key {
            self.forget_answers(key).await?;
        }
        self.once(once, |parts, step| {
            parts.state.delete_session(step, key?)?;
            Ok(DeleteSessionResponse {
                session_id: request.session_id,
            })
        })
        .await
    }

    /// Makes sure that a session is in memory, if there is one that this caller may see. Returns its key.
    pub(crate) async fn open_session(&self, id: &str, view: View<'_>) -> Result<u64, Error> {
        loop {
            let (held, removals, tx) = self.look(|ledger| {
                let held = ledger.state.sessions.visible(id, view).map(|session| session.key);
                (held, ledger.cache.removals, ledger.tx)
            });
            match held {
                Err(Error::SessionNotFound(_)) => {}
                other => return other,
            }
            let missing = || Error::SessionNotFound(id.into());
            let key = ids::number(id).ok_or_else(missing)?;
            // What left the memory may be changed on disk, or gone, only once its transaction is there.
            self.settled(tx).await?;
            let found = self.shared.stored.session(key).await?.ok_or_else(missing)?;
            if *found.id != *id || !view.shows(&found) {
                return Err(missing());
            }
            let opened = self.look_mut(|ledger| {
                let same = ledger.cache.removals == removals;
                if same && ledger.state.sessions.get(key).is_none() {
                    ledger.state.sessions.insert(found);
                    ledger.cache.loaded(&mut ledger.state.sessions, key);
                }
                same
            });
            if opened {
                return Ok(key);
            }
        }
    }

    /// As [`Engine::open_session`] for a call that may be a repeat: that gets its first answer, also where the session is
    /// gone since.
    async fn open_session_for(
        &self,
        id: &str,
        view: View<'_>,
        once: &Option<Once>,
    ) -> Result<Result<u64, Error>, Error> {
        match self.open_session(id, view).await {
            Err(Error::SessionNotFound(id)) if once.is_some() => Ok(Err(Error::SessionNotFound(id))),
            key => key.map(Ok),
        }
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
        if let Some(found) = self.look(|ledger| ledger.state.sessions.get(key).map(shown)) {
            return Ok(Some(found));
        }
        let found = self.shared.stored.session(key).await?;
        Ok(found.as_ref().map(shown))
    }

    /// A session with its messages.
    pub async fn session(&self, id: &str, view: View<'_>, wanted: Wanted) -> Result<Wire, Error> {
        let held = self.session_held(id, view, wanted, |session, messages| Wire {
            context: session.context.map(|context| SessionContext {
                messages: messages.iter().map(|message| Message::clone(message)).collect(),
                ..context
            }),
            ..session
        });
        match held.await? {
            Held::Whole(session) => Ok(session),
            Held::Rest(rest) => self.session_read(rest).await,
        }
    }

    /// The same as a `GetSessionResponse` that is ready to be sent.
    pub async fn session_found(&self, id: &str, caller: &Caller, wanted: Wanted) -> Result<Bytes, Error> {
        let view = self.look(|ledger| ledger.state.reading_view(id, caller))?;
        let max = self.max_message_bytes();
        let found = match self.session_held(id, view, wanted, wire_form::session_found).await? {
            Held::Whole(found) => found,
            Held::Rest(rest) => {
                let session = Some(self.session_read(rest).await?);
                prost::Message::encode_to_vec(&GetSessionResponse { session }).into()
            }
        };
        if found.len() > max {
            let with = "message_limit";
            return Err(Error::TooLarge { max, with });
        }
        Ok(found)
    }

    /// The result of `made` for a session and its messages, where all wanted messages are in memory.
    async fn session_held<R>(
        &self,
        id: &str,
        view: View<'_>,
        wanted: Wanted,
        made: impl Fn(Wire, &[&Arc<Message>]) -> R,
    ) -> Result<Held<R>, Error> {
        let key = self.open_session(id, view).await?;
        loop {
            let (held, seen) = self.look(|ledger| {
                let session = ledger.state.sessions.get(key).ok_or_else(|| session_not_found(key))?;
                let kept = ledger.cache.of(session);
                let end = if wanted.before > 0 {
                    wanted.before.min(kept.committed() + 1)
                } else {
                    kept.committed() + 1
                };
                let start = end.saturating_sub(wanted.newest as u64).max(1);
                let bare = wire(session, Vec::new(), start - 1);
                let held = if start < kept.start() && start < end {
                    let session = Box::new(bare);
                    Held::Rest(Rest {
                        key,
                        session,
                        start,
                        end,
                    })
                } else {
                    let messages: Vec<_> = (start..end).filter_map(|n| kept.message(n)).collect();
                    Held::Whole(made(bare, &messages))
                };
                Ok::<_, Error>((held, (ledger.epoch, kept.version())))
            })?;
            // What was seen is told once it is on disk, and not if it never came to be.
            if self.came_to_be(seen).await? {
                return Ok(held);
            }
        }
    }

    async fn session_read(&self, rest: Rest) -> Result<Wire, Error> {
        let mut session = *rest.session;
        let messages = self.read_all(rest.key, rest.start, rest.end).await?;
        session.context.get_or_insert_default().messages = messages;
        Ok(session)
    }

    /// Messages with `start <= n < end`, a piece at a time, so that nothing is read that could not be sent.
    async fn read_all(&self, key: u64, start: u64, end: u64) -> Result<Vec<Message>, Error> {
        let max = self.max_message_bytes();
        let (mut messages, mut bytes, mut after) = (Vec::new(), 0, start - 1);
        while after + 1 < end {
            let read = self.read_messages(key, after, end, READ_AT_ONCE, false).await?;
            let Some(last) = read.last() else { break };
            after = last.sequence;
            bytes += read.iter().map(|message| message.content.len()).sum::<usize>();
            if bytes > max {
                return Err(Error::TooLarge {
                    max,
                    with: "message_limit",
                });
            }
            messages.extend(read);
        }
        Ok(messages)
    }

    /// Sessions that are ACTIVE or IDLE.
    pub fn active_sessions(&self) -> usize {
        self.look(|ledger| ledger.state.sessions.all_live())
    }

    pub fn active_tasks(&self) -> usize {
        self.look(|ledger| ledger.state.tasks.iter().count())
    }
}
