//! `tool.v1`: not served by this build. Every call answers UNIMPLEMENTED.

use std::pin::Pin;

use futures_core::Stream;
use nexus_proto::tool::v1::tool_service_server::ToolService;
use nexus_proto::tool::v1::*;
use tonic::{Request, Response, Status, Streaming};

#[derive(Clone, Copy, Debug, Default)]
pub struct Service;

fn absent() -> Status {
    nexus_daemon::status(
        tonic::Code::Unimplemented,
        "tools are not served by this version",
        "NOT_SERVED",
    )
}

macro_rules! absent {
    ($($method:ident: $request:ty => $response:ty),+ $(,)?) => {
        #[tonic::async_trait]
        impl ToolService for Service {
            type StreamToolStream = Pin<Box<dyn Stream<Item = Result<StreamToolResponse, Status>> + Send>>;
            $(async fn $method(&self, _: Request<$request>) -> Result<Response<$response>, Status> { Err(absent()) })+
        }
    };
}

absent! {
    register_tool: RegisterToolRequest => RegisterToolResponse,
    unregister_tool: UnregisterToolRequest => UnregisterToolResponse,
    update_tool: UpdateToolRequest => UpdateToolResponse,
    enable_tool: EnableToolRequest => EnableToolResponse,
    disable_tool: DisableToolRequest => DisableToolResponse,
    list_tools: ListToolsRequest => ListToolsResponse,
    get_tool: GetToolRequest => GetToolResponse,
    get_tool_definition: GetToolDefinitionRequest => GetToolDefinitionResponse,
    execute_tool: ExecuteToolRequest => ExecuteToolResponse,
    stream_tool: Streaming<StreamToolRequest> => Self::StreamToolStream,
    cancel_execution: CancelExecutionRequest => CancelExecutionResponse,
    get_execution_status: GetExecutionStatusRequest => GetExecutionStatusResponse,
    list_executions: ListExecutionsRequest => ListExecutionsResponse,
    health_check: () => ToolHealthCheckResponse,
    get_service_status: () => ToolServiceStatusResponse,
    get_stats: GetStatsRequest => GetStatsResponse,
}
