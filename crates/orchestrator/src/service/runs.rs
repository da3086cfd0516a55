//! `RunService`: runs as their owners see and end them.

use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::stream;
use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::run_service_server::RunService;
use nexus_proto::orchestrator::v1::{
    CancelRunRequest, CancelRunResponse, GetRunRequest, GetRunResponse, ListRunsRequest, ListRunsResponse,
    ResumeRequest, ResumeResponse, RunEvent, StopRequest, StopResponse, WatchRunsRequest,
};
use tonic::{Request, Response, Status};

use super::once;
use super::status::refuse;
use crate::engine::{Engine, RunWatcher};

#[derive(Clone, Debug)]
pub struct Service {
    pub engine: Engine,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RunService for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<RunEvent, Status>> + Send>>;

    async fn get_run(&self, request: Request<GetRunRequest>) -> Answer<GetRunResponse> {
        let caller = Caller::of(&request);
        let run = self
            .engine
            .run(&request.get_ref().run_id, &caller)
            .await
            .map_err(refuse)?;
        Ok(Response::new(GetRunResponse { run: Some(run) }))
    }

    async fn list_runs(&self, request: Request<ListRunsRequest>) -> Answer<ListRunsResponse> {
        let caller = Caller::of(&request);
        let runs = self.engine.runs(&caller, request.into_inner()).await;
        runs.map(Response::new).map_err(refuse)
    }

    async fn watch(&self, request: Request<WatchRunsRequest>) -> Answer<Self::WatchStream> {
        let caller = Caller::of(&request);
        let watcher = self
            .engine
            .watch_run(&caller, request.get_ref())
            .await
            .map_err(refuse)?;
        let watching = Watching {
            engine: self.engine.clone(),
            watcher,
        };
        Ok(Response::new(Box::pin(stream::unfold(
            watching,
            |watching| async move {
                let event = watching.watcher.next().await?;
                Some((Ok(event), watching))
            },
        ))))
    }

    async fn cancel_run(&self, request: Request<CancelRunRequest>) -> Answer<CancelRunResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "CancelRun").map_err(refuse)?;
        let cancelled = self.engine.cancel_run(once, &caller, request.into_inner()).await;
        cancelled.map(Response::new).map_err(refuse)
    }

    async fn stop(&self, request: Request<StopRequest>) -> Answer<StopResponse> {
        let caller = Caller::of(&request);
        let stopped = self.engine.stop(&caller, request.into_inner()).await;
        stopped.map(Response::new).map_err(refuse)
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Answer<ResumeResponse> {
        let caller = Caller::of(&request);
        let resumed = self.engine.resume(&caller, request.into_inner()).await;
        resumed.map(Response::new).map_err(refuse)
    }
}

/// Dropping it is leaving.
pub(super) struct Watching {
    pub engine: Engine,
    pub watcher: Arc<RunWatcher>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.engine.unwatch_runs(&self.watcher);
    }
}
