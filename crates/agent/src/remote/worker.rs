//! Executes tasks: takes what the orchestrator pushes on the stream of this agent or names in a heartbeat, and reports each
//! task on a stream of its own.
//!
//! ```text
//!   register ─▶ StreamAgent open ─▶ offered ─▶ queue ─▶ a tool ─▶ result told
//!      ▲             ▲                          │
//!      │ forgotten   └─── pause ◀── lost        └─ StreamTask: RUNNING, output, result; cancel
//!      └── (NOT_FOUND)
//! ```
//!
//! Unlike a turn, a task outlives the stream that it came on, and a command also this process: its container collects its
//! output, and a record says whose it is.

mod report;
mod tasks;
mod wire;

use std::time::Duration;

use nexus_client::{Backoff, Error, Kind};
use nexus_proto::agent::v1::{StreamAgentRequest, StreamAgentResponse, stream_agent_response::Payload};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use tasks::Tasks;
use wire::{News, notice};

use super::Orchestrator;
use crate::domain::worker::queue::Limits;
use crate::engine::Board;
use crate::engine::worker::{Notice, TIDY_EVERY, Tools};

/// A stop does not wait longer for its goodbye.
const UNREGISTER_WITHIN: Duration = Duration::from_secs(1);
/// How long calls may take to end when the worker is stopped; a command that takes longer goes on without it.
const DRAIN_WITHIN: Duration = Duration::from_secs(7);
/// A stop does not wait longer for networks that nobody uses.
const REST_WITHIN: Duration = Duration::from_secs(1);
/// Frames under way to the orchestrator.
const OUTBOUND: usize = 16;
/// How soon it is noticed that a process has ended that nobody waits for.
const NOTICE_LOOK: Duration = Duration::from_millis(100);
/// A stream that lasted this long was a good one: the next attempt is an early one again.
const LASTING: Duration = Duration::from_secs(5);

pub struct Parts {
    pub orchestrator: Orchestrator,
    pub board: Board,
    pub tools: Tools,
    /// Ends of processes that no call waits for.
    pub notices: mpsc::Receiver<Notice>,
    pub limits: Limits,
    pub heartbeat_every: Duration,
}

/// Asks the engine from outside.
#[derive(Clone)]
pub struct Handle(Tasks);

impl Handle {
    /// False if there is no such task (any more).
    pub fn cancel(&self, task_id: &str, force: bool) -> bool {
        self.0.cancel(task_id, force)
    }
}

pub struct Worker {
    orchestrator: Orchestrator,
    board: Board,
    tools: Tools,
    tasks: Tasks,
    notices: mpsc::Receiver<Notice>,
    heartbeat_every: Duration,
}

pub fn build(parts: Parts) -> (Handle, Worker) {
    let tasks = Tasks::new(
        parts.orchestrator.clone(),
        parts.tools.clone(),
        parts.board.clone(),
        parts.limits,
    );
    let worker = Worker {
        orchestrator: parts.orchestrator,
        board: parts.board,
        tools: parts.tools,
        tasks: tasks.clone(),
        notices: parts.notices,
        heartbeat_every: parts.heartbeat_every,
    };
    (Handle(tasks), worker)
}

impl Worker {
    /// Until stopped. A command that runs longer than a stop may take goes on, and the next worker finds it.
    pub async fn run(mut self, stop: CancellationToken) {
        for task in self.tools.resume().await {
            self.tasks.take(task);
        }
        let mut id = None;
        let tools = self.tools.clone();
        let tidy = async move {
            loop {
                sleep(TIDY_EVERY).await;
                tools.tidy().await;
            }
        };
        stop.run_until_cancelled(async { tokio::join!(self.keep(&mut id), tidy) })
            .await;
        self.tasks.drain(DRAIN_WITHIN).await;
        // What is left of this is ended by the next worker, when nobody has used it for long.
        let _late = timeout(REST_WITHIN, self.tools.rest()).await;
        self.board.disconnected("stopping");
        // Who says goodbye gives its tasks up.
        if let Some(id) = id.filter(|_| self.tasks.is_empty() && self.orchestrator.is_connected())
            && let Ok(Err(error)) = timeout(UNREGISTER_WITHIN, self.orchestrator.unregister(&id)).await
        {
            tracing::debug!(%error, "not unregistered");
        }
        self.tasks.registered(None);
    }

    async fn keep(&mut self, id: &mut Option<String>) {
        let mut backoff: Backoff = self.orchestrator.backoff();
        let mut said: Option<Kind> = None;
        loop {
            let begun = Instant::now();
            let fresh = id.is_none();
            let error = self.connect(id).await;
            if begun.elapsed() > LASTING {
                backoff.reset();
                said = None;
            }
            let forgotten = error.kind == Kind::NotFound && id.take().is_some();
            if forgotten {
                self.tasks.registered(None);
            }
            if said.replace(error.kind) != Some(error.kind) {
                tracing::warn!(%error, hint = error.hint, "no stream to the orchestrator");
            }
            self.board.disconnected(&error.message);
            // One that forgets what it has just been told is not asked again at once.
            if fresh || !forgotten {
                backoff.wait().await;
            }
        }
    }

    /// One registration, if needed, and one stream to its end; the answer is why it ended.
    async fn connect(&mut self, id: &mut Option<String>) -> Error {
        let agent_id = match id {
            Some(known) => known.clone(),
            None => match self.orchestrator.register().await {
                Ok(fresh) => id.insert(fresh).clone(),
                Err(error) => return error,
            },
        };
        self.board.registered(&agent_id);
        self.tasks.registered(Some(&agent_id));
        self.serve(&agent_id).await
    }

    async fn serve(&mut self, agent_id: &str) -> Error {
        let (outbound, receiver) = mpsc::channel(OUTBOUND);
        let hello = StreamAgentRequest {
            agent_id: agent_id.to_owned(),
            payload: None,
        };
        // There is room for it.
        let _ = outbound.try_send(hello);
        let opening = self.orchestrator.open(ReceiverStream::new(receiver));
        let forgotten = heartbeats(&self.orchestrator, &self.tasks, self.heartbeat_every, agent_id);
        tokio::pin!(opening, forgotten);
        let mut stream: Option<Streaming<StreamAgentResponse>> = None;
        loop {
            tokio::select! {
                opened = &mut opening, if stream.is_none() => match opened {
                    Ok(opened) => {
                        tracing::info!(agent_id, "connected to the orchestrator");
                        self.board.connected();
                        stream = Some(opened);
                    }
                    Err(error) => return error,
                },
                message = next(&mut stream), if stream.is_some() => match message {
                    Ok(message) => hear(&self.tasks, message).await,
                    Err(error) => return error,
                },
                permit = outbound.reserve(), if stream.is_some() && !self.notices.is_empty() => {
                    if let (Ok(permit), Ok(told)) = (permit, self.notices.try_recv()) {
                        permit.send(notice(told, agent_id));
                    }
                }
                // There is one more to tell than a moment ago: above.
                () = more(&self.notices), if stream.is_some() && self.notices.is_empty() => {}
                error = &mut forgotten => return error,
            }
        }
    }
}

/// Until something waits in it.
async fn more(notices: &mpsc::Receiver<Notice>) {
    while notices.is_empty() {
        sleep(NOTICE_LOOK).await;
    }
}

async fn hear(tasks: &Tasks, message: StreamAgentResponse) {
    let Some(Payload::Message(message)) = message.payload else {
        return;
    };
    match News::of_message(message) {
        News::Offered(task_id, Some(task)) => tasks.offered(&task_id, Some(*task)).await,
        News::Offered(task_id, None) => {
            let tasks = tasks.clone();
            tokio::spawn(async move { tasks.offered(&task_id, None).await });
        }
        News::Cancel { task_id, force } => drop(tasks.cancel(&task_id, force)),
        News::EndSession(session_id) => {
            let tasks = tasks.clone();
            tokio::spawn(async move { tasks.end_session(&session_id).await });
        }
        News::Input(_) | News::Over | News::Nothing => {}
    }
}

/// Ends only when the orchestrator does not know this agent. Any other failure shows on the stream too.
async fn heartbeats(orchestrator: &Orchestrator, tasks: &Tasks, every: Duration, agent_id: &str) -> Error {
    loop {
        match orchestrator.heartbeat(agent_id, tasks.ids()).await {
            Ok(offered) => {
                for task_id in offered {
                    tasks.offered(&task_id, None).await;
                }
            }
            Err(error) if error.kind == Kind::NotFound => return error,
            Err(error) => tracing::debug!(%error, "a heartbeat failed"),
        }
        sleep(every).await;
    }
}

async fn next(stream: &mut Option<Streaming<StreamAgentResponse>>) -> Result<StreamAgentResponse, Error> {
    let Some(stream) = stream else {
        return std::future::pending().await;
    };
    match stream.message().await? {
        Some(message) => Ok(message),
        None => Err(Error::new(Kind::Unavailable, "the orchestrator closed the stream")),
    }
}
