//! `tool.v1`: the registry of tools, and executions without a run.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::stream;
use nexus_daemon::Caller;
use nexus_proto::common::v1::{Health as Condition, Status as Running};
use nexus_proto::tool::v1::tool_service_server::ToolService;
use nexus_proto::tool::v1::*;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};

use super::status::refuse;
use super::{VERSION, once, uptime};
use crate::domain::Error;
use crate::domain::event::timestamp;
use crate::engine::tool_calls::{frames, is_last};
use crate::engine::{Engine, RunWatcher, since_epoch};

#[derive(Clone, Debug)]
pub struct Service {
    pub engine: Engine,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ToolService for Service {
    type StreamToolStream = Pin<Box<dyn Stream<Item = Result<StreamToolResponse, Status>> + Send>>;

    async fn register_tool(&self, request: Request<RegisterToolRequest>) -> Answer<RegisterToolResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "RegisterTool").map_err(refuse)?;
        let registered = self.engine.register_tool(once, &caller, request.into_inner()).await;
        registered.map(Response::new).map_err(refuse)
    }

    async fn unregister_tool(&self, request: Request<UnregisterToolRequest>) -> Answer<UnregisterToolResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "UnregisterTool").map_err(refuse)?;
        let request = request.into_inner();
        let removed = self.engine.change_tools(once, &caller, |state, step| {
            state.unregister_tool(step, &request.name, request.force)?;
            Ok(UnregisterToolResponse {
                success: true,
                message: format!("Tool unregistered: {}", request.name),
            })
        });
        removed.await.map(Response::new).map_err(refuse)
    }

    async fn update_tool(&self, request: Request<UpdateToolRequest>) -> Answer<UpdateToolResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "UpdateTool").map_err(refuse)?;
        let request = request.into_inner();
        let definition = request
            .definition
            .ok_or_else(|| refuse(Error::Required("definition")))?;
        let updated = self.engine.change_tools(once, &caller, |state, step| {
            state.update_tool(step, &request.name, definition)?;
            let tool = Some(state.tool_instance(state.tool(&request.name)?));
            Ok(UpdateToolResponse { tool })
        });
        updated.await.map(Response::new).map_err(refuse)
    }

    async fn enable_tool(&self, request: Request<EnableToolRequest>) -> Answer<EnableToolResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "EnableTool").map_err(refuse)?;
        let name = request.into_inner().name;
        let enabled = self.engine.change_tools(once, &caller, |state, step| {
            state.enable_tool(step, &name, true, false)?;
            Ok(EnableToolResponse { name, enabled: true })
        });
        enabled.await.map(Response::new).map_err(refuse)
    }

    async fn disable_tool(&self, request: Request<DisableToolRequest>) -> Answer<DisableToolResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "DisableTool").map_err(refuse)?;
        let DisableToolRequest {
            name,
            cancel_active_executions: cancel,
        } = request.into_inner();
        let disabled = self.engine.change_tools(once, &caller, |state, step| {
            let cancelled_executions = state.enable_tool(step, &name, false, cancel)?;
            Ok(DisableToolResponse {
                name,
                disabled: true,
                cancelled_executions,
            })
        });
        disabled.await.map(Response::new).map_err(refuse)
    }

    async fn list_tools(&self, request: Request<ListToolsRequest>) -> Answer<ListToolsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let tools = self.engine.tools_matching(&filter);
        let total_count = i32::try_from(tools.len()).unwrap_or(i32::MAX);
        Ok(Response::new(ListToolsResponse { tools, total_count }))
    }

    async fn get_tool(&self, request: Request<GetToolRequest>) -> Answer<GetToolResponse> {
        let tool = Some(self.engine.tool(&request.get_ref().name).map_err(refuse)?);
        Ok(Response::new(GetToolResponse { tool }))
    }

    async fn get_tool_definition(
        &self,
        request: Request<GetToolDefinitionRequest>,
    ) -> Answer<GetToolDefinitionResponse> {
        let tool = self.engine.tool(&request.get_ref().name).map_err(refuse)?;
        let definition = tool.definition;
        Ok(Response::new(GetToolDefinitionResponse { definition }))
    }

    async fn execute_tool(&self, request: Request<ExecuteToolRequest>) -> Answer<ExecuteToolResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "ExecuteTool").map_err(refuse)?;
        let taken = self.engine.execute_tool(once, &caller, request.into_inner()).await;
        taken.map(Response::new).map_err(refuse)
    }

    async fn stream_tool(&self, request: Request<Streaming<StreamToolRequest>>) -> Answer<Self::StreamToolStream> {
        let caller = Caller::of(&request);
        let (send, receive) = mpsc::channel(QUEUED);
        let reader = tokio::spawn(read(self.engine.clone(), caller, request.into_inner(), send));
        let follows = Following {
            reader,
            receive,
            over: false,
        };
        Ok(Response::new(Box::pin(stream::unfold(
            follows,
            |mut follows| async move {
                if follows.over {
                    return None;
                }
                let frame = follows.receive.recv().await?;
                follows.over = frame.as_ref().map_or(true, is_last);
                Some((frame, follows))
            },
        ))))
    }

    async fn cancel_execution(&self, request: Request<CancelExecutionRequest>) -> Answer<CancelExecutionResponse> {
        let caller = Caller::of(&request);
        let once = once(&request, "CancelExecution").map_err(refuse)?;
        let cancelled = self.engine.cancel_execution(once, &caller, request.into_inner()).await;
        cancelled.map(Response::new).map_err(refuse)
    }

    async fn get_execution_status(
        &self,
        request: Request<GetExecutionStatusRequest>,
    ) -> Answer<GetExecutionStatusResponse> {
        let caller = Caller::of(&request);
        let execution = self.engine.execution(&request.get_ref().execution_id, &caller).await;
        let execution = Some(execution.map_err(refuse)?);
        Ok(Response::new(GetExecutionStatusResponse { execution }))
    }

    async fn list_executions(&self, request: Request<ListExecutionsRequest>) -> Answer<ListExecutionsResponse> {
        let caller = Caller::of(&request);
        let listed = self.engine.executions(&caller, request.into_inner()).await;
        listed.map(Response::new).map_err(refuse)
    }

    async fn health_check(&self, _: Request<()>) -> Answer<ToolHealthCheckResponse> {
        let (registered, _, active) = self.engine.tool_counts();
        Ok(Response::new(ToolHealthCheckResponse {
            health: Condition::Healthy.into(),
            version: VERSION.into(),
            subsystems: ["tool_registry", "execution_registry"].map(String::from).into(),
            registered_tools: count(registered),
            active_executions: count(active),
        }))
    }

    async fn get_service_status(&self, _: Request<()>) -> Answer<ToolServiceStatusResponse> {
        let (registered, enabled, active) = self.engine.tool_counts();
        let started = self.engine.started();
        Ok(Response::new(ToolServiceStatusResponse {
            status: Running::Running.into(),
            registered_tools: count(registered),
            enabled_tools: count(enabled),
            active_executions: count(active),
            started_at: Some(timestamp(since_epoch(started))),
            uptime: Some(uptime(started)),
        }))
    }

    async fn get_stats(&self, request: Request<GetStatsRequest>) -> Answer<GetStatsResponse> {
        let stats = self.engine.tool_stats(&request.get_ref().tool_name);
        stats.map(Response::new).map_err(refuse)
    }
}

/// Frames that may wait for a client that does not read.
const QUEUED: usize = 64;

type Frame = Result<StreamToolResponse, Status>;

/// One open StreamTool. Dropping it is leaving.
struct Following {
    reader: JoinHandle<()>,
    receive: mpsc::Receiver<Frame>,
    over: bool,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn heartbeat() -> StreamToolResponse {
    StreamToolResponse {
        payload: Some(stream_tool_response::Payload::Heartbeat(())),
    }
}

/// Reads a client's frames: the first one with an id says which execution is followed.
async fn read(engine: Engine, caller: Caller, mut inbound: Streaming<StreamToolRequest>, send: mpsc::Sender<Frame>) {
    use stream_tool_request::Payload;
    let mut followed: Option<(String, JoinGuard)> = None;
    loop {
        let frame = match inbound.message().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(status) => {
                let _gone = send.send(Err(status)).await;
                return;
            }
        };
        let beat = matches!(frame.payload, Some(Payload::Heartbeat(())));
        if followed.is_none() && !frame.execution_id.is_empty() {
            match follow(&engine, &caller, &frame.execution_id, send.clone()).await {
                Ok(guard) => followed = Some((frame.execution_id.clone(), guard)),
                Err(_) if beat => {}
                Err(error) => {
                    let _gone = send.send(Err(refuse(error))).await;
                    return;
                }
            }
        }
        let done = match (&followed, frame.payload) {
            (_, Some(Payload::Heartbeat(()))) => {
                if send.send(Ok(heartbeat())).await.is_err() {
                    return;
                }
                Ok(())
            }
            (None, _) => Err(Error::FirstMessage("execution_id")),
            (Some((id, _)), Some(Payload::Input(input))) => engine.execution_input(id, &caller, input).await,
            (Some((id, _)), Some(Payload::Cancel(cancel))) => {
                let request = CancelExecutionRequest {
                    execution_id: id.clone(),
                    reason: cancel.reason,
                    force: cancel.force,
                };
                engine.cancel_execution(None, &caller, request).await.map(drop)
            }
            (Some(_), None) => Ok(()),
        };
        if let Err(error) = done {
            let _gone = send.send(Err(refuse(error))).await;
            return;
        }
    }
    // A client that only watches may end its side; the execution's end ends the stream.
    if let Some((_, guard)) = followed {
        guard.ended().await;
    }
}

/// Passes the news of an execution on until it is over.
struct JoinGuard(Option<JoinHandle<()>>);

impl JoinGuard {
    async fn ended(mut self) {
        if let Some(passing) = self.0.take() {
            // It ends by itself, or with the stream.
            let _ended = passing.await;
        }
    }
}

impl Drop for JoinGuard {
    fn drop(&mut self) {
        if let Some(passing) = &self.0 {
            passing.abort();
        }
    }
}

async fn follow(engine: &Engine, caller: &Caller, id: &str, send: mpsc::Sender<Frame>) -> Result<JoinGuard, Error> {
    let (first, watcher) = engine.follow_execution(id, caller).await?;
    let watching = super::runs::Watching {
        engine: engine.clone(),
        watcher,
    };
    Ok(JoinGuard(Some(tokio::spawn(pass(watching, first, send)))))
}

async fn pass(watching: super::runs::Watching, first: VecDeque<StreamToolResponse>, send: mpsc::Sender<Frame>) {
    let watcher: &Arc<RunWatcher> = &watching.watcher;
    let mut ready = first;
    loop {
        while let Some(frame) = ready.pop_front() {
            let last = is_last(&frame);
            if send.send(Ok(frame)).await.is_err() || last {
                return;
            }
        }
        match watcher.next().await {
            Some(event) => ready.extend(frames(event)),
            None => return,
        }
    }
}
