//! Requests with an idempotency key: the first answer is stored together with its effect, and returned again.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use nexus_daemon::Caller;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;

use super::{Handle, now};
use crate::{
    Error,
    store::{Change, FIRST_ANSWER_TTL, FirstAnswer},
};

pub(super) const STRIPES: usize = 32;
/// The longest key, in bytes.
const KEY_BYTES: usize = 256;

/// What is known of a request before it runs.
pub(super) enum Before<T> {
    Answered(T),
    Fresh(Option<Ticket>),
}

/// The right to give the first answer.
pub(super) struct Ticket {
    key: String,
    fingerprint: String,
    _stripe: OwnedMutexGuard<()>,
}

impl Ticket {
    /// An id that is the same whenever this request comes again.
    pub fn id(&self) -> String {
        hex::encode(&Sha256::digest(self.key.as_bytes())[..16])
    }
}

/// Adds the first answer to the change that is the request's effect.
pub(super) fn answered<T: Serialize>(change: Change, ticket: Option<&Ticket>, answer: &T) -> Change {
    match ticket {
        None => change,
        Some(ticket) => {
            let answer = serde_json::to_string(answer).expect("our answers have text keys only");
            let first = FirstAnswer {
                at: now(),
                fingerprint: ticket.fingerprint.clone(),
                answer,
            };
            change.first_answer(&ticket.key, &first)
        }
    }
}

impl Handle {
    /// Keys are scoped by caller and method. Without a key every request is a fresh one.
    pub(super) async fn before<T: DeserializeOwned>(
        &self,
        caller: &Caller,
        method: &str,
        key: Option<&str>,
        request: &impl Serialize,
    ) -> Result<Before<T>, Error> {
        let Some(key) = key else { return Ok(Before::Fresh(None)) };
        if key.len() > KEY_BYTES {
            return Err(Error::BadKey(KEY_BYTES));
        }
        let key = format!("{}\u{0}{method}\u{0}{key}", caller.principal);
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&key);
        let stripe = usize::try_from(hash % STRIPES as u64).expect("less than the number of stripes");
        let stripe = self.inner.stripes[stripe].clone().lock_owned().await;
        let request = serde_json::to_vec(request).expect("our requests have text keys only");
        let fingerprint = hex::encode(Sha256::digest(&request));
        let known = self.inner.store.first_answer(&key).await?;
        match known.filter(|first| first.at > now() - FIRST_ANSWER_TTL) {
            None => Ok(Before::Fresh(Some(Ticket {
                key,
                fingerprint,
                _stripe: stripe,
            }))),
            Some(first) if first.fingerprint != fingerprint => Err(Error::KeyReused),
            Some(first) => serde_json::from_str(&first.answer)
                .map(Before::Answered)
                .map_err(|error| Error::Unreadable(error.to_string())),
        }
    }
}
