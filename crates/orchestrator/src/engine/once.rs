//! Calls with an `idempotency-key`: the first answer is stored for a day together with its effect, and returned again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::OwnedMutexGuard;

use super::{Engine, Parts, wall};
use crate::domain::{Error, Step};
use crate::store::Answer;

/// How long a first answer is kept.
pub const KEPT_NS: i64 = 24 * 3600 * 1_000_000_000;
/// Longest key that a client may choose.
pub const KEY_BYTES: usize = 256;

/// One call under its key.
#[derive(Clone, Debug)]
pub struct Once {
    /// As the client named it, for errors.
    pub name: String,
    /// Caller, method and name.
    pub key: Bytes,
    /// The request, to tell another one under the same key.
    pub request: Bytes,
    /// Whether two encoded requests are the same: equal ones may differ in the order of their maps.
    same: fn(&[u8], &[u8]) -> bool,
}

impl Once {
    pub fn new<T: Message + Default + PartialEq>(
        principal: &str,
        method: &str,
        name: &str,
        request: &T,
    ) -> Result<Self, Error> {
        if name.len() > KEY_BYTES {
            return Err(Error::Invalid(format!(
                "idempotency-key is longer than {KEY_BYTES} bytes"
            )));
        }
        let key = [principal, "\0", method, "\0", name].concat().into();
        let same = |one: &[u8], other: &[u8]| match (T::decode(one), T::decode(other)) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        };
        Ok(Once {
            name: name.into(),
            key,
            request: request.encode_to_vec().into(),
            same,
        })
    }

    /// This answer as the first, to be kept.
    pub(crate) fn keep<R: Message>(&self, answer: &R) -> Answer {
        Answer {
            key: self.key.clone(),
            request: self.request.clone(),
            answer: answer.encode_to_vec().into(),
            expires: wall().saturating_add(KEPT_NS),
        }
    }
}

type Gate = Arc<tokio::sync::Mutex<()>>;

/// One gate for each key that is in use now: a repeat waits for the first.
#[derive(Debug, Default)]
pub(super) struct Gates {
    open: Mutex<HashMap<Bytes, Gate>>,
}

/// A gate that was passed; dropping it lets the next one pass, and the last one takes the gate away.
pub(super) struct Passed<'a> {
    gates: &'a Gates,
    key: Bytes,
    gate: Gate,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Passed<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut open = self.gates.open.lock();
        // Ours and the table's: nobody else waits.
        if Arc::strong_count(&self.gate) == 2 {
            open.remove(&self.key);
        }
    }
}

impl Engine {
    /// As [`Engine::write`], at most once for each key.
    pub(crate) async fn once<R: Message + Default>(
        &self,
        once: Option<Once>,
        f: impl FnOnce(&mut Parts<'_>, &mut Step<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let Some(once) = once else {
            return self.queue(f).await?.done().await;
        };
        let _gate = self.gate(&once).await;
        match self.first(&once).await? {
            Some(answer) => Ok(answer),
            None => self.queue_with(f, |answer| Some(once.keep(answer))).await?.done().await,
        }
    }

    /// As [`Engine::once`] for work that takes its time and may be done again where its answer was not kept.
    pub(super) async fn once_done<R: Message + Default>(
        &self,
        once: Option<Once>,
        work: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, Error> {
        let Some(once) = once else { return work.await };
        let _gate = self.gate(&once).await;
        if let Some(answer) = self.first(&once).await? {
            return Ok(answer);
        }
        let answer = work.await?;
        self.queue_with(|_, _| Ok(answer), |answer| Some(once.keep(answer)))
            .await?
            .done()
            .await
    }

    /// Waits until no other call with this key is under way.
    pub(super) async fn gate(&self, once: &Once) -> Passed<'_> {
        let gates = &self.shared.once;
        let gate = gates.open.lock().entry(once.key.clone()).or_default().clone();
        // Made before the wait: a call that is given up meanwhile leaves nothing behind.
        let mut passed = Passed {
            gates,
            key: once.key.clone(),
            gate: gate.clone(),
            guard: None,
        };
        passed.guard = Some(gate.lock_owned().await);
        passed
    }

    /// The first answer to this call, if there was one.
    pub(super) async fn first<R: Message + Default>(&self, once: &Once) -> Result<Option<R>, Error> {
        // The first may be decided and not on disk yet, though whoever called has given up on it.
        self.settled(self.look(|ledger| ledger.tx)).await?;
        let Some(first) = self.shared.stored.first_answer(&once.key).await? else {
            return Ok(None);
        };
        if first.expires <= wall() {
            return Ok(None);
        }
        if !(once.same)(&first.request, &once.request) {
            return Err(Error::KeyReused(once.name.clone()));
        }
        R::decode(first.answer).map(Some).map_err(damaged)
    }
}

fn damaged(error: prost::DecodeError) -> Error {
    let detail = format!("a kept answer: {error}");
    Error::Store(nexus_store::Error::Damaged {
        path: "orchestrator".into(),
        detail,
    })
}
