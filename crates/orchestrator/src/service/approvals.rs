//! `ApprovalService`: what calls need consent for, decided by the session's owner and by administrators.

use std::pin::Pin;

use futures_core::Stream;
use futures_util::stream;
use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::approval_service_server::ApprovalService;
use nexus_proto::orchestrator::v1::{
    Approval, DecideApprovalRequest, DecideApprovalResponse, GetApprovalRequest, GetApprovalResponse,
    ListApprovalsRequest, ListApprovalsResponse, ListGrantsRequest, ListGrantsResponse, RevokeGrantRequest,
    RevokeGrantResponse, WatchApprovalsRequest, run_event::Kind,
};
use tonic::{Request, Response, Status};

use super::once;
use super::runs::Watching;
use super::status::refuse;
use crate::engine::Engine;

#[derive(Clone, Debug)]
pub struct Service {
    pub engine: Engine,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ApprovalService for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Approval, Status>> + Send>>;

    async fn list(&self, request: Request<ListApprovalsRequest>) -> Answer<ListApprovalsResponse> {
        let caller = Caller::of(&request);
        let listed = self.engine.approvals(&caller, request.into_inner()).await;
        listed.map(Response::new).map_err(refuse)
    }

    async fn get(&self, request: Request<GetApprovalRequest>) -> Answer<GetApprovalResponse> {
        let caller = Caller::of(&request);
        let approval = self.engine.approval(&request.get_ref().approval_id, &caller).await;
        let approval = Some(approval.map_err(refuse)?);
        Ok(Response::new(GetApprovalResponse { approval }))
    }

    async fn watch(&self, request: Request<WatchApprovalsRequest>) -> Answer<Self::WatchStream> {
        let caller = Caller::of(&request);
        let session = &request.get_ref().session_id;
        let watcher = self.engine.watch_approvals(&caller, session).await.map_err(refuse)?;
        let watching = Watching {
            engine: self.engine.clone(),
            watcher,
        };
        Ok(Response::new(Box::pin(stream::unfold(
            watching,
            |watching| async move {
                loop {
                    let event = watching.watcher.next().await?;
                    match event.kind {
                        Some(Kind::Approval(approval)) => return Some((Ok(approval), watching)),
                        // The reader asks for the list again.
                        Some(Kind::Gap(_)) => {
                            let lost = Status::resource_exhausted("this reader was too slow: approvals were dropped");
                            watching.watcher.end();
                            return Some((Err(lost), watching));
                        }
                        _ => {}
                    }
                }
            },
        ))))
    }

    async fn decide(&self, request: Request<DecideApprovalRequest>) -> Answer<DecideApprovalResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "DecideApproval").map_err(refuse)?;
        let decided = self.engine.decide(once, &caller, request.into_inner()).await;
        decided.map(Response::new).map_err(refuse)
    }

    async fn list_grants(&self, request: Request<ListGrantsRequest>) -> Answer<ListGrantsResponse> {
        let caller = Caller::of(&request);
        let grants = self
            .engine
            .grants(&caller, &request.get_ref().session_id)
            .await
            .map_err(refuse)?;
        Ok(Response::new(ListGrantsResponse { grants }))
    }

    async fn revoke_grant(&self, request: Request<RevokeGrantRequest>) -> Answer<RevokeGrantResponse> {
        let caller = Caller::of(&request);
        let revoked = self
            .engine
            .revoke_grant(&caller, &request.get_ref().grant_id)
            .await
            .map_err(refuse)?;
        Ok(Response::new(RevokeGrantResponse { revoked }))
    }
}
