//! Stores incoming messages: each once, however often it is sent.

use nexus_daemon::Caller;
use nexus_daemon::spans::{self, Span};
use nexus_proto::orchestrator::v1::{Message, MessageRole};
use prost::Message as _;

use super::cache::{Cache, KNOWN_IDS};
use super::streams::Streams;
use super::traces::Traces;
use super::{Engine, Ledger, Once, Queued, StreamId};
use crate::domain::message::{accept, is_repeat};
use crate::domain::sessions::{View, session_not_found};
use crate::domain::turn::TurnEnd;
use crate::domain::{Error, Fact, State, Step};

/// Bytes kept free for what is put around a message on its way out, so that each one taken can be passed on.
const WRAPPING: usize = 1024;

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
    pub async fn send(&self, once: Option<Once>, id: &str, caller: &Caller, message: Message) -> Result<Sent, Error> {
        let key = self.open_session(id, View::of(caller, "send messages")?).await;
        let Some(once) = once else {
            return self.send_one(key?, message, None).await;
        };
        let _gate = self.gate(&once).await;
        match self.first(&once).await? {
            Some(sent) => Ok(sent),
            None => self.send_one(key?, message, Some(&once)).await,
        }
    }

    async fn send_one(&self, key: u64, message: Message, once: Option<&Once>) -> Result<Sent, Error> {
        let _storing = Span::child("store message");
        match self.submit(key, message, 0, once).await? {
            Submitted::New(queued) => queued.done().await,
            Submitted::Repeat { sent, .. } => match once {
                Some(once) => {
                    self.queue_with(|_, _| Ok(sent), |sent| Some(once.keep(sent)))
                        .await?
                        .done()
                        .await
                }
                None => Ok(sent),
            },
        }
    }

    /// Stores a message, unless it is there already. It is on disk once what this returns is done.
    pub(crate) async fn submit(
        &self,
        key: u64,
        message: Message,
        from: StreamId,
        once: Option<&Once>,
    ) -> Result<Submitted, Error> {
        self.room()?;
        let mut message = accept(message)?;
        let max = self.max_message_bytes().saturating_sub(WRAPPING);
        if message.encoded_len() > max {
            return Err(Error::Limit {
                what: "message size (bytes)",
                max,
                setting: "common.max_message_bytes",
            });
        }
        let asks = message.role == i32::from(MessageRole::User);
        let parent = spans::current();
        loop {
            let looked = self.look(|ledger| (ledger.epoch, added(ledger, key)));
            if let Some(stored) = self.find_message(key, &message.id).await? {
                return self.repeat(key, message, stored, from).await;
            }
            let mut again = false;
            let queued = self
                .queue_with(
                    |parts, step| {
                        let session = parts.state.sessions.get(key).ok_or_else(|| session_not_found(key))?;
                        // Ids that came since the look at the disk are in memory, unless very many came.
                        let (epoch, before) = looked;
                        let held = parts.cache.of(session);
                        let forgot =
                            parts.epoch != epoch || held.ids_added().saturating_sub(before) > KNOWN_IDS as u64 / 2;
                        if !message.id.is_empty() && (forgot || held.known(&message.id).is_some()) {
                            again = true;
                            return Err(Error::MessageExists(message.id.clone()));
                        }
                        let n = parts.state.add_message(step, key, std::mem::take(&mut message))?;
                        parts.outlets.of::<Streams>().sent(from, n, asks);
                        if let Some(parent) = parent.clone().filter(|_| asks) {
                            parts.outlets.of::<Traces>().keep(key, n, parent);
                        }
                        Ok(sent(added_message(step), n))
                    },
                    |sent| once.map(|once| once.keep(sent)),
                )
                .await;
            match queued {
                Err(_) if again => continue,
                queued => return Ok(Submitted::New(queued?)),
            }
        }
    }

    /// The same message again: its answer if there is one, a new turn if the last one failed.
    async fn repeat(&self, key: u64, message: Message, stored: Message, from: StreamId) -> Result<Submitted, Error> {
        if !is_repeat(&stored, &message) {
            return Err(Error::MessageExists(message.id));
        }
        let n = stored.sequence;
        let sent = sent(Some(&stored), n);
        if stored.role != i32::from(MessageRole::User) {
            return Ok(Submitted::Repeat { sent, answer: None });
        }
        loop {
            let (open, seen, tx) = self.look_mut(|ledger| {
                let open = is_open(&ledger.state, key, n);
                if open {
                    ledger.outlets.of::<Streams>().owes(from, n);
                }
                (
                    open,
                    (ledger.epoch, turns_over(&ledger.state, &ledger.cache, key)),
                    ledger.tx,
                )
            });
            if open {
                return Ok(Submitted::Repeat { sent, answer: None });
            }
            // How it ended may be decided and not on disk yet.
            self.settled(tx).await?;
            if let Some(TurnEnd::Answered { answer }) = self.ended_turn(key, n).await? {
                let answer = self.message_at(key, answer).await?;
                return Ok(Submitted::Repeat { sent, answer });
            }
            let mut again = false;
            let queued = self
                .queue(|parts, step| {
                    again = (parts.epoch, turns_over(parts.state, parts.cache, key)) != seen;
                    if !again {
                        parts.state.retry_turn(step, key, &stored)?;
                        parts.outlets.of::<Streams>().owes(from, n);
                    }
                    Ok(())
                })
                .await?;
            queued.done().await?;
            if !again {
                return Ok(Submitted::Repeat { sent, answer: None });
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
}

fn sent(stored: Option<&Message>, n: u64) -> Sent {
    let id = stored.map(|message| message.id.clone()).unwrap_or_default();
    Sent {
        n,
        id,
        timestamp: stored.and_then(|message| message.timestamp),
    }
}

/// The message that a decision adds.
fn added_message<'a>(step: &'a Step<'_>) -> Option<&'a Message> {
    step.facts.iter().find_map(|fact| match fact {
        Fact::Message { message, .. } => Some(&**message),
        _ => None,
    })
}

fn added(ledger: &Ledger, key: u64) -> u64 {
    let session = ledger.state.sessions.get(key);
    session.map_or(0, |session| ledger.cache.of(session).ids_added())
}

fn is_open(state: &State, key: u64, n: u64) -> bool {
    state
        .sessions
        .get(key)
        .is_some_and(|session| session.turn_of(n).is_some())
}

fn turns_over(state: &State, cache: &Cache, key: u64) -> u64 {
    let session = state.sessions.get(key);
    session.map_or(0, |session| cache.of(session).turns_over())
}
