//! Messages on their way in: stored once, whatever is sent again.

use std::sync::Arc;

use nexus_proto::orchestrator::v1::{Message, MessageRole};
use prost::Message as _;

use super::{Engine, Once, Queued, StreamId};
use crate::domain::message::{accept, is_repeat};
use crate::domain::session::KNOWN_IDS;
use crate::domain::sessions::View;
use crate::domain::turn::{Over, Turn};
use crate::domain::{Error, ids};
use crate::store;

/// What became of a message that was sent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sent {
    #[prost(uint64, tag = "1")]
    pub n: u64,
    #[prost(string, tag = "2")]
    pub id: String,
    #[prost(message, optional, tag = "3")]
    pub timestamp: Option<nexus_proto::Timestamp>,
}

/// A message that is stored, or was before.
pub(crate) enum Submitted {
    New(Queued<Sent>),
    Repeat { sent: Sent, answer: Option<Message> },
}

impl Engine {
    /// Stores a message from a unary call.
    pub async fn send(&self, once: Option<Once>, id: &str, view: View<'_>, message: Message) -> Result<Sent, Error> {
        self.room()?;
        let message = accept(message)?;
        let key = self.open_session(id, view).await?;
        if !message.id.is_empty() {
            return match self.submit(key, message, 0).await? {
                Submitted::New(queued) => queued.done().await,
                Submitted::Repeat { sent, .. } => Ok(sent),
            };
        }
        self.once(once, |parts, step| {
            let n = parts.state.add_message(step, key, message, 0)?;
            Ok(sent(parts.state.sessions.get(key).and_then(|session| session.in_tail(n)).map(|s| &*s.message), n))
        })
        .await
    }

    /// Stores a message, unless it is there already. It is on disk once what this returns is done.
    pub(crate) async fn submit(&self, key: u64, message: Message, origin: StreamId) -> Result<Submitted, Error> {
        let asks = message.role == i32::from(MessageRole::User);
        loop {
            let looked = self.look(|core| core.state.sessions.get(key).map_or(0, |session| session.known_added));
            if let Some(stored) = self.find_message(key, &message.id).await? {
                return self.repeat(key, message, stored, origin).await;
            }
            let mut again = false;
            let queued = self
                .queue(|parts, step| {
                    let session = parts.state.sessions.get(key).ok_or_else(|| Error::SessionNotFound(String::new()))?;
                    // Ids that came since the look at the disk are in memory, unless very many came.
                    let forgot = session.known_added.saturating_sub(looked) > KNOWN_IDS as u64 / 2;
                    if !message.id.is_empty() && (forgot || session.known(&message.id).is_some()) {
                        again = true;
                        return Err(Error::MessageExists(message.id.clone()));
                    }
                    let n = parts.state.add_message(step, key, message.clone(), origin)?;
                    if asks && origin != 0 {
                        parts.streams.owes(origin, n);
                    }
                    let stored = parts.state.sessions.get(key).and_then(|session| session.in_tail(n));
                    Ok(sent(stored.map(|stored| &*stored.message), n))
                })
                .await;
            match queued {
                Err(_) if again => continue,
                queued => return Ok(Submitted::New(queued?)),
            }
        }
    }

    /// The same message again: its answer if there is one, a new turn if the last one failed.
    async fn repeat(&self, key: u64, message: Message, stored: Message, origin: StreamId) -> Result<Submitted, Error> {
        if !is_repeat(&stored, &message) {
            return Err(Error::MessageExists(message.id));
        }
        let n = stored.sequence;
        let sent = sent(Some(&stored), n);
        if stored.role != i32::from(MessageRole::User) {
            return Ok(Submitted::Repeat { sent, answer: None });
        }
        let open = self.look_mut(|core| {
            let open = core.state.sessions.get(key).is_some_and(|session| session.turns.iter().any(|turn| turn.n == n));
            if open && origin != 0 {
                core.streams.owes(origin, n);
            }
            open
        });
        if open {
            return Ok(Submitted::Repeat { sent, answer: None });
        }
        match self.turn_over(key, n).await? {
            Some(Over::Answered { answer }) => {
                let answer = self.message_at(key, answer).await?;
                Ok(Submitted::Repeat { sent, answer })
            }
            Some(Over::Failed { .. }) | None => {
                self.queue(|parts, step| {
                    parts.state.retry_turn(step, key, &stored);
                    if origin != 0 {
                        parts.streams.owes(origin, n);
                    }
                    Ok(())
                })
                .await?
                .done()
                .await?;
                Ok(Submitted::Repeat { sent, answer: None })
            }
        }
    }

    pub async fn cancel(&self, key: u64, message_id: &str) -> Result<(), Error> {
        self.write(|state, step| {
            state.cancel_turn(step, key, message_id);
            Ok(())
        })
        .await
    }

    /// How the turn of a message ended; `None` while it is open, or if it opened none.
    async fn turn_over(&self, key: u64, n: u64) -> Result<Option<Over>, Error> {
        let kept = self.inner.reader.get(store::OVER, store::pair(key, n).to_vec()).await?;
        kept.map(|value| store::over(&value)).transpose()
    }

    /// A stored message by its id, which a client or we may have chosen.
    pub(crate) async fn find_message(&self, key: u64, id: &str) -> Result<Option<Message>, Error> {
        if id.is_empty() {
            return Ok(None);
        }
        if let Some(n) = self.look(|core| core.state.sessions.get(key).and_then(|session| session.known(id))) {
            // In memory before it is on disk: what is known must not be told before it is safe.
            self.settled(self.look(|core| core.tx)).await?;
            return self.message_at(key, n).await;
        }
        let mut found = None;
        if let Some(number) = ids::number(id) {
            let n = if number & Turn::ANSWER == 0 {
                Some(number)
            } else {
                match self.turn_over(key, number & !Turn::ANSWER).await? {
                    Some(Over::Answered { answer }) => Some(answer),
                    _ => None,
                }
            };
            if let Some(n) = n.filter(|n| *n > 0 && *n <= i64::MAX as u64) {
                found = self.message_at(key, n).await?.filter(|message| message.id == id);
            }
        }
        if found.is_some() {
            return Ok(found);
        }
        let all = self.knows_all(key).await?;
        let known = self.look(|core| core.state.sessions.get(key).and_then(|session| session.known(id)));
        let n = match known {
            Some(n) => Some(n),
            None if all => None,
            None => {
                let kept = self.inner.reader.get(store::CHOSEN, store::text(key, id).to_vec()).await?;
                kept.and_then(|value| value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)))
            }
        };
        match n {
            Some(n) => self.message_at(key, n).await,
            None => Ok(None),
        }
    }

    /// Whether every id that a client chose in this session is in memory; of one that was loaded, the ids are read once.
    async fn knows_all(&self, key: u64) -> Result<bool, Error> {
        let (knows, added) = self.look(|core| {
            let session = core.state.sessions.get(key);
            session.map_or((true, 0), |session| (session.knows_all, session.known_added))
        });
        if knows || added > 0 {
            return Ok(knows);
        }
        let (from, to) = (store::key(key).to_vec(), store::above(key).to_vec());
        let ids = self.inner.reader.scan(store::CHOSEN, from, to, KNOWN_IDS).await?;
        self.look_mut(|core| {
            let Some(session) = core.state.sessions.get_mut(key).filter(|session| session.known_added == 0) else {
                return Ok(false);
            };
            let all = ids.len() < KNOWN_IDS;
            for (key, n) in ids.iter().filter(|_| all) {
                let id = String::from_utf8_lossy(&key[8..]);
                session.remember(&id, n.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)));
            }
            // One added so that a session with too many is not read again for each message.
            session.known_added = session.known_added.max(1);
            session.knows_all = all;
            Ok(all)
        })
    }

    /// A message by its number, from memory or from disk.
    pub(crate) async fn message_at(&self, key: u64, n: u64) -> Result<Option<Message>, Error> {
        let held = self.look(|core| {
            let stored = core.state.sessions.get(key).and_then(|session| session.in_tail(n));
            stored.map(|stored| Arc::clone(&stored.message))
        });
        if let Some(message) = held {
            return Ok(Some(Message::clone(&message)));
        }
        let rows = self.inner.reader.stream(key, n - 1, n + 1, 1, false).await?;
        rows.into_iter().next().map(|row| decode(&row)).transpose()
    }

    /// Messages of a session with `after < n < before`, from disk, oldest first.
    pub(crate) async fn read_messages(
        &self,
        key: u64,
        after: u64,
        before: u64,
        limit: usize,
        newest: bool,
    ) -> Result<Vec<Message>, Error> {
        let rows = self.inner.reader.stream(key, after, before, limit, newest).await?;
        rows.iter().map(decode).collect()
    }
}

fn sent(stored: Option<&Message>, n: u64) -> Sent {
    let id = stored.map(|message| message.id.clone()).unwrap_or_default();
    Sent { n, id, timestamp: stored.and_then(|message| message.timestamp) }
}

fn decode(row: &nexus_store::Row) -> Result<Message, Error> {
    Message::decode(row.body.clone()).map_err(|e| {
        let detail = format!("row {}: {e}", row.seq);
        Error::Store(nexus_store::Error::Damaged { path: "orchestrator".into(), detail })
    })
}
