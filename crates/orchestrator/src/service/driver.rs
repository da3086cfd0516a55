//! `DriverService`: how assistants move their runs.

use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::driver_service_server::DriverService;
use nexus_proto::orchestrator::v1::{
    CompactRequest, CompactResponse, FinishStepRequest, FinishStepResponse, GetToolsRequest, GetToolsResponse,
};
use tonic::{Request, Response, Status};

use super::status::refuse;
use crate::engine::Engine;

#[derive(Clone, Debug)]
pub struct Service {
    pub engine: Engine,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl DriverService for Service {
    async fn finish_step(&self, request: Request<FinishStepRequest>) -> Answer<FinishStepResponse> {
        let caller = Caller::of(&request);
        let finished = self.engine.finish_step(&caller, request.into_inner()).await;
        finished.map(Response::new).map_err(refuse)
    }

    async fn get_tools(&self, request: Request<GetToolsRequest>) -> Answer<GetToolsResponse> {
        let caller = Caller::of(&request);
        let tools = self.engine.tools_of_run(&caller, request.get_ref());
        tools.map(Response::new).map_err(refuse)
    }

    async fn compact(&self, request: Request<CompactRequest>) -> Answer<CompactResponse> {
        let caller = Caller::of(&request);
        let compacted = self.engine.compact(&caller, request.into_inner()).await;
        compacted.map(Response::new).map_err(refuse)
    }
}
