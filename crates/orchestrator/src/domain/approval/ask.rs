//! Asks for the approval of a call, and looks at the plan again when the call is launched.

use nexus_proto::orchestrator::v1::{Approval as Wire, ApprovalState, CallState, run_event::Kind};
use nexus_proto::words;
use nexus_tools::Code;

use super::{Approval, EXPIRY};
use crate::domain::call::Failure;
use crate::domain::event::{self, time, timestamp};
use crate::domain::run::run_event;
use crate::domain::sessions::about;
use crate::domain::timers::Timer;
use crate::domain::{Effect, Fact, State, Step};

impl State {
    /// The call waits for consent, unless the same plan was denied in this run.
    pub(in crate::domain) fn ask_for_call(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        risks: Vec<String>,
        supersedes: Option<String>,
    ) {
        let call = self.calls.get(key).expect("the caller looked it up");
        let plan = self.plan(call);
        let denied = call.step.is_some_and(|(n, _)| {
            let known = (call.session, n, plan.hash.clone());
            self.approvals.denied.contains(&known)
        });
        if denied {
            let failure = Failure::new(
                Code::Denied,
                "the same call was denied in this run; it was not asked for again",
            );
            return self.refuse_call(step, key, &failure);
        }
        let (approval_key, id) = step.ids.keyed(step.now);
        let expires = step.now.saturating_add(EXPIRY);
        let wire = Wire {
            id: id.clone(),
            run_id: call
                .step
                .map(|(n, _)| self.id_of_run(call.session, n).to_string())
                .unwrap_or_default(),
            call_id: call.wire.id.clone(),
            session_id: call.session_id.to_string(),
            root_session_id: call.session_id.to_string(),
            tool: call.wire.tool.clone(),
            plan_json: plan.json,
            digest: plan.digest,
            risks,
            created_at: Some(timestamp(step.now)),
            expires_at: Some(timestamp(expires)),
            state: ApprovalState::Pending.into(),
            offers: self.grants_offered(call),
            supersedes: supersedes.unwrap_or_default(),
            ..Wire::default()
        };
        let session = call.session;
        self.approvals.insert(Approval {
            key: approval_key,
            session,
            call: key,
            wire,
            plan_hash: plan.hash,
        });
        let call = self.calls.get_mut(key).expect("it was here a line ago");
        call.wire.set_state(CallState::Asked);
        call.wire.approval_id = id;
        call.due = None;
        call.approved = None;
        call.hashed = false; // hashed again when it is launched
        self.calls.waiting.remove(&key);
        self.timers.set(expires, Timer::Call(key));
        step.fact(Fact::Approval(approval_key));
        step.fact(Fact::Call(key));
        self.approval_event(step, approval_key, words::event::APPROVAL_REQUESTED);
        self.tell_approval(step, approval_key);
    }

    /// Whether what would be launched is what was approved. Otherwise nothing runs, and it is asked for again.
    pub(in crate::domain) fn launch_is_approved(&mut self, step: &mut Step<'_>, key: u64) -> bool {
        let Some(call) = self.calls.get(key) else { return false };
        let Some(approved) = &call.approved else { return true };
        if !call.hashed && !call.named_files().is_empty() {
            if !call.hashing {
                self.hash_files(step, key);
            }
            return false;
        }
        let same = self.plan(call).digest == *approved;
        if let Some(call) = self.calls.get_mut(key) {
            call.hashed = false; // and hashed again at the next launch
        }
        if same {
            return true;
        }
        let Some(call) = self.calls.get(key) else { return false };
        let before = call.wire.approval_id.clone();
        if let Some(approval) = self.approvals.find(&before).map(|approval| approval.key) {
            self.end_approval(step, approval, ApprovalState::Superseded);
        }
        let risks = vec!["what would run is not what was approved: it changed since".to_owned()];
        self.ask_for_call(step, key, risks, Some(before));
        self.call_moved(step, key);
        false
    }

    /// Nobody decided in time.
    pub(in crate::domain) fn approval_due(&mut self, step: &mut Step<'_>, call: u64) {
        let Some(open) = self.calls.get(call).filter(|call| call.state() == CallState::Asked) else {
            return;
        };
        let Some(approval) = self.approvals.find(&open.wire.approval_id) else {
            return;
        };
        let expires = approval.wire.expires_at.as_ref().map_or(0, time);
        if expires > step.now {
            return self.timers.set(expires, Timer::Call(call));
        }
        let (approval, session, of) = (approval.key, open.session, open.step);
        step.grows = false;
        self.end_approval(step, approval, ApprovalState::Expired);
        self.refuse_call(
            step,
            call,
            &Failure::new(Code::ApprovalExpired, "nobody decided within an hour"),
        );
        self.call_moved(step, call);
        if let Some((n, _)) = of {
            self.step_may_go_on(step, session, n);
        } else {
            self.calls.retire(call);
        }
    }

    /// The approval that a call waits for is not needed any more.
    pub(in crate::domain) fn withdraw_approval(&mut self, step: &mut Step<'_>, call: u64, state: ApprovalState) {
        let Some(id) = self.calls.get(call).map(|call| call.wire.approval_id.clone()) else {
            return;
        };
        let Some(approval) = self.approvals.find(&id) else {
            return;
        };
        let key = approval.key;
        if approval.wire.state() == ApprovalState::Pending {
            self.end_approval(step, key, state);
        } else {
            self.approvals.retired.push(key);
        }
    }

    pub(super) fn end_approval(&mut self, step: &mut Step<'_>, key: u64, state: ApprovalState) {
        let Some(approval) = self.approvals.by_key.get_mut(&key) else {
            return;
        };
        approval.wire.set_state(state);
        if approval.wire.decided_at.is_none() {
            approval.wire.decided_at = Some(timestamp(step.now));
        }
        if state != ApprovalState::Approved {
            self.approvals.retired.push(key);
        }
        step.fact(Fact::Approval(key));
        self.approval_event(step, key, words::event::APPROVAL_DECIDED);
        self.tell_approval(step, key);
    }

    fn tell_approval(&self, step: &mut Step<'_>, key: u64) {
        let Some(approval) = self.approvals.get(key) else {
            return;
        };
        let wire = &approval.wire;
        let event = run_event(step.now, &wire.session_id, &wire.run_id, Kind::Approval(wire.clone()));
        step.effect(Effect::Run {
            session: approval.session,
            event: Box::new(event),
        });
    }

    fn approval_event(&self, step: &mut Step<'_>, key: u64, name: &str) {
        let Some(approval) = self.approvals.get(key) else {
            return;
        };
        let wire = &approval.wire;
        let data = [
            ("approval_id", &*wire.id),
            ("call_id", &*wire.call_id),
            ("run_id", &*wire.run_id),
            ("session_id", &*wire.session_id),
            ("tool", &*wire.tool),
            ("digest", &*wire.digest),
            ("state", wire.state().as_str_name()),
            ("decided_by", &*wire.decided_by),
        ];
        let session = self.sessions.get(approval.session);
        let event = event::build(step, name, event::TOOL, session.map(about).unwrap_or_default(), &data);
        let session = session.map_or(0, |session| session.key);
        step.fact(Fact::Event { session, event });
    }
}
