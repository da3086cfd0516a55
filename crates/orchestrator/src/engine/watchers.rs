//! Open StreamTasks: those that watch a task, and the one of its worker.

mod calls;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nexus_daemon::Caller;
use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, CancelCommand, ControlCommand, ControlMessage, MessageType, StreamTaskResponse,
    TaskComplete, TaskInput, TaskState, TaskStatusUpdate, agent_message, stream_task_response::Payload,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cache::Cache;
use super::links::Links;
use super::outlets::Outlet;
use super::{Ledger, wall};
use crate::domain::task::{Note, Task};
use crate::domain::{Error, State, event};

/// Frames that may wait for a watcher that does not read.
const QUEUED: usize = 1024;
/// Bytes of input that may wait for a task's worker.
const EARLY_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Watchers {
    last: u64,
    of_task: HashMap<u64, Vec<Arc<Watcher>>>,
    /// Input for tasks whose worker has no stream yet.
    early: HashMap<u64, VecDeque<TaskInput>>,
}

/// One open StreamTask.
#[derive(Debug)]
pub struct Watcher {
    id: u64,
    /// Who watches: an agent's caller only for as long as the task is one of its own.
    caller: Caller,
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    task: Option<u64>,
    role: Role,
    frames: VecDeque<StreamTaskResponse>,
    end: Option<Result<(), Error>>,
}

/// What a stream is to its task, once that is known.
#[derive(Clone, Copy, Debug, Default)]
enum Role {
    #[default]
    Unknown,
    Watches,
    /// Works on an attempt; `None` until it took one.
    Works(Option<i64>),
}

impl Watcher {
    fn push(&self, payload: Payload) {
        let mut queue = self.queue.lock();
        if queue.end.is_some() {
            return;
        }
        if queue.frames.len() >= QUEUED {
            queue.frames.clear();
            queue.end = Some(Err(Error::TooSlow(QUEUED)));
        } else {
            queue.frames.push_back(StreamTaskResponse { payload: Some(payload) });
        }
        self.more.notify_one();
    }

    pub fn heartbeat(&self) {
        self.push(Payload::Heartbeat(()));
    }

    pub fn end(&self, end: Result<(), Error>) {
        self.queue.lock().end.get_or_insert(end);
        self.more.notify_one();
    }

    /// The next frame; `None` at the end.
    pub async fn next(&self) -> Result<Option<StreamTaskResponse>, Error> {
        loop {
            {
                let mut queue = self.queue.lock();
                if let Some(frame) = queue.frames.pop_front() {
                    return Ok(Some(frame));
                }
                if let Some(end) = &queue.end {
                    return end.clone().map(|()| None);
                }
            }
            self.more.notified().await;
        }
    }

    pub fn task(&self) -> Option<u64> {
        self.queue.lock().task
    }

    fn works(&self) -> bool {
        matches!(self.queue.lock().role, Role::Works(_))
    }

    /// The first payload that is no heartbeat says whether a stream is the worker's. Returns whether it is.
    fn settle_role(&self, workers: bool) -> bool {
        let mut queue = self.queue.lock();
        if let Role::Unknown = queue.role {
            queue.role = if workers { Role::Works(None) } else { Role::Watches };
        }
        matches!(queue.role, Role::Works(_))
    }
}

impl Outlet for Watchers {
    /// Ends the streams of tasks that never came to be.
    fn reloaded(&mut self, state: &State, _: &Cache) {
        let known = |task: u64| state.tasks.get(task).is_some();
        self.of_task.retain(|task, watchers| {
            let keep = known(*task);
            watchers
                .iter()
                .filter(|_| !keep)
                .for_each(|watcher| watcher.end(Err(Error::TaskNotFound)));
            keep
        });
        self.early.retain(|task, _| known(*task));
    }
}

impl Ledger {
    /// Tells those on a task what became of it. What is over leaves the memory.
    pub fn tell_task(&mut self, key: u64, note: &Note) {
        let id = self
            .state
            .tasks
            .get(key)
            .map(|task| task.id.to_string())
            .unwrap_or_default();
        let over = matches!(note, Note::Complete(_) | Note::Failed(_));
        let watchers = self.outlets.of::<Watchers>();
        for watcher in watchers.of_task.get(&key).into_iter().flatten() {
            if !watcher.caller.is_admin() && self.state.visible_task(&id, &watcher.caller).is_err() {
                watcher.end(Err(Error::TaskNotFound));
                continue;
            }
            match note {
                Note::Cancel { reason, force } if watcher.works() => {
                    watcher.push(Payload::Cancel(CancelCommand {
                        reason: reason.clone(),
                        force: *force,
                    }));
                }
                Note::Cancel { .. } => {}
                // What a worker said itself. It is told when the task is taken from it, or over.
                Note::State {
                    state: TaskState::Running | TaskState::Paused,
                    ..
                } if watcher.works() => {}
                Note::State { state, message } => watcher.push(status(*state, message)),
                Note::Progress(progress) if !watcher.works() => watcher.push(Payload::Progress(progress.clone())),
                Note::Output(output) if !watcher.works() => watcher.push(Payload::Output(output.clone())),
                Note::Progress(_) | Note::Output(_) => {}
                Note::Complete(result) => watcher.push(Payload::Complete(TaskComplete {
                    task_id: id.clone(),
                    result: result.clone(),
                    completed_at: Some(event::timestamp(wall())),
                })),
                Note::Failed(error) => watcher.push(Payload::Error(error.clone())),
            }
            if over {
                watcher.end(Ok(()));
            }
        }
        if let (Note::Cancel { reason, force }, Some(task)) = (note, self.state.tasks.get(key))
            && let Some(agent) = task.agent
        {
            // An agent without a stream, or with a full one, finds out by the task's state.
            let cancel = cancel_message(task, reason, *force);
            let _unsent = self.outlets.of::<Links>().send(agent, cancel, false);
        }
        if over {
            self.state.tasks.remove(key);
            let watchers = self.outlets.of::<Watchers>();
            watchers.of_task.remove(&key);
            watchers.early.remove(&key);
        }
    }
}

fn status(state: TaskState, message: &str) -> Payload {
    let timestamp = Some(event::timestamp(wall()));
    Payload::Status(TaskStatusUpdate {
        state: state.into(),
        message: message.into(),
        timestamp,
    })
}

fn cancel_message(task: &Task, reason: &str, force: bool) -> AgentMessage {
    AgentMessage {
        id: format!("{}-cancel", task.id),
        r#type: MessageType::Control.into(),
        timestamp: Some(event::timestamp(wall())),
        source_id: "orchestrator".into(),
        target_id: task.wire.agent_id.clone(),
        metadata: Some(AgentMessageMetadata {
            correlation_id: task.id.to_string(),
            session_id: task.wire.session_id.clone(),
            ..AgentMessageMetadata::default()
        }),
        payload: Some(agent_message::Payload::ControlMessage(ControlMessage {
            command: ControlCommand::Cancel.into(),
            parameters: HashMap::from([
                ("task_id".to_owned(), task.id.to_string()),
                ("reason".to_owned(), reason.to_owned()),
                ("force".to_owned(), force.to_string()),
            ]),
        })),
    }
}
