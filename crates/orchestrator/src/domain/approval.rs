//! Approvals: durable objects that show exactly what would run, decided once, by the session's owner or an administrator.
//!
//! ```text
//!  PENDING ──decide──▶ APPROVED ──launched with another plan──▶ SUPERSEDED, and a new one is PENDING
//!     ├──decide──▶ DENIED        the same plan in the same run is then refused unasked
//!     ├──1 h──▶ EXPIRED
//!     └──cancel, stop──▶ WITHDRAWN
//! ```

mod ask;
mod decide;
mod files;
mod grants;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nexus_proto::orchestrator::v1::{Approval as Wire, ApprovalState, Grant as WireGrant};

use super::{Time, ids};

pub use decide::Decide;
pub use grants::is_valid;

/// How long a decision is waited for.
pub const EXPIRY: Time = 60 * 60 * 1_000_000_000;
/// How long a grant for all sessions of its owner holds.
pub const GRANT_EXPIRY: Time = 30 * 24 * 60 * 60 * 1_000_000_000;
/// Grants that may be valid at once.
pub const GRANTS: usize = 10_000;

#[derive(Clone, Debug)]
pub struct Approval {
    pub key: u64,
    pub session: u64,
    /// The call that it is about.
    pub call: u64,
    pub wire: Wire,
    /// Of the plan without the call's id: another call with the same plan is known by it.
    pub plan_hash: String,
}

/// A standing consent, and whose it is.
#[derive(Clone, Debug)]
pub struct Grant {
    pub key: u64,
    /// The session that it was given in.
    pub session: u64,
    pub owner: Arc<str>,
    pub wire: WireGrant,
}

/// Pending approvals, and those that were decided in this decision.
#[derive(Debug, Default)]
pub struct Approvals {
    by_key: BTreeMap<u64, Approval>,
    /// Plans that were denied, by run.
    denied: BTreeSet<(u64, u64, String)>,
    grants: BTreeMap<u64, Grant>,
    retired: Vec<u64>,
}

impl Approvals {
    pub fn get(&self, key: u64) -> Option<&Approval> {
        self.by_key.get(&key)
    }

    pub fn find(&self, id: &str) -> Option<&Approval> {
        let found = ids::number(id).and_then(|key| self.by_key.get(&key));
        found.filter(|approval| approval.wire.id == id)
    }

    /// Approvals that wait for a decision, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = &Approval> {
        self.by_key
            .values()
            .filter(|approval| approval.wire.state() == ApprovalState::Pending)
    }

    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values()
    }

    pub fn grant(&self, key: u64) -> Option<&Grant> {
        self.grants.get(&key)
    }

    /// Takes in an approval, a new one or one from disk.
    pub fn insert(&mut self, approval: Approval) {
        self.by_key.insert(approval.key, approval);
    }

    pub fn insert_grant(&mut self, grant: Grant) {
        self.grants.insert(grant.key, grant);
    }

    /// For the store: a plan that was denied in a run that is open.
    pub fn load_denied(&mut self, session: u64, n: u64, plan_hash: String) {
        self.denied.insert((session, n, plan_hash));
    }

    pub(super) fn sweep(&mut self) {
        for key in self.retired.drain(..) {
            self.by_key.remove(&key);
        }
    }

    /// What was denied in a run that has ended is forgotten.
    pub(super) fn forget_run(&mut self, session: u64, n: u64) {
        self.denied.retain(|(of, message, _)| (*of, *message) != (session, n));
    }
}
