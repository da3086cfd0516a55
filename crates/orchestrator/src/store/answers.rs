//! Stored answers of calls with an idempotency key, and an index of those that name a session.

use std::collections::BTreeSet;

use bytes::Bytes;
use nexus_store::Op;
use prost::Message as _;

use super::{FIRST, FIRST_EXPIRES, FIRST_OF_SESSION, damaged, text, time};
use crate::domain::{Time, ids};

/// Keys of what has an id begin here; lower numbers in ids are places of messages in their sessions.
const LOWEST_KEY: u64 = 1 << 40;
/// Hex digits of an id.
const ID: usize = 32;

/// The first answer to a call that carried an idempotency key.
#[derive(Clone, PartialEq, prost::Message)]
struct First {
    #[prost(bytes = "bytes", tag = "1")]
    request: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    answer: Bytes,
    #[prost(int64, tag = "3")]
    expires: Time,
}

#[derive(Clone, Debug)]
pub struct Answer {
    /// Caller, method and name.
    pub key: Bytes,
    pub request: Bytes,
    pub answer: Bytes,
    pub expires: Time,
}

impl Answer {
    pub(super) fn decode(key: Bytes, value: Bytes) -> Result<Answer, nexus_store::Error> {
        let first = First::decode(value).map_err(|e| damaged(format!("a kept answer: {e}")))?;
        Ok(Answer {
            key,
            request: first.request,
            answer: first.answer,
            expires: first.expires,
        })
    }

    pub(super) fn put(&self, out: &mut Vec<Op>) {
        let first = First {
            request: self.request.clone(),
            answer: self.answer.clone(),
            expires: self.expires,
        };
        out.push(Op::Put {
            table: FIRST,
            key: self.key.clone(),
            value: first.encode_to_vec().into(),
        });
        self.put_index(out);
    }

    pub(super) fn put_index(&self, out: &mut Vec<Op>) {
        out.extend(self.index().map(|(table, key)| Op::Put {
            table,
            key,
            value: Bytes::new(),
        }));
    }

    pub(super) fn delete(&self, out: &mut Vec<Op>) {
        let index = self.index();
        let all = index.chain([(FIRST, self.key.clone())]);
        out.extend(all.map(|(table, key)| Op::Delete { table, key }));
    }

    fn index(&self) -> impl Iterator<Item = (nexus_store::Table, Bytes)> {
        let expires = (FIRST_EXPIRES, text(time(self.expires), &self.key));
        let sessions = self.sessions().into_iter();
        let of = sessions.map(|session| (FIRST_OF_SESSION, text(session, &self.key)));
        std::iter::once(expires).chain(of)
    }

    /// Keys of the sessions whose ids stand anywhere in the call or its answer. Other ids look the same, and do no harm.
    fn sessions(&self) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        for bytes in [&self.request, &self.answer] {
            let mut run = 0;
            for (at, byte) in bytes.iter().enumerate() {
                run = if matches!(byte, b'0'..=b'9' | b'a'..=b'f') {
                    run + 1
                } else {
                    0
                };
                if run < ID {
                    continue;
                }
                let id = std::str::from_utf8(&bytes[at + 1 - ID..=at]).unwrap_or_default();
                found.extend(ids::number(id).filter(|key| (LOWEST_KEY..1 << 63).contains(key)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_found_wherever_their_ids_stand() {
        let id = |key: u64| format!("{key:016x}{:016x}", 7);
        let (one, two) = (LOWEST_KEY + 1, LOWEST_KEY + 2);
        let answer = Answer {
            key: Bytes::from_static(b"k"),
            request: format!("x{}y", id(one)).into(),
            answer: format!("{} {}", id(two), id(5)).into(),
            expires: 0,
        };
        assert_eq!(answer.sessions(), BTreeSet::from([one, two]));
    }
}
