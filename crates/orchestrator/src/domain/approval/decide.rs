//! Decides approvals: the first decision wins, and it names the digest that it saw.

use nexus_daemon::{Caller, Role};
use nexus_proto::orchestrator::v1::{ApprovalState, Grant as WireGrant};
use nexus_tools::Code;

use super::Approval;
use crate::domain::access::role_refused;
use crate::domain::call::Failure;
use crate::domain::event::{time, timestamp};
use crate::domain::{Error, State, Step};

/// What somebody decided.
#[derive(Clone, Debug, Default)]
pub struct Decide {
    pub allow: bool,
    pub digest: String,
    pub reason: String,
    pub grant: Option<WireGrant>,
    pub surface: String,
}

/// Longest reason that is kept, in bytes.
const REASON_BYTES: usize = 4 << 10;

impl State {
    /// Whether this caller may see and decide the approvals and calls of a session: its owner, or an administrator.
    pub fn may_decide(&self, caller: &Caller, session: u64, giver: &str) -> bool {
        match caller.role {
            Role::Admin => true,
            Role::Agent => false,
            Role::User => match self.sessions.get(session) {
                Some(session) => *session.creator == *caller.principal,
                None => *giver == *caller.principal && !giver.is_empty(),
            },
        }
    }

    /// The approval that waits for a decision, if this caller may decide it.
    pub fn decidable(&self, id: &str, caller: &Caller) -> Result<&Approval, Error> {
        if caller.role == Role::Agent {
            return Err(role_refused(caller, "decide approvals"));
        }
        let found = self
            .approvals
            .find(id)
            .ok_or_else(|| Error::ApprovalNotFound(id.into()))?;
        let giver = self
            .calls
            .get(found.call)
            .map(|call| call.caller.clone())
            .unwrap_or_default();
        if self.may_decide(caller, found.session, &giver) {
            Ok(found)
        } else {
            Err(Error::ApprovalNotFound(id.into()))
        }
    }

    pub fn decide_approval(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        id: &str,
        decide: Decide,
    ) -> Result<u64, Error> {
        self.sweep();
        let approval = self.decidable(id, caller)?;
        let (key, call, session) = (approval.key, approval.call, approval.session);
        let state = approval.wire.state();
        let expired = approval.wire.expires_at.as_ref().is_some_and(|at| time(at) <= step.now);
        if state != ApprovalState::Pending || expired {
            let state = if expired { ApprovalState::Expired } else { state };
            return Err(Error::ApprovalDecided {
                id: id.into(),
                state: state.as_str_name().trim_start_matches("APPROVAL_STATE_").to_lowercase(),
            });
        }
        if (decide.allow || !decide.digest.is_empty()) && decide.digest != approval.wire.digest {
            return Err(Error::ApprovalChanged(id.into()));
        }
        if decide.reason.len() > REASON_BYTES {
            return Err(Error::Invalid(format!("reason is longer than {REASON_BYTES} bytes")));
        }
        let grant = match decide.grant.filter(|_| decide.allow) {
            Some(grant) => Some(self.give_grant(step, caller, key, &grant)?),
            None => None,
        };
        let plan_hash = approval_plan(self, key);
        let wire = &mut self.approvals.by_key.get_mut(&key).expect("it was just found").wire;
        wire.decided_by = caller.principal.to_string();
        wire.decided_on = decide.surface;
        wire.decided_at = Some(timestamp(step.now));
        wire.reason.clone_from(&decide.reason);
        wire.grant_id = grant.unwrap_or_default();
        let digest = wire.digest.clone();
        let of = self.calls.get(call).and_then(|call| call.step);
        if decide.allow {
            self.end_approval(step, key, ApprovalState::Approved);
            if let Some(call) = self.calls.get_mut(call) {
                call.approved = Some(digest);
            }
            self.allow_call(step, call);
            self.call_moved(step, call);
            if let Some((n, _)) = of {
                self.step_may_go_on(step, session, n);
            }
            self.start_calls(step, session);
        } else {
            if let Some((n, _)) = of {
                self.approvals.denied.insert((session, n, plan_hash));
            }
            self.end_approval(step, key, ApprovalState::Denied);
            let what = match decide.reason.as_str() {
                "" => "the user denied this call".to_owned(),
                reason => format!("the user denied this call: {reason}"),
            };
            self.refuse_call(step, call, &Failure::new(Code::Denied, what));
            self.call_moved(step, call);
            match of {
                Some((n, _)) => self.step_may_go_on(step, session, n),
                None => self.calls.retire(call),
            }
        }
        Ok(key)
    }
}

fn approval_plan(state: &State, key: u64) -> String {
    state
        .approvals
        .get(key)
        .map(|approval| approval.plan_hash.clone())
        .unwrap_or_default()
}
