//! Runs over the wire: a fake assistant that drives them, a fake worker that executes their calls, and those who watch.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nexus_daemon::{Role, token};
use nexus_proto::agent::v1::stream_task_request::Payload as Say;
use nexus_proto::agent::v1::stream_task_response::Payload as Hear;
use nexus_proto::agent::v1::*;
use nexus_proto::llm::v1::{Block, ToolCall, block};
use nexus_proto::orchestrator::v1::approval_service_client::ApprovalServiceClient;
use nexus_proto::orchestrator::v1::driver_service_client::DriverServiceClient;
use nexus_proto::orchestrator::v1::run_service_client::RunServiceClient;
use nexus_proto::orchestrator::v1::*;
use nexus_proto::tool::v1::tool_service_client::ToolServiceClient;
use nexus_proto::tool::v1::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};

use super::site::{Linked, Site, refused, soon, user};

fn text(text: &str) -> Block {
    Block {
        kind: Some(block::Kind::Text(text.into())),
    }
}

fn call(name: &str, arguments: &str) -> Block {
    Block {
        kind: Some(block::Kind::ToolCall(ToolCall {
            id: format!("toolu_{name}"),
            name: name.into(),
            arguments: arguments.into(),
            malformed: false,
        })),
    }
}

fn exec(command: &str) -> Block {
    call("exec", &format!(r#"{{"command":{command:?}}}"#))
}

/// An assistant that drives runs.
struct Driver {
    linked: Linked,
}

impl Driver {
    async fn new(site: &Site) -> Driver {
        let id = register(site, "assistant", &[], &["runs"]).await;
        Driver {
            linked: site.link(&id).await,
        }
    }

    /// The first step of a run: the message itself. Returns the run's id.
    async fn first(&mut self) -> (AgentMessage, String) {
        let (request, _) = self.linked.asked().await;
        let headers = request.metadata.clone().unwrap().headers;
        assert_eq!(headers["step"], "1");
        assert!(!headers["tools_digest"].is_empty());
        let run = headers["run_id"].clone();
        (request, run)
    }

    async fn step(&mut self) -> StepOffer {
        loop {
            if let Some(agent_message::Payload::Step(offer)) = self.linked.next().await.payload {
                return offer;
            }
        }
    }

    async fn finish(&self, site: &Site, run: &str, step: i32, blocks: Vec<Block>) -> Run {
        let request = FinishStepRequest {
            agent_id: self.linked.id.clone(),
            run_id: run.into(),
            step,
            attempt: 1,
            model: "test".into(),
            blocks,
            ..FinishStepRequest::default()
        };
        driver(site)
            .finish_step(request)
            .await
            .unwrap()
            .into_inner()
            .run
            .unwrap()
    }
}

fn driver(site: &Site) -> DriverServiceClient<nexus_client::Channel> {
    DriverServiceClient::new(site.channel())
}

fn runs(site: &Site) -> RunServiceClient<nexus_client::Channel> {
    RunServiceClient::new(site.channel())
}

fn approvals(site: &Site) -> ApprovalServiceClient<nexus_client::Channel> {
    ApprovalServiceClient::new(site.channel())
}

fn tools(site: &Site) -> ToolServiceClient<nexus_client::Channel> {
    ToolServiceClient::new(site.channel())
}

async fn register(site: &Site, name: &str, tools: &[&str], protocols: &[&str]) -> String {
    let capabilities = AgentCapabilities {
        supported_tasks: vec!["tool_execution".into()],
        supported_tools: tools.iter().map(ToString::to_string).collect(),
        supported_protocols: protocols.iter().map(ToString::to_string).collect(),
        ..AgentCapabilities::default()
    };
    let request = RegisterRequest {
        name: name.into(),
        r#type: AgentType::Worker.into(),
        metadata: Some(AgentMetadata::default()),
        capabilities: Some(capabilities),
    };
    site.agent().register(request).await.unwrap().into_inner().agent_id
}

/// A worker with an open stream, over which tasks are pushed.
struct Worker {
    linked: Linked,
}

impl Worker {
    async fn new(site: &Site) -> Worker {
        let id = register(site, "worker", &["exec", "read_file", "write_file", "custom"], &[]).await;
        Worker {
            linked: site.link(&id).await,
        }
    }

    /// The next task that was pushed.
    async fn pushed(&mut self) -> Task {
        loop {
            if let Some(agent_message::Payload::TaskMessage(message)) = self.linked.next().await.payload {
                return message.task.expect("the whole task is pushed");
            }
        }
    }

    /// Takes a task: when this returns, that it runs is on disk.
    async fn take(&self, site: &Site, task: &str) -> Working {
        let (frames, outbound) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(outbound));
        request
            .metadata_mut()
            .insert("agent-id", self.linked.id.parse().unwrap());
        let inbound = site.agent().stream_task(request).await.unwrap().into_inner();
        let mut working = Working { frames, inbound };
        let first = StreamTaskRequest {
            task_id: task.into(),
            payload: Some(Say::Heartbeat(())),
        };
        working.frames.send(first).await.unwrap();
        while !matches!(working.next().await, Hear::Heartbeat(())) {}
        working
    }
}

struct Working {
    frames: mpsc::Sender<StreamTaskRequest>,
    inbound: Streaming<StreamTaskResponse>,
}

impl Working {
    async fn next(&mut self) -> Hear {
        soon(self.inbound.message()).await.unwrap().unwrap().payload.unwrap()
    }

    async fn say(&self, payload: Say) {
        let frame = StreamTaskRequest {
            task_id: String::new(),
            payload: Some(payload),
        };
        self.frames.send(frame).await.unwrap();
    }

    /// Says how the task ended, and waits until that is on disk.
    async fn complete(mut self, output: &str) {
        self.say(Say::Complete(TaskComplete {
            result: Some(TaskResult {
                output_text: output.into(),
                ..TaskResult::default()
            }),
            ..TaskComplete::default()
        }))
        .await;
        while !matches!(self.next().await, Hear::Complete(_)) {}
    }
}

fn result(step: &RunStep, place: usize) -> &str {
    match &step.calls[place].result[0].kind {
        Some(block::Kind::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_two_steps_and_a_call_end_in_an_answer() {
    let site = Site::new().await;
    let mut assistant = Driver::new(&site).await;
    let mut worker = Worker::new(&site).await;
    let session = site.session().await;
    let mut chat = site.chat(&session).await;
    chat.say(user("list the files")).await;
    let (_, run) = assistant.first().await;
    let watch = WatchRunsRequest {
        run_id: run.clone(),
        ..WatchRunsRequest::default()
    };
    let mut news = runs(&site).watch(watch).await.unwrap().into_inner();

    let told = driver(&site)
        .get_tools(GetToolsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let names: Vec<&str> = told.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert!(
        names.is_sorted() && names.contains(&"exec") && names.contains(&"read_file"),
        "{names:?}"
    );

    let after = assistant
        .finish(&site, &run, 1, vec![text("I look."), exec("ls")])
        .await;
    assert_eq!(after.state(), RunState::Tools);
    let task = worker.pushed().await;
    assert_eq!(
        (task.run_id.as_str(), task.session_id.as_str()),
        (run.as_str(), session.as_str())
    );
    let config = task.config.unwrap();
    assert_eq!(config.command, "exec");
    assert!(
        String::from_utf8(config.input_data.to_vec())
            .unwrap()
            .contains(r#""command":"ls""#)
    );
    assert!(config.parameters["workspace"].ends_with(&session));
    let working = worker.take(&site, &task.id).await;
    working
        .say(Say::Output(TaskOutput {
            text: "main.c\n".into(),
            stream_type: "stdout".into(),
            sequence: 1,
            ..TaskOutput::default()
        }))
        .await;
    working.complete("main.c").await;
    let offer = assistant.step().await;
    assert_eq!((offer.step, offer.attempt, offer.last), (2, 1, false));
    assert_eq!(result(offer.previous.as_ref().unwrap(), 0), "main.c");
    assistant.finish(&site, &run, 2, vec![text("There is main.c.")]).await;
    assert_eq!(chat.answer().await, "There is main.c.");

    let request = GetRunRequest { run_id: run.clone() };
    let whole = runs(&site).get_run(request).await.unwrap().into_inner().run.unwrap();
    assert_eq!((whole.state(), whole.end()), (RunState::Ended, RunEnd::Done));
    assert_eq!(whole.steps.len(), 2);
    assert_eq!(result(&whole.steps[0], 0), "main.c");
    assert_eq!(whole.steps[0].calls[0].state(), CallState::Done);

    // Those who watched saw each state of the call and its output, and their watch ends with the run.
    let (mut states, mut output) = (Vec::new(), Vec::new());
    while let Some(event) = soon(news.message()).await.unwrap() {
        match event.kind {
            Some(run_event::Kind::Call(update)) => states.push(update.call.unwrap().state()),
            Some(run_event::Kind::Output(said)) => output.extend_from_slice(&said.data),
            _ => {}
        }
    }
    states.dedup();
    assert_eq!(
        states,
        [
            CallState::Allowed,
            CallState::Started,
            CallState::Running,
            CallState::Done
        ]
    );
    assert_eq!(output, b"main.c\n");
}

#[tokio::test]
async fn a_run_of_text_only_is_shown_too() {
    let site = Site::new().await;
    let mut assistant = Driver::new(&site).await;
    let session = site.session().await;
    let mut chat = site.chat(&session).await;
    chat.say(user("hello")).await;
    let (request, run) = assistant.first().await;
    let open = runs(&site)
        .get_run(GetRunRequest { run_id: run.clone() })
        .await
        .unwrap()
        .into_inner()
        .run
        .unwrap();
    assert_eq!(open.state(), RunState::Model);
    assistant.linked.answer(&request, "Hello.").await;
    assert_eq!(chat.answer().await, "Hello.");
    let over = runs(&site)
        .get_run(GetRunRequest { run_id: run.clone() })
        .await
        .unwrap()
        .into_inner()
        .run
        .unwrap();
    assert_eq!((over.id.as_str(), over.end()), (run.as_str(), RunEnd::Done));
    let list = ListRunsRequest {
        session_id: session,
        ..ListRunsRequest::default()
    };
    let listed = runs(&site).list_runs(list).await.unwrap().into_inner().runs;
    assert_eq!(
        listed.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(),
        [run.as_str()]
    );
    let mut other = run.clone();
    other.replace_range(31.., if run.ends_with('0') { "1" } else { "0" });
    let missing = runs(&site).get_run(GetRunRequest { run_id: other }).await;
    assert_eq!(
        refused(missing, Code::NotFound).split(':').next(),
        Some("run not found")
    );
}

#[tokio::test]
async fn an_old_worker_is_offered_calls_with_its_heartbeat() {
    let site = Site::new().await;
    let mut assistant = Driver::new(&site).await;
    let id = register(&site, "worker-old", &["exec"], &[]).await;
    let session = site.session().await;
    let chat = site.chat(&session).await;
    chat.say(user("go")).await;
    let (_, run) = assistant.first().await;
    assistant.finish(&site, &run, 1, vec![exec("ls")]).await;
    let beat = HeartbeatRequest {
        agent_id: id.clone(),
        ..HeartbeatRequest::default()
    };
    let pending = site.agent().heartbeat(beat).await.unwrap().into_inner().pending_tasks;
    assert_eq!(pending.len(), 1);
    let working = Worker {
        linked: site.link(&id).await,
    }
    .take(&site, &pending[0])
    .await;
    working.complete("old").await;
    assert_eq!(result(&assistant.step().await.previous.unwrap(), 0), "old");
}

#[tokio::test]
async fn a_restart_of_the_orchestrator_loses_no_call() {
    let mut site = Site::new().await;
    let mut assistant = Driver::new(&site).await;
    let mut worker = Worker::new(&site).await;
    let session = site.session().await;
    site.send(&session, user("go")).await.unwrap();
    let (_, run) = assistant.first().await;
    assistant.finish(&site, &run, 1, vec![exec("ls"), exec("pwd")]).await;
    let (first, second) = (worker.pushed().await, worker.pushed().await);
    drop(worker.take(&site, &first.id).await);
    site.restart().await;
    // The worker still has both: one that runs, and one that it was given and has not begun.
    let mut worker = Worker {
        linked: site.link(&worker.linked.id).await,
    };
    let again = worker.pushed().await;
    assert_eq!(again.call_id, second.call_id, "what was not taken is given again");
    worker.take(&site, &first.id).await.complete("one").await;
    worker.take(&site, &again.id).await.complete("two").await;
    let mut assistant = Driver {
        linked: site.link(&assistant.linked.id).await,
    };
    let offer = assistant.step().await;
    let step = offer.previous.unwrap();
    assert_eq!((result(&step, 0), result(&step, 1)), ("one", "two"));
    assert_eq!(step.calls[0].attempt, 1, "what ran goes on");
}

#[tokio::test]
async fn stop_ends_what_runs_within_a_second() {
    let site = Site::new().await;
    let mut assistant = Driver::new(&site).await;
    let mut worker = Worker::new(&site).await;
    let session = site.session().await;
    let chat = site.chat(&session).await;
    chat.say(user("go")).await;
    let (_, run) = assistant.first().await;
    assistant.finish(&site, &run, 1, vec![exec("sleep 1000")]).await;
    let task = worker.pushed().await;
    let mut working = worker.take(&site, &task.id).await;
    let stopping = tokio::spawn({
        let (mut runs, session_id) = (runs(&site), session.clone());
        async move {
            let begun = Instant::now();
            let request = StopRequest {
                session_id,
                ..StopRequest::default()
            };
            (runs.stop(request).await.unwrap().into_inner(), begun.elapsed())
        }
    });
    while !matches!(working.next().await, Hear::Cancel(_)) {}
    working.complete("so far").await;
    let (stopped, took) = soon(stopping).await.unwrap();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!((stopped.runs, stopped.survived), (vec![run.clone()], vec![]));
    assert_eq!(stopped.calls, [task.call_id]);
    let over = runs(&site)
        .get_run(GetRunRequest { run_id: run })
        .await
        .unwrap()
        .into_inner()
        .run
        .unwrap();
    assert_eq!((over.state(), over.end()), (RunState::Ended, RunEnd::Stopped));
    assert_eq!(over.steps[0].calls[0].state(), CallState::Cancelled);
}

#[tokio::test]
async fn an_approval_is_shown_whole_and_decided_once() {
    let site = Site::new().await;
    let mut assistant = Driver::new(&site).await;
    let mut worker = Worker::new(&site).await;
    let policy = SessionPolicy {
        require_approval: true,
        ..SessionPolicy::default()
    };
    let config = SessionConfig {
        policy: Some(policy),
        ..SessionConfig::default()
    };
    let create = CreateSessionRequest {
        config: Some(config),
        ..CreateSessionRequest::default()
    };
    let session = site
        .orchestrator()
        .create_session(create)
        .await
        .unwrap()
        .into_inner()
        .session_id;
    let mut watched = approvals(&site)
        .watch(WatchApprovalsRequest::default())
        .await
        .unwrap()
        .into_inner();
    site.send(&session, user("go")).await.unwrap();
    let (_, run) = assistant.first().await;
    assistant.finish(&site, &run, 1, vec![exec("make all")]).await;
    let asked = soon(watched.message()).await.unwrap().unwrap();
    assert_eq!(
        (asked.state(), asked.session_id.as_str()),
        (ApprovalState::Pending, session.as_str())
    );
    let plan: serde_json::Value = serde_json::from_str(&asked.plan_json).unwrap();
    assert_eq!(plan["arguments"]["command"], "make all");
    let decide = |digest: &str| DecideApprovalRequest {
        approval_id: asked.id.clone(),
        allow: true,
        digest: digest.into(),
        surface: "test".into(),
        ..DecideApprovalRequest::default()
    };
    refused(approvals(&site).decide(decide("0")).await, Code::FailedPrecondition);
    approvals(&site).decide(decide(&asked.digest)).await.unwrap();
    refused(
        approvals(&site).decide(decide(&asked.digest)).await,
        Code::FailedPrecondition,
    );
    let task = worker.pushed().await;
    worker.take(&site, &task.id).await.complete("made").await;
    assert_eq!(result(&assistant.step().await.previous.unwrap(), 0), "made");
    let get = GetApprovalRequest {
        approval_id: asked.id.clone(),
    };
    let over = approvals(&site).get(get).await.unwrap().into_inner().approval.unwrap();
    assert_eq!(
        (over.state(), over.decided_on.as_str()),
        (ApprovalState::Approved, "test")
    );
    let list = ListApprovalsRequest {
        session_id: session,
        ..ListApprovalsRequest::default()
    };
    assert_eq!(
        approvals(&site).list(list).await.unwrap().into_inner().approvals.len(),
        1
    );
}

#[tokio::test]
async fn a_tool_that_a_user_defined_is_executed_and_followed() {
    let site = Site::new().await;
    let mut worker = Worker::new(&site).await;
    let session = site.session().await;
    let definition = nexus_proto::common::v1::ToolDefinition {
        name: "greet".into(),
        description: "Say hello.".into(),
        command: vec!["greet".into()],
        input_schema_json: r#"{"type":"object","properties":{"name":{"type":"string"}},"required":["name"]}"#.into(),
        ..Default::default()
    };
    let register = RegisterToolRequest {
        definition: Some(definition),
        force: false,
    };
    tools(&site).register_tool(register.clone()).await.unwrap();
    refused(tools(&site).register_tool(register).await, Code::AlreadyExists);
    let execute = ExecuteToolRequest {
        tool_name: "greet".into(),
        session_id: session.clone(),
        parameters: HashMap::from([("name".to_owned(), "Ada".to_owned())]),
        ..ExecuteToolRequest::default()
    };
    refused(
        tools(&site).execute_tool(execute.clone()).await,
        Code::FailedPrecondition,
    );
    tools(&site)
        .enable_tool(EnableToolRequest { name: "greet".into() })
        .await
        .unwrap();
    let bad = ExecuteToolRequest {
        parameters: HashMap::new(),
        ..execute.clone()
    };
    refused(tools(&site).execute_tool(bad).await, Code::InvalidArgument);
    let taken = tools(&site).execute_tool(execute).await.unwrap().into_inner();

    let (frames, outbound) = mpsc::channel(8);
    let first = StreamToolRequest {
        execution_id: taken.execution_id.clone(),
        payload: Some(stream_tool_request::Payload::Heartbeat(())),
    };
    frames.send(first).await.unwrap();
    let mut followed = tools(&site)
        .stream_tool(ReceiverStream::new(outbound))
        .await
        .unwrap()
        .into_inner();
    let task = worker.pushed().await;
    let config = task.config.clone().unwrap();
    assert_eq!(
        (config.command.as_str(), config.arguments),
        ("custom", vec!["greet".to_owned()])
    );
    worker.take(&site, &task.id).await.complete("Hello, Ada.").await;
    let complete = loop {
        let frame = soon(followed.message()).await.unwrap().unwrap();
        if let Some(stream_tool_response::Payload::Complete(complete)) = frame.payload {
            break complete;
        }
    };
    assert_eq!(complete.result.unwrap().output_text, "Hello, Ada.");
    assert!(soon(followed.message()).await.unwrap().is_none());

    let status = GetExecutionStatusRequest {
        execution_id: taken.execution_id.clone(),
    };
    let execution = tools(&site)
        .get_execution_status(status)
        .await
        .unwrap()
        .into_inner()
        .execution
        .unwrap();
    assert_eq!(
        execution.status(),
        nexus_proto::common::v1::ToolExecutionStatus::Completed
    );
    let list = ListExecutionsRequest {
        filter: Some(ExecutionFilter {
            session_id: session,
            ..ExecutionFilter::default()
        }),
        ..ListExecutionsRequest::default()
    };
    assert_eq!(
        tools(&site)
            .list_executions(list)
            .await
            .unwrap()
            .into_inner()
            .executions
            .len(),
        1
    );
    let stats = GetStatsRequest {
        tool_name: "greet".into(),
    };
    let stats = tools(&site).get_stats(stats).await.unwrap().into_inner();
    assert_eq!(stats.tool_stats[0].usage_stats.unwrap().successful_executions, 1);
    let cancel = CancelExecutionRequest {
        execution_id: taken.execution_id,
        ..CancelExecutionRequest::default()
    };
    assert!(
        !tools(&site)
            .cancel_execution(cancel)
            .await
            .unwrap()
            .into_inner()
            .cancelled
    );
}

#[tokio::test]
async fn tasks_are_pushed_at_once_and_listed_in_pages() {
    let site = Site::new().await;
    let mut worker = Worker::new(&site).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        let request = ExecuteTaskRequest {
            session_id: "s".into(),
            r#type: TaskType::ToolExecution.into(),
            config: Some(TaskConfig::default()),
            ..ExecuteTaskRequest::default()
        };
        let given = site.agent().execute_task(request).await.unwrap().into_inner().task_id;
        assert_eq!(worker.pushed().await.id, given);
        ids.push(given);
    }
    let (mut listed, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListTasksRequest {
            agent_id: worker.linked.id.clone(),
            page_size: 2,
            page_token: token,
            ..ListTasksRequest::default()
        };
        let page = site.agent().list_tasks(request).await.unwrap().into_inner();
        assert!(page.tasks.len() <= 2);
        listed.extend(page.tasks.into_iter().map(|task| task.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, ids);
}

/// The attack: another user, an agent, and a token that may only read try to see and to end a run, and to allow its call.
#[tokio::test]
async fn only_its_owner_and_administrators_see_end_and_allow_what_a_run_does() {
    let site = Site::with(&[("common.require_token", "true")]).await;
    let file = site.root.token_file();
    let new = |name: &str, role, scopes: &[&str]| {
        let scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
        token::new(&file, name, role, &scopes, None).unwrap().text
    };
    let (owner, other) = (new("me", Role::User, &[]), new("you", Role::User, &[]));
    let (agent, root) = (new("agent", Role::Agent, &[]), new("root", Role::Admin, &[]));
    let reader = new("reader", Role::Admin, &["read"]);
    let policy = SessionPolicy {
        require_approval: true,
        ..SessionPolicy::default()
    };
    let create = CreateSessionRequest {
        config: Some(SessionConfig {
            policy: Some(policy),
            ..SessionConfig::default()
        }),
        ..CreateSessionRequest::default()
    };
    let session = site
        .with_token(&owner)
        .create_session(create)
        .await
        .unwrap()
        .into_inner()
        .session_id;
    let send = SendMessageRequest {
        session_id: session.clone(),
        message: Some(user("go")),
    };
    site.with_token(&owner).send_message(send).await.unwrap();
    let list = ListRunsRequest {
        session_id: session.clone(),
        ..ListRunsRequest::default()
    };
    let mine = runs_of(&site, &owner)
        .list_runs(list.clone())
        .await
        .unwrap()
        .into_inner()
        .runs;
    let run = mine[0].id.clone();
    for stranger in [&other, &agent] {
        let get = GetRunRequest { run_id: run.clone() };
        refused(runs_of(&site, stranger).get_run(get).await, Code::NotFound);
    }
    refused(runs_of(&site, &other).list_runs(list.clone()).await, Code::NotFound);
    refused(runs_of(&site, &agent).list_runs(list).await, Code::PermissionDenied);
    let stop = |session_id: &str, all| StopRequest {
        session_id: session_id.into(),
        all,
        ..StopRequest::default()
    };
    refused(runs_of(&site, &other).stop(stop(&session, false)).await, Code::NotFound);
    refused(
        runs_of(&site, &agent).stop(stop(&session, false)).await,
        Code::PermissionDenied,
    );
    refused(
        runs_of(&site, &owner).stop(stop("", true)).await,
        Code::PermissionDenied,
    );
    refused(
        runs_of(&site, &reader).stop(stop(&session, false)).await,
        Code::PermissionDenied,
    );
    for (token, code) in [
        (&other, Code::NotFound),
        (&agent, Code::PermissionDenied),
        (&reader, Code::PermissionDenied),
        (&root, Code::NotFound),
    ] {
        let decide = DecideApprovalRequest {
            approval_id: "0".repeat(32),
            allow: true,
            ..DecideApprovalRequest::default()
        };
        let mut approvals = ApprovalServiceClient::new(site.channel_with(token));
        refused(approvals.decide(decide).await, code);
    }
    // No assistant is here, so there is nothing left to end; to ask for it is the owner's right.
    runs_of(&site, &owner).stop(stop(&session, false)).await.unwrap();
}

fn runs_of(site: &Site, token: &str) -> RunServiceClient<nexus_client::Channel> {
    RunServiceClient::new(site.channel_with(token))
}
