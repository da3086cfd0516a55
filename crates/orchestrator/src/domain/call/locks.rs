//! Which calls of a session may run beside each other. Locks are granted in the order in which the calls were asked for.

use nexus_proto::orchestrator::v1::CallState;

use super::{AT_ONCE, Call, Calls};

impl Calls {
    /// Whether an allowed call may start now. A call that waits for an approval holds nothing and stops nobody; one that
    /// runs holds its lock whenever it was asked for; one that is allowed is waited for by those asked for after it.
    pub(super) fn may_start(&self, call: &Call) -> bool {
        let mut out = 0;
        for other in self.open_of(call.session).filter(|other| other.key != call.key) {
            out += usize::from(other.is_out());
            let holds = other.is_out() || (other.state() == CallState::Allowed && other.key < call.key);
            if holds && call.lock.waits_for(&other.lock) {
                return false;
            }
        }
        out < AT_ONCE
    }
}
