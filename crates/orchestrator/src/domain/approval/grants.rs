//! Standing consents: derived by us from the call that was approved, shown in words, and checked when a call starts.

use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::{Grant as WireGrant, GrantKind, GrantScope};
use nexus_tools::grant::{Kind, Offer, Subject, covers, offers};
use serde_json::Value;

use super::{GRANT_EXPIRY, GRANTS, Grant};
use crate::domain::call::Call;
use crate::domain::event::{time, timestamp};
use crate::domain::tool::compiled;
use crate::domain::{Error, Fact, State, Step, Time};

impl State {
    /// The grants that may be given with the approval of a call. After untrusted content none is offered.
    pub(super) fn grants_offered(&self, call: &Call) -> Vec<WireGrant> {
        let tainted = call
            .step
            .and_then(|(n, _)| self.runs.get(call.session, n))
            .is_some_and(|run| run.wire.tainted);
        if tainted {
            return Vec::new();
        }
        let arguments: Value = serde_json::from_str(&call.wire.arguments_json).unwrap_or_default();
        let Some(definition) = self
            .tools
            .get(&call.wire.tool)
            .and_then(|tool| compiled(&tool.definition).ok())
        else {
            return Vec::new();
        };
        let subject = Subject {
            tool: &definition,
            arguments: &arguments,
            directory: directory(&arguments),
        };
        let offer = |offer: Offer| WireGrant {
            kind: wire_kind(offer.kind).into(),
            scope: GrantScope::Session.into(),
            tool: call.wire.tool.clone(),
            description: offer.description,
            pattern: offer.pattern,
            definition_digest: call.definition_digest.clone(),
            ..WireGrant::default()
        };
        offers(subject, false).into_iter().map(offer).collect()
    }

    /// Gives one of the grants that an approval offers. Returns its id.
    pub(super) fn give_grant(
        &mut self,
        step: &mut Step<'_>,
        caller: &Caller,
        approval: u64,
        wanted: &WireGrant,
    ) -> Result<String, Error> {
        let approval = self.approvals.get(approval).expect("the caller looked it up");
        let same = |offer: &&WireGrant| {
            offer.kind == wanted.kind && (wanted.pattern.is_empty() || offer.pattern == wanted.pattern)
        };
        let offer = approval.wire.offers.iter().find(same);
        let mut wire = offer
            .cloned()
            .ok_or_else(|| Error::Invalid("grant is not one of the approval's offers".into()))?;
        let scope = match GrantScope::try_from(wanted.scope) {
            Ok(GrantScope::Unspecified) => GrantScope::Session,
            Ok(scope) => scope,
            Err(_) => return Err(Error::Invalid(format!("grant.scope {} is unknown", wanted.scope))),
        };
        if self.approvals.grants.len() >= GRANTS {
            return Err(Error::TooManyGrants(GRANTS));
        }
        if scope == GrantScope::Run && approval.wire.run_id.is_empty() {
            return Err(Error::Invalid("grant.scope is a run, and the call has none".into()));
        }
        let (session, run) = (approval.session, approval.wire.run_id.clone());
        let session_id = approval.wire.session_id.clone();
        let owner = self
            .sessions
            .get(session)
            .map_or_else(|| caller.principal.clone(), |session| session.creator.clone());
        let (key, id) = step.ids.keyed(step.now);
        wire.id.clone_from(&id);
        wire.set_scope(scope);
        wire.run_id = run;
        wire.session_id = session_id;
        wire.created_at = Some(timestamp(step.now));
        let expires = (scope == GrantScope::Owner).then(|| step.now.saturating_add(GRANT_EXPIRY));
        wire.expires_at = expires.map(timestamp);
        wire.given_by = caller.principal.to_string();
        self.approvals.insert_grant(Grant {
            key,
            session,
            owner,
            wire,
        });
        step.fact(Fact::Grant(key));
        Ok(id)
    }

    /// Whether a standing consent covers a call.
    pub(in crate::domain) fn granted(&self, call: &Call, arguments: &Value, tainted: bool, now: Time) -> bool {
        let Some(definition) = self
            .tools
            .get(&call.wire.tool)
            .and_then(|tool| compiled(&tool.definition).ok())
        else {
            return false;
        };
        let subject = Subject {
            tool: &definition,
            arguments,
            directory: directory(arguments),
        };
        let run = call
            .step
            .map(|(n, _)| self.id_of_run(call.session, n))
            .unwrap_or_default();
        let owner = self.sessions.get(call.session).map(|session| session.creator.clone());
        self.approvals.grants().any(|grant| {
            let wire = &grant.wire;
            let holds = match wire.scope() {
                GrantScope::Run => !run.is_empty() && wire.run_id == *run,
                GrantScope::Session => call.session != 0 && grant.session == call.session,
                GrantScope::Owner => owner.as_ref() == Some(&grant.owner),
                GrantScope::Unspecified => false,
            };
            let valid = wire.tool == call.wire.tool && wire.definition_digest == call.definition_digest;
            let covered = kind(wire.kind()).is_some_and(|kind| covers(kind, &wire.pattern, subject, tainted));
            holds && valid && covered && is_valid(grant, now)
        })
    }

    pub fn revoke_grant(&mut self, step: &mut Step<'_>, key: u64) -> bool {
        let was = self.approvals.grants.remove(&key).is_some();
        if was {
            step.fact(Fact::GrantGone(key));
        }
        was
    }

    /// Grants of a run or session that is over, and those that expired, are gone.
    pub(in crate::domain) fn end_grants(&mut self, step: &mut Step<'_>, session: u64, run: Option<&str>) {
        let over: Vec<u64> = self
            .approvals
            .grants()
            .filter(|grant| {
                let of_run = run.is_some_and(|run| grant.wire.scope() == GrantScope::Run && grant.wire.run_id == run);
                let of_session = run.is_none() && grant.session == session && grant.wire.scope() != GrantScope::Owner;
                of_run || of_session || grant.wire.expires_at.as_ref().is_some_and(|at| time(at) <= step.now)
            })
            .map(|grant| grant.key)
            .collect();
        for key in over {
            self.revoke_grant(step, key);
        }
    }
}

/// Whether a grant holds at a time.
pub fn is_valid(grant: &Grant, now: Time) -> bool {
    grant.wire.expires_at.as_ref().is_none_or(|at| time(at) > now)
}

fn kind(wire: GrantKind) -> Option<Kind> {
    match wire {
        GrantKind::Exact => Some(Kind::Exact),
        GrantKind::Prefix => Some(Kind::Prefix),
        GrantKind::Path => Some(Kind::Path),
        GrantKind::Host => Some(Kind::Host),
        GrantKind::Unspecified => None,
    }
}

fn wire_kind(kind: Kind) -> GrantKind {
    match kind {
        Kind::Exact => GrantKind::Exact,
        Kind::Prefix => GrantKind::Prefix,
        Kind::Path => GrantKind::Path,
        Kind::Host => GrantKind::Host,
    }
}

/// Where a call works: what it names, or the workspace.
pub(super) fn directory(arguments: &Value) -> &str {
    arguments.get("workdir").and_then(Value::as_str).unwrap_or("/workspace")
}
