//! Open StreamTasks: those that watch a task, and the one of its worker.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use nexus_daemon::Caller;
use nexus_proto::agent::v1::{
    AgentMessage, AgentMessageMetadata, CancelCommand, ControlCommand, ControlMessage, MessageType, StreamTaskResponse,
    TaskComplete, TaskInput, TaskState, TaskStatusUpdate, agent_message, stream_task_request,
    stream_task_response::Payload,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;

use super::cache::Cache;
use super::links::Links;
use super::outlets::Outlet;
use super::{Engine, Ledger, wall};
use crate::domain::task::{Note, Task, is_workers};
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

impl Engine {
    /// Opens a StreamTask; which task it is about is told later.
    pub fn watch(&self, caller: Caller) -> Arc<Watcher> {
        self.look_mut(|ledger| {
            let watchers = ledger.outlets.of::<Watchers>();
            watchers.last += 1;
            Arc::new(Watcher {
                id: watchers.last,
                caller,
                queue: Mutex::default(),
                more: Notify::new(),
            })
        })
    }

    pub fn is_open_task(&self, task: Option<u64>) -> bool {
        task.is_some_and(|task| self.look(|ledger| ledger.state.tasks.get(task).is_some()))
    }

    pub fn unwatch(&self, watcher: &Watcher) {
        let Some(task) = watcher.task() else { return };
        self.look_mut(|ledger| {
            let of_task = &mut ledger.outlets.of::<Watchers>().of_task;
            if let Some(watchers) = of_task.get_mut(&task) {
                watchers.retain(|other| other.id != watcher.id);
                if watchers.is_empty() {
                    of_task.remove(&task);
                } else if watchers.len() < watchers.capacity() / 8 {
                    watchers.shrink_to(2 * watchers.len());
                }
            }
        });
    }

    /// Ties a stream to its task. One that is over is told so, and the stream ends.
    pub async fn watch_task(&self, watcher: &Arc<Watcher>, id: &str, agent: Option<&str>) -> Result<(), Error> {
        let open = self.look_mut(|ledger| {
            let key = ledger.state.visible_task(id, &watcher.caller)?.key;
            watcher.queue.lock().task = Some(key);
            let of_task = &mut ledger.outlets.of::<Watchers>().of_task;
            of_task.entry(key).or_default().push(watcher.clone());
            Ok(key)
        });
        match open {
            Ok(_) => {
                if let Some(agent_id) = agent {
                    self.work(watcher, agent_id).await?;
                    self.hand_early_input(watcher);
                }
                Ok(())
            }
            Err(Error::TaskNotFound) => {
                let over = self.task(id, &watcher.caller).await?;
                watcher.push(status(over.state(), ""));
                watcher.push(
                    match over.error.clone().filter(|_| over.state() != TaskState::Cancelled) {
                        Some(error) => Payload::Error(error),
                        None => Payload::Complete(TaskComplete {
                            task_id: over.id,
                            result: over.result,
                            completed_at: over.completed_at,
                        }),
                    },
                );
                watcher.end(Ok(()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The stream is its task's worker: the agent that names itself, if the task is its own.
    async fn work(&self, watcher: &Watcher, agent_id: &str) -> Result<(), Error> {
        let Some(task) = watcher.task() else { return Ok(()) };
        self.write(|state, step| {
            let agent = state.agents.owned(agent_id, &watcher.caller)?;
            let Some(found) = state.tasks.get(task) else {
                return Ok(());
            };
            if found.agent.is_some_and(|owner| owner != agent) {
                // Its lease went on to another, or never was its own.
                watcher.queue.lock().role = Role::Watches;
                return Ok(());
            }
            if found.agent.is_none() {
                return Ok(());
            }
            let id = found.id.clone();
            state.take_task(step, agent, &id);
            let attempt = state
                .tasks
                .get(task)
                .filter(|task| task.started.is_some())
                .map(|task| task.attempt);
            watcher.queue.lock().role = Role::Works(attempt);
            Ok(())
        })
        .await
    }

    /// A frame from a StreamTask that is tied to its task.
    pub async fn task_said(&self, watcher: &Watcher, said: stream_task_request::Payload) -> Result<(), Error> {
        use stream_task_request::Payload as Said;
        let Some(key) = watcher.task() else { return Ok(()) };
        self.look(|ledger| ledger.still_visible(key, &watcher.caller))?;
        let workers = is_workers(&said);
        if !matches!(said, Said::Heartbeat(())) && !watcher.settle_role(workers) && workers {
            let task = self.look(|ledger| ledger.state.tasks.get(key).map(|task| task.id.to_string()));
            return Err(Error::OnlyWatches(task.unwrap_or_default()));
        }
        match said {
            Said::Heartbeat(()) => {
                watcher.heartbeat();
                Ok(())
            }
            Said::Input(input) => self.relay_input(watcher, key, input),
            Said::Cancel(cancel) => {
                self.write(|state, step| {
                    state.cancel_task(step, key, &cancel.reason, cancel.force);
                    Ok(())
                })
                .await
            }
            said => {
                self.hand_early_input(watcher);
                self.write(|state, step| {
                    let mut queue = watcher.queue.lock();
                    let Role::Works(mut attempt) = queue.role else {
                        return Ok(());
                    };
                    let taken = state.worker_said(step, key, &mut attempt, said);
                    queue.role = Role::Works(attempt);
                    taken
                })
                .await
            }
        }
    }

    /// Passes input to the worker. What comes before it has a stream waits for that, in order.
    fn relay_input(&self, from: &Watcher, key: u64, input: TaskInput) -> Result<(), Error> {
        self.look_mut(|ledger| {
            let works = |watcher: &&Arc<Watcher>| watcher.id != from.id && watcher.works();
            let watchers = ledger.outlets.of::<Watchers>();
            let of_task = watchers.of_task.get(&key).into_iter().flatten();
            let mut workers = of_task.filter(works).peekable();
            if workers.peek().is_none() {
                return ledger.keep_input(key, input);
            }
            let early = watchers.early.remove(&key).unwrap_or_default();
            for worker in workers {
                early
                    .iter()
                    .chain([&input])
                    .for_each(|input| worker.push(Payload::Input(input.clone())));
            }
            Ok(())
        })
    }

    fn hand_early_input(&self, watcher: &Watcher) {
        let Some(key) = watcher.task().filter(|_| watcher.works()) else {
            return;
        };
        self.look_mut(|ledger| {
            let early = ledger.outlets.of::<Watchers>().early.remove(&key).unwrap_or_default();
            early.into_iter().for_each(|input| watcher.push(Payload::Input(input)));
        });
    }
}

impl Ledger {
    /// Refuses a caller whose task went on to an agent of another; one that is over stays as it is.
    fn still_visible(&self, key: u64, caller: &Caller) -> Result<(), Error> {
        match self.state.tasks.get(key) {
            Some(task) => self.state.visible_task(&task.id, caller).map(drop),
            None => Ok(()),
        }
    }

    fn keep_input(&mut self, key: u64, input: TaskInput) -> Result<(), Error> {
        if self.state.tasks.get(key).is_none() {
            return Ok(()); // over: nobody wants it
        }
        let early = self.outlets.of::<Watchers>().early.entry(key).or_default();
        let bytes: usize = early.iter().map(|input| input.encoded_len()).sum();
        if bytes + input.encoded_len() > EARLY_BYTES || early.len() >= QUEUED {
            return Err(Error::InputFull(EARLY_BYTES));
        }
        early.push_back(input);
        Ok(())
    }
}
