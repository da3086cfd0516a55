//! Calls that carry an `idempotency-key`: the first answer is kept for a day, on disk with the effect, and given again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use nexus_store::Op;
use parking_lot::Mutex;
use prost::Message;

use super::{CoreParts, Engine, wall};
use crate::domain::{Error, Step};
use crate::store::{FIRST, First};

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
}

impl Once {
    /// `request` is any form of the request in which equal requests are equal.
    pub fn new(principal: &str, method: &str, name: &str, request: Bytes) -> Result<Self, Error> {
        if name.len() > KEY_BYTES {
            return Err(Error::Invalid(format!("idempotency-key is longer than {KEY_BYTES} bytes")));
        }
        let key = [principal, "\0", method, "\0", name].concat().into();
        Ok(Once { name: name.into(), key, request })
    }
}

/// One gate for each key that is in use now: a repeat waits for the first.
#[derive(Debug, Default)]
pub(super) struct Gates {
    open: Mutex<HashMap<Bytes, Arc<tokio::sync::Mutex<()>>>>,
}

impl Engine {
    /// As [`Engine::write`], at most once for each key.
    pub(crate) async fn once<R: Message + Default>(
        &self,
        once: Option<Once>,
        f: impl FnOnce(&mut CoreParts<'_>, &mut Step<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let Some(once) = once else { return self.queue(f).await?.done().await };
        let gate = self.inner.once.open.lock().entry(once.key.clone()).or_default().clone();
        let passed = gate.lock().await;
        let answer = self.first_or(once.clone(), f).await;
        drop(passed);
        let mut open = self.inner.once.open.lock();
        // Ours and the table's: nobody else waits.
        if Arc::strong_count(&gate) == 2 {
            open.remove(&once.key);
        }
        answer
    }

    async fn first_or<R: Message + Default>(
        &self,
        once: Once,
        f: impl FnOnce(&mut CoreParts<'_>, &mut Step<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if let Some(kept) = self.inner.reader.get(FIRST, once.key.to_vec()).await? {
            let first = First::decode(kept).map_err(damaged)?;
            if first.expires > wall() {
                if first.request != once.request {
                    return Err(Error::KeyReused(once.name));
                }
                return R::decode(first.answer).map_err(damaged);
            }
        }
        let keep = |answer: &R| {
            let expires = wall().saturating_add(KEPT_NS);
            let first = First { request: once.request.clone(), answer: answer.encode_to_vec().into(), expires };
            Some(Op::Put { table: FIRST, key: once.key.clone(), value: first.encode_to_vec().into() })
        };
        self.queue_with(f, keep).await?.done().await
    }
}

fn damaged(error: prost::DecodeError) -> Error {
    let detail = format!("a kept answer: {error}");
    Error::Store(nexus_store::Error::Damaged { path: "orchestrator".into(), detail })
}
