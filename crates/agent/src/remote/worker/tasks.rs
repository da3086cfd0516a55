//! The tasks of this worker, from their offer until their result is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nexus_client::Kind;
use nexus_proto::agent::v1::Task;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::report::{Reporter, Subject};
use super::wire::{Frame, is_over};
use crate::domain::worker::{
    call::Call,
    queue::{Error, Limits, Queue},
};
use crate::engine::Board;
use crate::engine::worker::{Cancel, Outcome, Tools};
use crate::remote::Orchestrator;

#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    orchestrator: Orchestrator,
    agent: watch::Sender<Option<String>>,
    tools: Tools,
    board: Board,
    queue: Mutex<Queue<Task>>,
    /// Those that run, and those whose result is not told yet.
    running: Mutex<HashMap<String, Running>>,
    tracker: TaskTracker,
}

#[derive(Clone, Default)]
struct Running {
    cancel: Cancel,
    reopen: Arc<Notify>,
}

impl Tasks {
    pub fn new(orchestrator: Orchestrator, tools: Tools, board: Board, limits: Limits) -> Tasks {
        Tasks(Arc::new(Inner {
            orchestrator,
            agent: watch::Sender::new(None),
            tools,
            board,
            queue: Mutex::new(Queue::new(limits)),
            running: Mutex::default(),
            tracker: TaskTracker::new(),
        }))
    }

    /// The id that we are registered with; `None` once that is not so any more.
    pub fn registered(&self, agent_id: Option<&str>) {
        self.0.agent.send_replace(agent_id.map(str::to_owned));
    }

    /// What is worked on, for heartbeats.
    pub fn ids(&self) -> Vec<String> {
        self.0.running.lock().keys().cloned().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.tracker.is_empty()
    }

    /// The orchestrator names a task. It is asked for the rest where it did not send it along.
    pub async fn offered(&self, task_id: &str, task: Option<Task>) {
        if self.known(task_id) {
            return;
        }
        let task = match task {
            Some(task) => task,
            None => match self.0.orchestrator.task(task_id).await {
                Ok(task) => task,
                Err(error) if error.kind == Kind::NotFound => return,
                Err(error) => {
                    // It is offered again.
                    tracing::debug!(task_id, %error, "a task cannot be read");
                    return;
                }
            },
        };
        self.take(task);
    }

    /// Whether we have it; whoever offers it again has lost sight of our stream.
    fn known(&self, task_id: &str) -> bool {
        let running = self.0.running.lock().get(task_id).cloned();
        if let Some(running) = running {
            running.reopen.notify_one();
            return true;
        }
        self.0.queue.lock().knows(task_id)
    }

    pub fn take(&self, task: Task) {
        if is_over(&task) || task.id.is_empty() || self.0.tracker.is_closed() {
            return;
        }
        let (id, urgency) = (task.id.clone(), task.priority);
        let begun = self.0.queue.lock().offer(&id, urgency, task);
        match begun {
            Ok(Some(task)) => self.begin(task),
            Ok(None) | Err(Error::Known) => {}
            // It stays with the orchestrator, which offers it with the next heartbeat.
            Err(error @ Error::Full(_)) => tracing::warn!(task = id, %error, "a task is left for later"),
        }
        self.show();
    }

    /// False if there is no such task.
    pub fn cancel(&self, task_id: &str, force: bool) -> bool {
        if self.0.queue.lock().drop_waiting(task_id).is_some() {
            self.show();
            return true;
        }
        let running = self.0.running.lock().get(task_id).cloned();
        running.inspect(|running| running.cancel.cancel(force)).is_some()
    }

    /// Ends everything of a session.
    pub async fn end_session(&self, session_id: &str) {
        self.0.tools.end_session(session_id).await;
    }

    /// Nothing new begins; what runs may end within this time. What is left goes on by itself.
    pub async fn drain(&self, within: Duration) {
        self.0.tracker.close();
        let _late = timeout(within, self.0.tracker.wait()).await;
    }

    fn begin(&self, task: Task) {
        let running = Running::default();
        self.0.running.lock().insert(task.id.clone(), running.clone());
        let this = self.clone();
        self.0.tracker.spawn(async move { this.work(task, running).await });
    }

    async fn work(&self, task: Task, running: Running) {
        let reporter = Reporter::start(Subject {
            orchestrator: self.0.orchestrator.clone(),
            agent: self.0.agent.subscribe(),
            task_id: task.id.clone(),
            cancel: running.cancel.clone(),
            reopen: running.reopen,
        });
        let outcome = match Call::of(&task) {
            Ok(call) => {
                let (tools, output, cancel) = (self.0.tools.clone(), reporter.output(), running.cancel);
                let task = task.clone();
                let executed = tokio::spawn(async move { tools.execute(call, &task, output, cancel).await });
                executed.await.unwrap_or_else(|error| {
                    tracing::error!(%error, "a call ended with a panic");
                    Outcome::failed("internal", "the worker failed: a fault of its own, see its log")
                })
            }
            Err(mistake) => Outcome::failed("invalid_arguments", &format!("error invalid_arguments: {mistake}")),
        };
        let next = self.0.queue.lock().ended(&task.id);
        if let Some(next) = next {
            self.begin(next);
        }
        self.show();
        let delivered = outcome.delivered.clone();
        reporter.finish(frame(outcome)).await;
        self.0.tools.delivered(delivered).await;
        self.0.running.lock().remove(&task.id);
    }

    fn show(&self) {
        let (active, waiting) = {
            let queue = self.0.queue.lock();
            (queue.active(), queue.waiting())
        };
        self.0.board.turns(active, waiting);
    }
}

fn frame(outcome: Outcome) -> Frame {
    match outcome.result {
        Ok(result) => Frame::Complete(result),
        Err((code, message)) => Frame::Failed { code, message },
    }
}
