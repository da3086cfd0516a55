//! The parts of the scripted orchestrator that agents need: runs, approvals, tools, and containers that files go into.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use futures_core::Stream;
use nexus_daemon::{Access, Services};
use nexus_proto::{
    common::v1::{ToolDefinition, ToolExecutionResult, ToolExecutionStatus},
    orchestrator::v1::{
        approval_service_server::{ApprovalService, ApprovalServiceServer},
        container_service_server::{ContainerService, ContainerServiceServer},
        run_event::Kind,
        run_service_server::{RunService, RunServiceServer},
        *,
    },
    tool::v1::{
        tool_service_server::{ToolService, ToolServiceServer},
        *,
    },
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::fake::Shared;

#[derive(Default)]
pub struct Agents {
    pub watchers: Vec<mpsc::UnboundedSender<Result<RunEvent, Status>>>,
    pub approvals: Vec<Approval>,
    pub grants: Vec<Grant>,
    pub runs: Vec<Run>,
    pub decided: Vec<DecideApprovalRequest>,
    pub stopped: Vec<StopRequest>,
    pub cancelled: Vec<CancelRunRequest>,
    pub resumed: Vec<ResumeRequest>,
    pub called: Vec<ExecuteToolRequest>,
    pub added: Vec<ToolDefinition>,
    /// Containers.
    pub removed: usize,
    /// What the agent does to its files once they are there.
    pub work: Option<fn(&Path)>,
}

/// Waits until a caller has done something.
pub async fn until(script: &Shared, done: impl Fn(&Agents) -> bool) {
    while !done(&script.lock().unwrap().agents) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Tells those who watch. A run of the message `$message` is that of the message that was sent.
pub async fn tell(script: &Shared, mut event: RunEvent, message_id: &str) {
    if let Some(Kind::Run(run)) = &mut event.kind
        && run.message_id == "$message"
    {
        run.message_id = message_id.to_owned();
    }
    until(script, |agents| !agents.watchers.is_empty()).await;
    for watcher in &script.lock().unwrap().agents.watchers {
        let _gone = watcher.send(Ok(event.clone()));
    }
}

pub fn serve(services: Services, script: &Shared, root: &Path) -> Services {
    let parts = || Part {
        script: script.clone(),
        workspaces: root.join("state/workspaces"),
    };
    services
        .add(Access::USERS, RunServiceServer::new(parts()))
        .add(Access::USERS, ApprovalServiceServer::new(parts()))
        .add(Access::USERS, ToolServiceServer::new(parts()))
        .add(Access::USERS, ContainerServiceServer::new(parts()))
}

struct Part {
    script: Shared,
    workspaces: PathBuf,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not in the script"))
}

#[tonic::async_trait]
impl RunService for Part {
    type WatchStream = Answers<RunEvent>;

    async fn get_run(&self, request: Request<GetRunRequest>) -> Answer<GetRunResponse> {
        let id = request.into_inner().run_id;
        let script = self.script.lock().unwrap();
        match script.agents.runs.iter().find(|run| run.id == id) {
            Some(run) => Ok(Response::new(GetRunResponse { run: Some(run.clone()) })),
            None => Err(Status::not_found(format!("run not found: {id}"))),
        }
    }

    async fn list_runs(&self, _: Request<ListRunsRequest>) -> Answer<ListRunsResponse> {
        Ok(Response::new(ListRunsResponse {
            runs: self.script.lock().unwrap().agents.runs.clone(),
            next_page_token: "7".into(),
        }))
    }

    async fn watch(&self, _: Request<WatchRunsRequest>) -> Answer<Self::WatchStream> {
        let (watcher, events) = mpsc::unbounded_channel();
        self.script.lock().unwrap().agents.watchers.push(watcher);
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(events))))
    }

    async fn cancel_run(&self, request: Request<CancelRunRequest>) -> Answer<CancelRunResponse> {
        self.script.lock().unwrap().agents.cancelled.push(request.into_inner());
        Ok(Response::new(CancelRunResponse::default()))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Answer<StopResponse> {
        let request = request.into_inner();
        let survived = if request.reason == "survive" {
            vec!["c9".into()]
        } else {
            Vec::new()
        };
        self.script.lock().unwrap().agents.stopped.push(request);
        Ok(Response::new(StopResponse {
            runs: vec!["r1".into()],
            calls: vec!["c1".into(), "c2".into()],
            survived,
        }))
    }

    async fn resume(&self, request: Request<ResumeRequest>) -> Answer<ResumeResponse> {
        self.script.lock().unwrap().agents.resumed.push(request.into_inner());
        Ok(Response::new(ResumeResponse { resumed: true }))
    }
}

#[tonic::async_trait]
impl ApprovalService for Part {
    type WatchStream = Answers<Approval>;

    async fn list(&self, _: Request<ListApprovalsRequest>) -> Answer<ListApprovalsResponse> {
        Ok(Response::new(ListApprovalsResponse {
            approvals: self.script.lock().unwrap().agents.approvals.clone(),
            next_page_token: String::new(),
        }))
    }

    async fn get(&self, request: Request<GetApprovalRequest>) -> Answer<GetApprovalResponse> {
        let id = request.into_inner().approval_id;
        let script = self.script.lock().unwrap();
        match script.agents.approvals.iter().find(|one| one.id == id) {
            Some(one) => Ok(Response::new(GetApprovalResponse {
                approval: Some(one.clone()),
            })),
            None => Err(Status::not_found(format!("approval not found: {id}"))),
        }
    }

    async fn watch(&self, _: Request<WatchApprovalsRequest>) -> Answer<Self::WatchStream> {
        let all = self.script.lock().unwrap().agents.approvals.clone();
        Ok(Response::new(Box::pin(tokio_stream::iter(all.into_iter().map(Ok)))))
    }

    async fn decide(&self, request: Request<DecideApprovalRequest>) -> Answer<DecideApprovalResponse> {
        let request = request.into_inner();
        let mut script = self.script.lock().unwrap();
        let state = if request.allow {
            ApprovalState::Approved
        } else {
            ApprovalState::Denied
        };
        let approval = Approval {
            id: request.approval_id.clone(),
            state: state.into(),
            decided_by: "uid:7".into(),
            decided_on: request.surface.clone(),
            reason: request.reason.clone(),
            ..Approval::default()
        };
        script.agents.decided.push(request);
        Ok(Response::new(DecideApprovalResponse {
            approval: Some(approval),
        }))
    }

    async fn list_grants(&self, _: Request<ListGrantsRequest>) -> Answer<ListGrantsResponse> {
        Ok(Response::new(ListGrantsResponse {
            grants: self.script.lock().unwrap().agents.grants.clone(),
        }))
    }

    async fn revoke_grant(&self, request: Request<RevokeGrantRequest>) -> Answer<RevokeGrantResponse> {
        let id = request.into_inner().grant_id;
        let mut script = self.script.lock().unwrap();
        let before = script.agents.grants.len();
        script.agents.grants.retain(|grant| grant.id != id);
        Ok(Response::new(RevokeGrantResponse {
            revoked: script.agents.grants.len() < before,
        }))
    }
}

fn tool(name: &str) -> ToolInstance {
    ToolInstance {
        name: name.into(),
        enabled: true,
        definition: Some(ToolDefinition {
            name: name.into(),
            description: "Runs a command\u{1b}[2J".into(),
            input_schema_json: r#"{"type":"object","properties":{"command":{"type":"string","description":"what to run"}},"required":["command"]}"#.into(),
            source: "builtin".into(),
            ..ToolDefinition::default()
        }),
        usage_stats: Some(ToolUsageStats {
            total_executions: 3,
            successful_executions: 2,
            avg_duration_ns: 1_500_000_000,
            ..ToolUsageStats::default()
        }),
        ..ToolInstance::default()
    }
}

#[tonic::async_trait]
impl ToolService for Part {
    type StreamToolStream = Answers<StreamToolResponse>;

    async fn register_tool(&self, request: Request<RegisterToolRequest>) -> Answer<RegisterToolResponse> {
        let request = request.into_inner();
        let definition = request.definition.unwrap_or_default();
        let name = definition.name.clone();
        let mut script = self.script.lock().unwrap();
        if !request.force && script.agents.added.iter().any(|added| added.name == name) {
            return Err(Status::already_exists(format!("the tool {name} is there already")));
        }
        script.agents.added.push(definition);
        Ok(Response::new(RegisterToolResponse {
            tool: Some(tool(&name)),
            name,
        }))
    }

    async fn unregister_tool(&self, _: Request<UnregisterToolRequest>) -> Answer<UnregisterToolResponse> {
        Ok(Response::new(UnregisterToolResponse {
            success: true,
            message: String::new(),
        }))
    }

    async fn update_tool(&self, _: Request<UpdateToolRequest>) -> Answer<UpdateToolResponse> {
        not_here()
    }

    async fn enable_tool(&self, request: Request<EnableToolRequest>) -> Answer<EnableToolResponse> {
        Ok(Response::new(EnableToolResponse {
            name: request.into_inner().name,
            enabled: true,
        }))
    }

    async fn disable_tool(&self, request: Request<DisableToolRequest>) -> Answer<DisableToolResponse> {
        Ok(Response::new(DisableToolResponse {
            name: request.into_inner().name,
            disabled: true,
            cancelled_executions: 1,
        }))
    }

    async fn list_tools(&self, _: Request<ListToolsRequest>) -> Answer<ListToolsResponse> {
        Ok(Response::new(ListToolsResponse {
            tools: vec![tool("exec"), tool("grep")],
            total_count: 2,
        }))
    }

    async fn get_tool(&self, request: Request<GetToolRequest>) -> Answer<GetToolResponse> {
        let name = request.into_inner().name;
        if name != "exec" {
            return Err(Status::not_found(format!("tool not found: {name}")));
        }
        Ok(Response::new(GetToolResponse {
            tool: Some(tool(&name)),
        }))
    }

    async fn get_tool_definition(&self, _: Request<GetToolDefinitionRequest>) -> Answer<GetToolDefinitionResponse> {
        not_here()
    }

    async fn execute_tool(&self, request: Request<ExecuteToolRequest>) -> Answer<ExecuteToolResponse> {
        self.script.lock().unwrap().agents.called.push(request.into_inner());
        Ok(Response::new(ExecuteToolResponse {
            execution_id: "e1".into(),
            execution: None,
        }))
    }

    async fn stream_tool(&self, request: Request<Streaming<StreamToolRequest>>) -> Answer<Self::StreamToolStream> {
        let mut frames = request.into_inner();
        let first = frames.next().await.transpose()?.unwrap_or_default();
        assert_eq!(first.execution_id, "e1");
        let output = stream_tool_response::Payload::Output(ToolOutput {
            data: "working\n".into(),
            ..ToolOutput::default()
        });
        let complete = stream_tool_response::Payload::Complete(ToolExecutionComplete::default());
        let frames = [output, complete].map(|payload| Ok(StreamToolResponse { payload: Some(payload) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(frames))))
    }

    async fn cancel_execution(&self, _: Request<CancelExecutionRequest>) -> Answer<CancelExecutionResponse> {
        not_here()
    }

    async fn get_execution_status(&self, _: Request<GetExecutionStatusRequest>) -> Answer<GetExecutionStatusResponse> {
        let script = self.script.lock().unwrap();
        let denied = script
            .agents
            .called
            .last()
            .is_some_and(|called| called.tool_name == "message");
        let (status, code) = match denied {
            true => (ToolExecutionStatus::Failed, "denied"),
            false => (ToolExecutionStatus::Completed, ""),
        };
        Ok(Response::new(GetExecutionStatusResponse {
            execution: Some(ToolExecution {
                execution_id: "e1".into(),
                status: status.into(),
                code: code.into(),
                result: Some(ToolExecutionResult {
                    output_text: "Linux\n".into(),
                    ..ToolExecutionResult::default()
                }),
                ..ToolExecution::default()
            }),
        }))
    }

    async fn list_executions(&self, _: Request<ListExecutionsRequest>) -> Answer<ListExecutionsResponse> {
        not_here()
    }

    async fn health_check(&self, _: Request<()>) -> Answer<ToolHealthCheckResponse> {
        not_here()
    }

    async fn get_service_status(&self, _: Request<()>) -> Answer<ToolServiceStatusResponse> {
        not_here()
    }

    async fn get_stats(&self, _: Request<GetStatsRequest>) -> Answer<GetStatsResponse> {
        let of = |name: &str| ToolStats {
            tool_name: name.into(),
            usage_stats: tool(name).usage_stats,
        };
        Ok(Response::new(GetStatsResponse {
            service_stats: None,
            tool_stats: vec![of("exec")],
        }))
    }
}

#[tonic::async_trait]
impl ContainerService for Part {
    type ContainerLogsStream = Answers<ContainerLogsResponse>;
    type PullImageStream = Answers<PullImageResponse>;

    /// Unpacks what comes, as `tar` would; then the agent works.
    async fn exec_container(&self, request: Request<ExecContainerRequest>) -> Answer<ExecContainerResponse> {
        let request = request.into_inner();
        assert_eq!(request.command, ["tar", "xf", "-"]);
        let place = self.workspaces.join(&request.container_id);
        std::fs::create_dir_all(&place).unwrap();
        let archive = request.stdin.unwrap_or_default();
        tar::Archive::new(&archive[..]).unpack(&place).unwrap();
        if let Some(work) = self.script.lock().unwrap().agents.work {
            work(&place);
        }
        Ok(Response::new(ExecContainerResponse::default()))
    }

    async fn container_logs(&self, _: Request<ContainerLogsRequest>) -> Answer<Self::ContainerLogsStream> {
        not_here()
    }

    async fn container_stats(&self, _: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        not_here()
    }

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        not_here()
    }

    async fn pull_image(&self, _: Request<PullImageRequest>) -> Answer<Self::PullImageStream> {
        not_here()
    }

    async fn import_image(&self, _: Request<ImportImageRequest>) -> Answer<ImportImageResponse> {
        not_here()
    }

    async fn remove_image(&self, _: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        not_here()
    }

    async fn prune_images(&self, _: Request<PruneImagesRequest>) -> Answer<PruneImagesResponse> {
        not_here()
    }
}
