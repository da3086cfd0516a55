//! The orchestrator is killed at each fact of a run. A fake assistant and a fake worker go on with what they know; every
//! call runs once, and the run comes to its answer.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::Duration;

use nexus_client::Connection;
use nexus_proto::agent::v1::*;
use nexus_proto::llm::v1::{Block, ToolCall, block};
use nexus_proto::orchestrator::v1::driver_service_client::DriverServiceClient;
use nexus_proto::orchestrator::v1::run_service_client::RunServiceClient;
use nexus_proto::orchestrator::v1::*;
use nexus_tests::{Daemon, Site, ask};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

/// Nothing here takes this long; what does is a failure.
const LONG: Duration = Duration::from_secs(30);

/// The facts at which the orchestrator is killed, in their order.
const FACTS: [&str; 6] = [
    "offered",
    "step finished",
    "call given",
    "call taken",
    "call finished",
    "next step offered",
];

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("it takes far too long")
}

async fn register(connection: &Connection, name: &str, tools: &[&str], protocols: &[&str]) -> String {
    let request = RegisterRequest {
        name: name.into(),
        r#type: AgentType::Worker.into(),
        metadata: Some(AgentMetadata::default()),
        capabilities: Some(AgentCapabilities {
            supported_tasks: vec!["tool_execution".into()],
            supported_tools: tools.iter().map(ToString::to_string).collect(),
            supported_protocols: protocols.iter().map(ToString::to_string).collect(),
            ..AgentCapabilities::default()
        }),
    };
    connection
        .agent()
        .register(request)
        .await
        .unwrap()
        .into_inner()
        .agent_id
}

/// An agent's open stream.
struct Stream {
    _frames: mpsc::Sender<StreamAgentRequest>,
    inbound: Streaming<StreamAgentResponse>,
}

impl Stream {
    async fn open(connection: &Connection, id: &str) -> Stream {
        let (frames, outbound) = mpsc::channel(16);
        let first = StreamAgentRequest {
            agent_id: id.into(),
            payload: None,
        };
        frames.send(first).await.unwrap();
        let outbound = ReceiverStream::new(outbound);
        let inbound = soon(connection.agent().stream_agent(outbound))
            .await
            .unwrap()
            .into_inner();
        Stream {
            _frames: frames,
            inbound,
        }
    }

    /// The next message that fits.
    async fn next<T>(&mut self, fits: impl Fn(AgentMessage) -> Option<T>) -> T {
        loop {
            let frame = soon(self.inbound.message()).await.unwrap().expect("the stream goes on");
            if let Some(stream_agent_response::Payload::Message(message)) = frame.payload
                && let Some(found) = fits(message)
            {
                return found;
            }
        }
    }
}

/// The first step of a run, as it is offered: with its attempt.
fn first_step(message: AgentMessage) -> Option<(String, i32)> {
    let headers = message.metadata?.headers;
    let attempt = headers.get("step_attempt")?.parse().unwrap();
    Some((headers.get("run_id")?.clone(), attempt))
}

fn later_step(message: AgentMessage) -> Option<StepOffer> {
    match message.payload? {
        agent_message::Payload::Step(offer) => Some(offer),
        _ => None,
    }
}

fn task(message: AgentMessage) -> Option<Task> {
    match message.payload? {
        agent_message::Payload::TaskMessage(message) => message.task,
        _ => None,
    }
}

fn text(text: &str) -> Block {
    Block {
        kind: Some(block::Kind::Text(text.into())),
    }
}

/// A StreamTask of the worker's. When this returns, that the task runs is on disk.
async fn take(
    connection: &Connection,
    worker: &str,
    task: &str,
) -> (mpsc::Sender<StreamTaskRequest>, Streaming<StreamTaskResponse>) {
    let (frames, outbound) = mpsc::channel(16);
    let mut request = Request::new(ReceiverStream::new(outbound));
    request.metadata_mut().insert("agent-id", worker.parse().unwrap());
    let mut inbound = soon(connection.agent().stream_task(request))
        .await
        .unwrap()
        .into_inner();
    let first = StreamTaskRequest {
        task_id: task.into(),
        payload: Some(stream_task_request::Payload::Heartbeat(())),
    };
    frames.send(first).await.unwrap();
    loop {
        let frame = soon(inbound.message()).await.unwrap().unwrap();
        if let Some(stream_task_response::Payload::Heartbeat(())) = frame.payload {
            return (frames, inbound);
        }
    }
}

struct World {
    site: Site,
    assistant: String,
    worker: String,
    /// How often each call ran.
    ran: BTreeMap<String, u32>,
}

impl World {
    /// Kills the orchestrator if it is its time, and starts it again.
    async fn die(&mut self, at: &str, when: &str) -> bool {
        if at == when {
            self.site.kill(Daemon::Orchestrator);
            self.site.up(&[Daemon::Orchestrator]).await;
        }
        at == when
    }

    async fn finish(&self, run: &str, step: i32, attempt: i32, blocks: Vec<Block>) {
        let request = FinishStepRequest {
            agent_id: self.assistant.clone(),
            run_id: run.into(),
            step,
            attempt,
            model: "test".into(),
            blocks,
            ..FinishStepRequest::default()
        };
        let mut driver = DriverServiceClient::new(self.site.connect().channel());
        soon(driver.finish_step(request)).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_runs_once_wherever_the_orchestrator_is_killed() {
    for at in FACTS {
        run_once(at).await;
    }
}

async fn run_once(at: &str) {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let assistant = register(&connection, "assistant", &[], &["runs"]).await;
    let worker = register(&connection, "worker", &["exec"], &[]).await;
    let mut world = World {
        site,
        assistant,
        worker,
        ran: BTreeMap::new(),
    };
    let session = ask::create(&connection, "runs").await;
    let mut steps = Stream::open(&connection, &world.assistant).await;
    let mut tasks = Stream::open(&connection, &world.worker).await;
    let message = ask::message("m", MessageRole::User, "go");
    ask::send(&connection, &session, message).await.unwrap();

    let (mut run, mut attempt) = steps.next(first_step).await;
    if world.die(at, "offered").await {
        let connection = world.site.connect();
        steps = Stream::open(&connection, &world.assistant).await;
        tasks = Stream::open(&connection, &world.worker).await;
        (run, attempt) = steps.next(first_step).await;
    }
    let exec = Block {
        kind: Some(block::Kind::ToolCall(ToolCall {
            id: "t".into(),
            name: "exec".into(),
            arguments: r#"{"command":"count"}"#.into(),
            malformed: false,
        })),
    };
    world.finish(&run, 1, attempt, vec![exec]).await;
    if world.die(at, "step finished").await {
        let connection = world.site.connect();
        steps = Stream::open(&connection, &world.assistant).await;
        tasks = Stream::open(&connection, &world.worker).await;
    }
    let mut given = tasks.next(task).await;
    if world.die(at, "call given").await {
        let connection = world.site.connect();
        steps = Stream::open(&connection, &world.assistant).await;
        tasks = Stream::open(&connection, &world.worker).await;
        given = tasks.next(task).await;
    }
    let (mut frames, mut inbound) = take(&world.site.connect(), &world.worker, &given.id).await;
    *world.ran.entry(given.call_id.clone()).or_default() += 1;
    if world.die(at, "call taken").await {
        let connection = world.site.connect();
        steps = Stream::open(&connection, &world.assistant).await;
        tasks = Stream::open(&connection, &world.worker).await;
        // It still runs: the worker goes on with it, and does not begin anew.
        (frames, inbound) = take(&connection, &world.worker, &given.id).await;
    }
    let complete = StreamTaskRequest {
        task_id: String::new(),
        payload: Some(stream_task_request::Payload::Complete(TaskComplete {
            result: Some(TaskResult {
                output_text: "1".into(),
                ..TaskResult::default()
            }),
            ..TaskComplete::default()
        })),
    };
    frames.send(complete).await.unwrap();
    while let Some(frame) = soon(inbound.message()).await.unwrap() {
        if matches!(frame.payload, Some(stream_task_response::Payload::Complete(_))) {
            break;
        }
    }
    if world.die(at, "call finished").await {
        steps = Stream::open(&world.site.connect(), &world.assistant).await;
    }
    let mut offer = steps.next(later_step).await;
    if world.die(at, "next step offered").await {
        steps = Stream::open(&world.site.connect(), &world.assistant).await;
        offer = steps.next(later_step).await;
    }
    assert_eq!((offer.run_id.as_str(), offer.step), (run.as_str(), 2), "killed at {at}");
    let calls = offer.previous.unwrap().calls;
    assert_eq!(
        (calls[0].state(), calls[0].attempt),
        (CallState::Done, 1),
        "killed at {at}"
    );
    world
        .finish(&run, 2, offer.attempt, vec![text("It counted to one.")])
        .await;
    let request = GetRunRequest { run_id: run };
    let mut runs = RunServiceClient::new(world.site.connect().channel());
    let over = runs.get_run(request).await.unwrap().into_inner().run.unwrap();
    assert_eq!(
        (over.state(), over.end()),
        (RunState::Ended, RunEnd::Done),
        "killed at {at}"
    );
    assert_eq!(world.ran.values().copied().collect::<Vec<_>>(), [1], "killed at {at}");
    drop(tasks);
}
