//! The calls about approvals and grants.

use std::sync::Arc;

use nexus_daemon::{Caller, Role};
use nexus_proto::orchestrator::v1::{
    Approval, DecideApprovalRequest, DecideApprovalResponse, Grant, ListApprovalsRequest, ListApprovalsResponse,
};

use super::run_watch::{RunWatcher, Shown};
use super::{Engine, Once, wall};
use crate::domain::approval::{Decide, is_valid};
use crate::domain::sessions::View;
use crate::domain::{Error, ids};

const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;

impl Engine {
    pub async fn approval(&self, id: &str, caller: &Caller) -> Result<Approval, Error> {
        View::of(caller, "see approvals")?;
        if id.is_empty() {
            return Err(Error::Required("approval_id"));
        }
        let missing = || Error::ApprovalNotFound(id.into());
        self.settled(self.look(|ledger| ledger.tx)).await?;
        let key = ids::number(id).ok_or_else(missing)?;
        let found = self.shared.stored.approval(key).await?.ok_or_else(missing)?;
        if found.wire.id != id || !self.may_see(found.session, caller).await? {
            return Err(missing());
        }
        Ok(found.wire)
    }

    /// Whether a caller who is no agent made a session, or sees all.
    async fn may_see(&self, session: u64, caller: &Caller) -> Result<bool, Error> {
        Ok(match caller.role {
            Role::Admin => true,
            Role::Agent => false,
            Role::User => {
                let found = self.session_by_key(session).await?;
                found.is_some_and(|(_, _, creator)| *creator == *caller.principal)
            }
        })
    }

    /// Approvals that match, oldest first.
    pub async fn approvals(
        &self,
        caller: &Caller,
        request: ListApprovalsRequest,
    ) -> Result<ListApprovalsResponse, Error> {
        let view = View::of(caller, "list approvals")?;
        let size = usize::try_from(request.page_size)
            .ok()
            .filter(|size| *size > 0)
            .unwrap_or(PAGE);
        let size = size.min(LARGEST_PAGE);
        let session = match request.session_id.as_str() {
            "" => None,
            id => Some(self.open_session(id, view).await?),
        };
        let mut after = match request.page_token.as_str() {
            "" => None,
            token => Some(page_place(token)?),
        };
        self.settled(self.look(|ledger| ledger.tx)).await?;
        let mut found = Vec::new();
        loop {
            let (page, last) = self.shared.stored.approvals(session, after, size).await?;
            for approval in page {
                let wire = &approval.wire;
                let matches = (request.state == 0 || wire.state == request.state)
                    && (request.run_id.is_empty() || wire.run_id == request.run_id);
                if matches && self.may_see(approval.session, caller).await? {
                    found.push(((approval.session, approval.key), approval.wire));
                }
            }
            after = last;
            if after.is_none() || found.len() >= size {
                break;
            }
        }
        let more = found.len() > size || after.is_some();
        found.truncate(size);
        let next = found
            .last()
            .filter(|_| more)
            .map(|((session, key), _)| format!("{session:x}.{key:x}"));
        Ok(ListApprovalsResponse {
            approvals: found.into_iter().map(|(_, wire)| wire).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    pub async fn decide(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: DecideApprovalRequest,
    ) -> Result<DecideApprovalResponse, Error> {
        let id = request.approval_id;
        if id.is_empty() {
            return Err(Error::Required("approval_id"));
        }
        let decide = Decide {
            allow: request.allow,
            digest: request.digest,
            reason: request.reason,
            grant: request.grant,
            surface: request.surface,
        };
        let decided = self
            .once(once, |parts, step| {
                let key = parts.state.decide_approval(step, caller, &id, decide)?;
                let approval = parts.state.approvals.get(key).map(|approval| approval.wire.clone());
                Ok(DecideApprovalResponse { approval })
            })
            .await;
        match decided {
            // What was decided long ago is not in memory.
            Err(Error::ApprovalNotFound(id)) => {
                let over = self.approval(&id, caller).await?;
                let state = over
                    .state()
                    .as_str_name()
                    .trim_start_matches("APPROVAL_STATE_")
                    .to_lowercase();
                Err(Error::ApprovalDecided { id, state })
            }
            decided => decided,
        }
    }

    /// Watches approvals of one session, or of all that this caller may decide.
    pub async fn watch_approvals(&self, caller: &Caller, session_id: &str) -> Result<Arc<RunWatcher>, Error> {
        let view = View::of(caller, "watch approvals")?;
        let session = match session_id {
            "" => None,
            id => Some(self.open_session(id, view).await?),
        };
        let of = match view {
            View::All => None,
            View::Own(principal) => Some(principal.into()),
        };
        Ok(self.watch_runs(session, Shown::Approvals(of)))
    }

    /// Grants that are valid now and that this caller may see.
    pub async fn grants(&self, caller: &Caller, session_id: &str) -> Result<Vec<Grant>, Error> {
        View::of(caller, "list grants")?;
        let now = wall();
        Ok(self.look(|ledger| {
            let grants = ledger.state.approvals.grants();
            let mine = grants.filter(|grant| caller.is_admin() || *grant.owner == *caller.principal);
            let valid = mine.filter(|grant| is_valid(grant, now));
            let wanted = valid.filter(|grant| session_id.is_empty() || grant.wire.session_id == session_id);
            wanted.map(|grant| grant.wire.clone()).collect()
        }))
    }

    pub async fn revoke_grant(&self, caller: &Caller, id: &str) -> Result<bool, Error> {
        View::of(caller, "revoke grants")?;
        if id.is_empty() {
            return Err(Error::Required("grant_id"));
        }
        self.write(|state, step| {
            let key = ids::number(id).unwrap_or(0);
            let found = state.approvals.grant(key).filter(|grant| grant.wire.id == id);
            let mine = found.is_some_and(|grant| caller.is_admin() || *grant.owner == *caller.principal);
            Ok(mine && state.revoke_grant(step, key))
        })
        .await
    }
}

pub(super) fn page_place(token: &str) -> Result<(u64, u64), Error> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let place = token
        .split_once('.')
        .and_then(|(session, key)| Some((number(session)?, number(key)?)));
    place.ok_or_else(|| Error::Invalid("page_token is not one that was given".into()))
}
