//! Calls of tools as tasks for a worker: how soon it has one in hand, what a step costs beside the work, and how many a
//! second one worker and four get done.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nexus_client::{Address, Connection, Options};
use nexus_proto::agent::v1::{
    ExecuteTaskRequest, GetTaskStatusRequest, StreamTaskRequest, Task, TaskConfig, TaskType, stream_task_request,
    stream_task_response::Payload,
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;

use super::{Run, create_session};
use crate::{
    daemons::{Running, TempRoot},
    figures::{Figure, Goal, median, quantile},
};

const ROW: &str = "tools";
/// Calls in flight where as many as possible are done.
const IN_FLIGHT: usize = 16;
const WORKERS: [&str; 4] = ["worker", "worker2", "worker3", "worker4"];

pub async fn run(run: &Run) -> Result<Vec<Figure>> {
    let (rounds, time) = if run.quick {
        (20, Duration::from_millis(500))
    } else {
        (300, Duration::from_secs(5))
    };
    let place = TempRoot::new(&run.bin, &run.dir)?;
    let orchestrator = place.start("orchestrator").await?;
    let mut workers = vec![worker(&place, WORKERS[0]).await?];
    let calls = Calls::open(&orchestrator.socket).await?;
    calls.done("write_file", r#"{"path":"a","content":"a line\n"}"#).await?;

    let mut figures = Vec::new();
    for (tool, arguments, goal) in [
        ("read_file", r#"{"path":"a"}"#, 3.0),
        ("exec", r#"{"command":"true"}"#, 15.0),
    ] {
        // Whatever is made for the first one is there for the others.
        calls.done(tool, arguments).await?;
        let (mut first, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let begun = Instant::now();
            let task = calls.done(tool, arguments).await?;
            whole.push(begun.elapsed().as_secs_f64() * 1e3);
            first.push(until_started(&task)?);
        }
        if tool == "read_file" {
            let taken = |q| quantile(first.iter().copied(), q);
            figures.push(
                Figure::alone(ROW, "ExecuteTask to the worker's first frame, p50", "ms", taken(0.5))
                    .goal(Goal::AtMost(1.0)),
            );
            figures.push(
                Figure::alone(ROW, "ExecuteTask to the worker's first frame, p99", "ms", taken(0.99))
                    .goal(Goal::AtMost(3.0)),
            );
        }
        figures.push(
            Figure::alone(ROW, format!("{tool}, ExecuteTask to its result"), "ms", median(whole))
                .goal(Goal::AtMost(goal)),
        );
    }
    figures.push(Figure::alone(
        ROW,
        "read_file, one worker",
        "1/s",
        calls.rate(time).await?,
    ));
    for name in &WORKERS[1..] {
        workers.push(worker(&place, name).await?);
    }
    figures.push(Figure::alone(
        ROW,
        "read_file, four workers",
        "1/s",
        calls.rate(time).await?,
    ));
    while let Some(last) = workers.pop() {
        last.stop().await?;
    }
    orchestrator.stop().await?;
    Ok(figures)
}

async fn worker(place: &TempRoot, name: &'static str) -> Result<Running> {
    let mut worker = place.spawn_worker(name)?;
    worker.ready().await?;
    Ok(worker)
}

/// From the commit of a task to the first word of its worker, in milliseconds.
fn until_started(task: &Task) -> Result<f64> {
    let at = |timestamp: &Option<prost_types::Timestamp>| {
        let at = timestamp.as_ref().context("a task without its times")?;
        Ok::<f64, anyhow::Error>(at.seconds as f64 * 1e3 + f64::from(at.nanos) / 1e6)
    };
    Ok(at(&task.started_at)? - at(&task.created_at)?)
}

/// Gives tasks of one session, and waits for them.
#[derive(Clone)]
struct Calls {
    connection: Connection,
    session: Arc<str>,
}

impl Calls {
    async fn open(socket: &Path) -> Result<Calls> {
        Ok(Calls {
            connection: Connection::lazy(&Address::Unix(socket.into()), &Options::default()),
            session: create_session(socket).await?.into(),
        })
    }

    async fn done(&self, tool: &str, arguments: &str) -> Result<Task> {
        let request = ExecuteTaskRequest {
            session_id: self.session.to_string(),
            r#type: TaskType::ToolExecution.into(),
            config: Some(TaskConfig {
                command: tool.into(),
                input_data: arguments.to_owned().into(),
                ..TaskConfig::default()
            }),
            ..ExecuteTaskRequest::default()
        };
        let task_id = self
            .connection
            .agent()
            .execute_task(request)
            .await?
            .into_inner()
            .task_id;
        let (frames, outbound) = mpsc::channel(1);
        let hello = StreamTaskRequest {
            task_id: task_id.clone(),
            payload: Some(stream_task_request::Payload::Heartbeat(())),
        };
        frames.send(hello).await?;
        let stream = self.connection.agent().stream_task(ReceiverStream::new(outbound)).await;
        let mut stream = stream?.into_inner();
        loop {
            let frame = stream.message().await?.context("a task's stream ended")?;
            match frame.payload {
                Some(Payload::Complete(_)) => break,
                Some(Payload::Error(error)) => bail!("{tool}: {}", error.message),
                _ => {}
            }
        }
        let request = GetTaskStatusRequest { task_id };
        let answer = self.connection.agent().get_task_status(request).await?;
        answer.into_inner().task.context("a task is gone")
    }

    /// Calls a second, with as many in flight as are let.
    async fn rate(&self, time: Duration) -> Result<f64> {
        let done = Arc::new(AtomicUsize::new(0));
        let begun = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (calls, done) = (self.clone(), done.clone());
            callers.spawn(async move {
                while begun.elapsed() < time {
                    calls.done("read_file", r#"{"path":"a"}"#).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), anyhow::Error>(())
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        Ok(done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
    }
}
