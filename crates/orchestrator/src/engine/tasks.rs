//! Tasks: the calls about them, and those who watch or work one over StreamTask.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nexus_proto::agent::v1::{
    CancelCommand, ExecuteTaskRequest, StreamTaskResponse, Task as Wire, TaskComplete, TaskFilter, TaskInput,
    TaskState, TaskStatusUpdate, stream_task_request, stream_task_response::Payload,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{AgentCaller, Core, Engine, Once};
use crate::domain::task::{self, Note, matches};
use crate::domain::{Error, event, ids};
use crate::store;

/// Frames that may wait for a watcher that does not read.
const QUEUED: usize = 1024;
/// Tasks in one listing.
const LISTED: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Watchers {
    last: u64,
    of_task: HashMap<u64, Vec<Arc<Watcher>>>,
}

/// One open StreamTask.
#[derive(Debug)]
pub struct Watcher {
    id: u64,
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    task: Option<u64>,
    works: bool,
    frames: VecDeque<StreamTaskResponse>,
    end: Option<Result<(), Error>>,
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
        self.queue.lock().works
    }
}

impl Core {
    /// Tells those on a task what became of it. What is over leaves the memory.
    pub fn tell_task(&mut self, key: u64, note: &Note) {
        let id = self.state.tasks.get(key).map(|task| task.id.to_string()).unwrap_or_default();
        let over = matches!(note, Note::Complete(_) | Note::Failed(_));
        for watcher in self.watchers.of_task.get(&key).into_iter().flatten() {
            match note {
                Note::Cancel { reason, force } if watcher.works() => {
                    watcher.push(Payload::Cancel(CancelCommand { reason: reason.clone(), force: *force }));
                }
                Note::Cancel { .. } => {}
                Note::State { state, message } => watcher.push(status(*state, message)),
                Note::Progress(progress) if !watcher.works() => watcher.push(Payload::Progress(progress.clone())),
                Note::Output(output) if !watcher.works() => watcher.push(Payload::Output(output.clone())),
                Note::Progress(_) | Note::Output(_) => {}
                Note::Complete(result) => watcher.push(Payload::Complete(TaskComplete {
                    task_id: id.clone(),
                    result: result.clone(),
                    completed_at: Some(event::timestamp(super::wall())),
                })),
                Note::Failed(error) => watcher.push(Payload::Error(error.clone())),
            }
            if over {
                watcher.end(Ok(()));
            }
        }
        if let (Note::Cancel { reason, force }, Some(task)) = (note, self.state.tasks.get(key)) {
            if let Some(agent) = task.agent {
                self.links.send(agent, cancel_message(task, reason, *force));
            }
        }
        if over {
            self.state.tasks.remove(key);
            self.watchers.of_task.remove(&key);
        }
    }
}

fn status(state: TaskState, message: &str) -> Payload {
    let timestamp = Some(event::timestamp(super::wall()));
    Payload::Status(TaskStatusUpdate { state: state.into(), message: message.into(), timestamp })
}

fn cancel_message(task: &task::Task, reason: &str, force: bool) -> nexus_proto::agent::v1::AgentMessage {
    use nexus_proto::agent::v1::{AgentMessage, AgentMessageMetadata, ControlCommand, ControlMessage, MessageType};
    AgentMessage {
        id: format!("{}-cancel", task.id),
        r#type: MessageType::Control.into(),
        timestamp: Some(event::timestamp(super::wall())),
        source_id: "orchestrator".into(),
        target_id: task.wire.agent_id.clone(),
        metadata: Some(AgentMessageMetadata {
            correlation_id: task.id.to_string(),
            session_id: task.wire.session_id.clone(),
            ..AgentMessageMetadata::default()
        }),
        payload: Some(nexus_proto::agent::v1::agent_message::Payload::ControlMessage(ControlMessage {
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
    pub async fn execute_task(&self, once: Option<Once>, request: ExecuteTaskRequest) -> Result<Wire, Error> {
        self.room()?;
        self.once(once, |parts, step| {
            let named = !request.agent_id.is_empty();
            let agent = if named { Some(parts.state.agents.find(&request.agent_id)?.key) } else { None };
            let key = parts.state.execute_task(step, agent, request)?;
            Ok(parts.state.tasks.get(key).expect("it was just made").wire.clone())
        })
        .await
    }

    /// The task after the call, and whether the call changed it.
    pub async fn cancel_task(&self, id: &str, reason: &str, force: bool) -> Result<(Wire, bool), Error> {
        let cancelled = self
            .write(|state, step| {
                let key = state.tasks.find(id)?.key;
                let changed = state.cancel_task(step, key, reason, force);
                Ok((state.tasks.get(key).expect("it was just found").wire.clone(), changed))
            })
            .await;
        match cancelled {
            Err(Error::TaskNotFound) => Ok((self.task(id).await?, false)),
            other => other,
        }
    }

    /// A task that is open, or that ended not long ago.
    pub async fn task(&self, id: &str) -> Result<Wire, Error> {
        let (tx, open) = self.look(|core| (core.tx, core.state.tasks.find(id).map(|task| task.wire.clone())));
        match open {
            Err(Error::TaskNotFound) => {}
            Ok(task) => {
                self.settled(tx).await?;
                return Ok(task);
            }
            Err(error) => return Err(error),
        }
        let key = ids::number(id).ok_or(Error::TaskNotFound)?;
        let kept = self.inner.reader.get(store::TASK, store::key(key).to_vec()).await?;
        let task = store::task(&store::key(key), &kept.ok_or(Error::TaskNotFound)?)?;
        if *task.id == *id { Ok(task.wire) } else { Err(Error::TaskNotFound) }
    }

    /// Tasks of an agent, oldest first, by every field of the filter.
    pub async fn tasks(&self, agent_id: &str, filter: &TaskFilter) -> Result<Vec<Wire>, Error> {
        self.settled(self.look(|core| core.tx)).await?;
        let kept = self.inner.reader.scan(store::TASK, Vec::new(), vec![0xff; 9], LISTED).await?;
        let mut found = Vec::new();
        for (key, value) in kept {
            let mut wire = store::task(&key, &value)?.wire;
            // Progress is not saved with every step; the open task knows it best.
            if let Some(open) = self.look(|core| core.state.tasks.find(&wire.id).ok().map(|task| task.wire.clone())) {
                wire = open;
            }
            if wire.agent_id == agent_id && matches(&wire, filter) {
                found.push(wire);
            }
        }
        Ok(found)
    }

    /// Opens a StreamTask; which task it is about is told later.
    pub fn watch(&self) -> Arc<Watcher> {
        self.look_mut(|core| {
            core.watchers.last += 1;
            Arc::new(Watcher { id: core.watchers.last, queue: Mutex::default(), more: Notify::new() })
        })
    }

    pub fn is_open_task(&self, task: Option<u64>) -> bool {
        task.is_some_and(|task| self.look(|core| core.state.tasks.get(task).is_some()))
    }

    pub fn unwatch(&self, watcher: &Watcher) {
        let Some(task) = watcher.task() else { return };
        self.look_mut(|core| {
            if let Some(watchers) = core.watchers.of_task.get_mut(&task) {
                watchers.retain(|other| other.id != watcher.id);
                if watchers.is_empty() {
                    core.watchers.of_task.remove(&task);
                }
            }
        });
    }

    /// Ties a stream to its task. One that is over is told so, and the stream ends.
    pub async fn watch_task(&self, watcher: &Arc<Watcher>, id: &str, agent: Option<(&str, &AgentCaller)>) -> Result<(), Error> {
        let open = self.look_mut(|core| {
            let task = core.state.tasks.find(id)?;
            let key = task.key;
            watcher.queue.lock().task = Some(key);
            core.watchers.of_task.entry(key).or_default().push(watcher.clone());
            Ok(key)
        });
        match open {
            Ok(_) => {
                if let Some((agent_id, caller)) = agent {
                    self.work(watcher, agent_id, caller).await?;
                }
                Ok(())
            }
            Err(Error::TaskNotFound) => {
                let over = self.task(id).await?;
                watcher.push(status(over.state(), ""));
                watcher.push(match over.error.clone().filter(|_| over.state() != TaskState::Cancelled) {
                    Some(error) => Payload::Error(error),
                    None => Payload::Complete(TaskComplete {
                        task_id: over.id,
                        result: over.result,
                        completed_at: over.completed_at,
                    }),
                });
                watcher.end(Ok(()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The stream is its task's worker: the agent that names itself, if the task is its own.
    async fn work(&self, watcher: &Watcher, agent_id: &str, caller: &AgentCaller) -> Result<(), Error> {
        let Some(task) = watcher.task() else { return Ok(()) };
        self.write(|state, step| {
            let agent = state.agents.find(agent_id)?;
            if *agent.owner != *caller.principal && !caller.admin {
                let (owner, caller) = (agent.owner.to_string(), caller.principal.to_string());
                return Err(Error::NotYourAgent { id: agent_id.into(), owner, caller });
            }
            let agent = agent.key;
            let Some(id) = state.tasks.get(task).filter(|task| task.agent == Some(agent)).map(|task| task.id.clone())
            else {
                return Ok(());
            };
            watcher.queue.lock().works = true;
            state.take_task(step, agent, &id);
            Ok(())
        })
        .await
    }

    /// A frame from a StreamTask that is tied to its task.
    pub async fn task_said(&self, watcher: &Watcher, said: stream_task_request::Payload) -> Result<(), Error> {
        use stream_task_request::Payload as Said;
        let Some(key) = watcher.task() else { return Ok(()) };
        let worker = matches!(
            said,
            Said::Status(_) | Said::Progress(_) | Said::Output(_) | Said::Complete(_) | Said::ErrorMsg(_)
        );
        if worker {
            watcher.queue.lock().works = true;
        }
        match said {
            Said::Heartbeat(()) => {
                watcher.heartbeat();
                Ok(())
            }
            Said::Input(input) => {
                self.relay_input(watcher, key, &input);
                Ok(())
            }
            Said::Cancel(cancel) => {
                self.write(|state, step| {
                    state.cancel_task(step, key, &cancel.reason, cancel.force);
                    Ok(())
                })
                .await
            }
            said => self.write(|state, step| worker_said(state, step, key, said)).await,
        }
    }

    fn relay_input(&self, from: &Watcher, key: u64, input: &TaskInput) {
        self.look(|core| {
            for watcher in core.watchers.of_task.get(&key).into_iter().flatten() {
                if watcher.id != from.id && watcher.works() {
                    watcher.push(Payload::Input(input.clone()));
                }
            }
        });
    }
}

/// What a worker says about its task. The first word takes the task.
fn worker_said(
    state: &mut crate::domain::State,
    step: &mut crate::domain::Step<'_>,
    key: u64,
    said: stream_task_request::Payload,
) -> Result<(), Error> {
    use stream_task_request::Payload as Said;
    let Some(task) = state.tasks.get(key) else { return Ok(()) };
    if task.is_over() {
        return Ok(());
    }
    let untaken = task.started.is_none();
    let starts = !matches!(&said, Said::Status(update) if !matches!(update.state(), TaskState::Completed));
    if untaken && starts {
        state.start_task(step, key, "");
    }
    match said {
        Said::Status(update) => {
            let to = TaskState::try_from(update.state).unwrap_or_default();
            state.task_status(step, key, to, &update.message)
        }
        Said::Progress(progress) => {
            state.task_progress(step, key, progress);
            Ok(())
        }
        Said::Output(output) => {
            step.effect(crate::domain::Effect::Task { task: key, note: Note::Output(output) });
            Ok(())
        }
        Said::Complete(complete) => {
            state.complete_task(step, key, complete.result);
            Ok(())
        }
        Said::ErrorMsg(error) => {
            state.task_failed(step, key, error);
            Ok(())
        }
        Said::Heartbeat(()) | Said::Input(_) | Said::Cancel(_) => Ok(()),
    }
}
