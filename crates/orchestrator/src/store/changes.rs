//! Collects the changes of one transaction.

use nexus_store::{Op, Transaction};

use super::index::{FIRST_STAMP, SESSION_STAMP, TASK_STAMP, stamp};
use super::{Answer, facts};
use crate::domain::session::Session;
use crate::domain::{Fact, State, Time};

/// In the order in which they were asked for.
#[derive(Debug, Default)]
pub struct Changes {
    pub(super) ops: Vec<Op>,
    /// Which tables with index documents are changed.
    stamps: u8,
}

impl Changes {
    pub fn with_capacity(facts: usize) -> Self {
        Changes {
            ops: Vec::with_capacity(facts + 1),
            stamps: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// What a fact asks for, with the state as it is after the step.
    pub fn fact(&mut self, fact: &Fact, state: &State, now: Time) {
        self.stamps |= match fact {
            Fact::Task(_) | Fact::TaskMade(_) | Fact::TaskMoved { .. } => TASK_STAMP,
            Fact::Session(session) if state.sessions.get(*session).is_some_and(Session::is_closed) => SESSION_STAMP,
            Fact::SessionGone { .. } => SESSION_STAMP,
            _ => 0,
        };
        facts::ops(fact, state, now, &mut self.ops);
    }

    /// Keeps the first answer to a call.
    pub fn keep(&mut self, answer: &Answer) {
        self.stamps |= FIRST_STAMP;
        answer.put(&mut self.ops);
    }

    pub(super) fn stamp(&mut self, table: u8) {
        self.stamps |= table;
    }

    /// Removes events up to and including this one.
    pub fn trim(&mut self, through: u64) {
        self.ops.push(Op::Trim { through });
    }

    /// These changes as one transaction of the store.
    pub fn into_transaction<T>(self, epoch: u64, grows: bool, receipt: T) -> Transaction<T> {
        Transaction {
            epoch,
            grows: grows && !self.is_empty(),
            ops: self.into_ops(),
            receipt,
        }
    }

    pub(crate) fn into_ops(mut self) -> Vec<Op> {
        stamp(self.stamps, &mut self.ops);
        self.ops
    }
}
