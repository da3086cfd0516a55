//! The calls of an open StreamTask: tying it to its task, and what comes in on it.

use std::sync::Arc;

use nexus_daemon::Caller;
use nexus_proto::agent::v1::{TaskComplete, TaskInput, TaskState, stream_task_request, stream_task_response::Payload};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;

use super::{EARLY_BYTES, QUEUED, Role, Watcher, Watchers, status};
use crate::domain::Error;
use crate::domain::task::is_workers;
use crate::engine::{Engine, Ledger};

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
            let id = found.id.clone();
            state.inherit_task(step, agent, &id);
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

    /// Input for a task that did not come over one of its streams: the worker's stream gets it, or it waits for one.
    pub(in crate::engine) fn input_of_task(&mut self, key: u64, input: TaskInput) -> Result<(), Error> {
        let watchers = self.outlets.of::<Watchers>().of_task.get(&key).into_iter().flatten();
        let mut workers = watchers.filter(|watcher| watcher.works()).peekable();
        if workers.peek().is_none() {
            return self.keep_input(key, input);
        }
        workers.for_each(|worker| worker.push(Payload::Input(input.clone())));
        Ok(())
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
