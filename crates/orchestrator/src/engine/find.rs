//! Finds messages by id or number, in memory or else on disk.

use std::sync::Arc;

use nexus_proto::orchestrator::v1::Message;

use super::Engine;
use super::cache::KNOWN_IDS;
use crate::domain::turn::{Turn, TurnEnd};
use crate::domain::{Error, ids};

impl Engine {
    /// How the turn of a message ended; `None` while it is open, or if it opened none.
    pub(super) async fn ended_turn(&self, key: u64, n: u64) -> Result<Option<TurnEnd>, Error> {
        self.shared.stored.ended_turn(key, n).await
    }

    /// A stored message by its id, which a client or we may have chosen. It is on disk.
    pub(crate) async fn find_message(&self, key: u64, id: &str) -> Result<Option<Message>, Error> {
        if id.is_empty() {
            return Ok(None);
        }
        let known = || {
            self.look(|ledger| {
                (
                    ledger
                        .state
                        .sessions
                        .get(key)
                        .and_then(|found| ledger.cache.of(found).known(id)),
                    ledger.tx,
                )
            })
        };
        if let (Some(n), tx) = known() {
            // In memory before it is on disk; a number that was not stored after all may be another's by now.
            self.settled(tx).await?;
            if let Some(found) = self.message_at(key, n).await?.filter(|message| message.id == id) {
                return Ok(Some(found));
            }
        }
        if let Some(found) = self.find_ours(key, id).await? {
            return Ok(Some(found));
        }
        let all = self.knows_all(key).await?;
        let n = match known() {
            (Some(n), tx) => {
                self.settled(tx).await?;
                Some(n)
            }
            (None, _) if all => None,
            (None, _) => self.shared.stored.sent_id(key, id).await?,
        };
        let Some(n) = n else { return Ok(None) };
        Ok(self.message_at(key, n).await?.filter(|message| message.id == id))
    }

    /// A message whose id we made: it says where the message is.
    async fn find_ours(&self, key: u64, id: &str) -> Result<Option<Message>, Error> {
        let Some(number) = ids::number(id) else { return Ok(None) };
        let n = if number & Turn::ANSWER == 0 {
            number
        } else {
            match self.ended_turn(key, number & !Turn::ANSWER).await? {
                Some(TurnEnd::Answered { answer }) => answer,
                Some(TurnEnd::Failed { .. }) | None => return Ok(None),
            }
        };
        if n == 0 || n > i64::MAX as u64 {
            return Ok(None);
        }
        Ok(self.message_at(key, n).await?.filter(|message| message.id == id))
    }

    /// Whether every id that a client chose in this session is in memory; of one that was loaded, the ids are read once.
    async fn knows_all(&self, key: u64) -> Result<bool, Error> {
        let (knows, added) = self.look(|ledger| {
            let session = ledger.state.sessions.get(key);
            session.map_or((true, 0), |session| {
                let held = ledger.cache.of(session);
                (held.knows_all_ids(), held.ids_added())
            })
        });
        if knows || added > 0 {
            return Ok(knows);
        }
        let ids = self.shared.stored.sent_ids(key, KNOWN_IDS).await?;
        self.look_mut(|ledger| {
            let found = ledger.state.sessions.get(key);
            let Some(session) = found.filter(|session| ledger.cache.of(session).ids_added() == 0) else {
                return Ok(false);
            };
            let all = ids.len() < KNOWN_IDS;
            ledger.cache.remember_ids(session, all.then_some(&ids));
            Ok(all)
        })
    }

    /// A message by its number, from memory or from disk.
    pub(crate) async fn message_at(&self, key: u64, n: u64) -> Result<Option<Message>, Error> {
        let held = self.look(|ledger| ledger.cache.message(key, n).map(Arc::clone));
        if let Some(message) = held {
            return Ok(Some(Message::clone(&message)));
        }
        let found = self.shared.stored.messages(key, n - 1, n + 1, 1, false).await?;
        Ok(found.into_iter().next())
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
        self.shared.stored.messages(key, after, before, limit, newest).await
    }
}
