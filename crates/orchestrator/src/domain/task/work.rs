//! A task while a worker has it: started, reported on, and ended.

use nexus_proto::agent::v1::stream_task_request::Payload as Said;
use nexus_proto::agent::v1::{TaskError, TaskOutput, TaskProgress, TaskResult, TaskState};
use nexus_proto::words;

use super::{Note, Task, may_move, state_name};
use crate::domain::call::LOOK_PATIENCE;
use crate::domain::event::{self, About, timestamp};
use crate::domain::sessions::about as about_session;
use crate::domain::timers::Timer;
use crate::domain::{Effect, Error, Fact, State, Step};

/// True for what only a worker says.
pub fn is_workers(said: &Said) -> bool {
    match said {
        Said::Status(_) | Said::Progress(_) | Said::Output(_) | Said::Complete(_) | Said::ErrorMsg(_) => true,
        Said::Heartbeat(()) | Said::Input(_) | Said::Cancel(_) => false,
    }
}

/// True for words that nobody says of a task without having taken it.
fn starts(said: &Said) -> bool {
    use TaskState::{Completed, Failed, Paused, Timeout};
    match said {
        Said::Status(update) => matches!(update.state(), Completed | Failed | Paused | Timeout),
        said => is_workers(said),
    }
}

/// Refuses a state that the diagram does not lead to. Only we put a task back to PENDING.
fn check_status(task: &Task, starts: bool, to: i32) -> Result<(), Error> {
    let to = TaskState::try_from(to).map_err(|_| Error::Invalid(format!("status.state {to} is unknown")))?;
    let from = if starts { TaskState::Running } else { task.state() };
    if from == to || (may_move(from, to) && to != TaskState::Pending) {
        return Ok(());
    }
    Err(Error::TaskState {
        id: task.id.to_string(),
        state: state_name(from),
        wanted: state_name(to),
    })
}

impl State {
    /// What a worker says about its task. `works` is the attempt that its stream works on: the first word takes the
    /// task, and once the lease went on to another attempt nothing more of this one is taken.
    pub fn worker_said(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        works: &mut Option<i64>,
        said: Said,
    ) -> Result<(), Error> {
        let Some(task) = self.tasks.get(key).filter(|task| !task.is_over()) else {
            return Ok(());
        };
        if *works.get_or_insert(task.attempt) != task.attempt {
            return Err(Error::LeaseOver(task.id.to_string()));
        }
        let starts = task.started.is_none() && starts(&said);
        if let Said::Status(update) = &said {
            check_status(task, starts, update.state)?;
        }
        if let Some(agent) = task.agent {
            self.seen(step, agent);
        }
        if starts {
            self.start_task(step, key, "");
        }
        match said {
            Said::Status(update) => self.task_status(step, key, update.state(), &update.message),
            Said::Progress(progress) => self.task_progress(step, key, progress),
            Said::Output(output) => self.task_output(step, key, output),
            Said::Complete(complete) => self.complete_task(step, key, complete.result),
            Said::ErrorMsg(error) => self.task_failed(step, key, error),
            Said::Heartbeat(()) | Said::Input(_) | Said::Cancel(_) => {}
        }
        // One that is offered again is taken again by the next word, on the same stream too.
        if self.tasks.get(key).is_some_and(|task| task.started.is_none()) {
            *works = None;
        }
        Ok(())
    }

    /// The agent has this task in hand. Another agent's task, or one that is over, is left alone.
    pub fn take_task(&mut self, step: &mut Step<'_>, agent: u64, id: &str) {
        self.inherit_task(step, agent, id);
        let Ok(task) = self.tasks.find(id) else { return };
        let key = task.key;
        if task.agent == Some(agent) && matches!(task.state(), TaskState::Pending | TaskState::Queued) {
            self.start_task(step, key, "");
        }
    }

    fn start_task(&mut self, step: &mut Step<'_>, key: u64, message: &str) {
        let timeout = self.timeout_of(self.tasks.get(key).expect("the caller looked it up"));
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        task.started = Some(step.now);
        task.wire.started_at = Some(timestamp(step.now));
        self.timers.set(step.now.saturating_add(timeout), Timer::Task(key));
        let (agent, id) = (task.agent, task.id.clone());
        if let Some(agent) = agent {
            self.agents.running.entry(agent).or_default().insert(key, id);
        }
        self.move_task(step, key, TaskState::Running, message);
        if let Some(call) = self.tasks.get(key).and_then(|task| task.call) {
            self.call_confirmed(step, call);
        }
    }

    fn task_output(&mut self, step: &mut Step<'_>, key: u64, output: TaskOutput) {
        if let Some(call) = self.tasks.get(key).and_then(|task| task.call) {
            self.call_output(step, call, &output);
        }
        step.effect(Effect::Task {
            task: key,
            note: Note::Output(output),
        });
    }

    /// A worker's word on its task's state, which was checked.
    fn task_status(&mut self, step: &mut Step<'_>, key: u64, to: TaskState, message: &str) {
        let Some(task) = self.tasks.get(key) else { return };
        if let Some(call) = task.call {
            self.call_reported(step, call, message);
        }
        let Some(task) = self.tasks.get(key) else { return };
        match to {
            // No news to the log, but those who watch hear its words.
            same if same == task.state() => {
                step.effect(Effect::Task {
                    task: key,
                    note: Note::State {
                        state: to,
                        message: message.into(),
                    },
                });
            }
            TaskState::Running if task.started.is_none() => self.start_task(step, key, message),
            TaskState::Completed => self.complete_task(step, key, None),
            TaskState::Failed | TaskState::Timeout => {
                let error = TaskError {
                    code: state_name(to).into(),
                    message: message.into(),
                    occurred_at: Some(timestamp(step.now)),
                    ..TaskError::default()
                };
                if to == TaskState::Failed {
                    self.task_failed(step, key, error);
                } else {
                    self.end_task(step, key, to, Some(error));
                }
            }
            TaskState::Cancelled => self.end_task(step, key, to, None),
            _ => self.move_task(step, key, to, message),
        }
    }

    fn task_progress(&mut self, step: &mut Step<'_>, key: u64, mut progress: TaskProgress) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        progress.percent = if progress.percent.is_nan() {
            0.0
        } else {
            progress.percent.clamp(0.0, 1.0)
        };
        task.wire.progress = progress.percent;
        step.effect(Effect::Task {
            task: key,
            note: Note::Progress(progress),
        });
    }

    fn complete_task(&mut self, step: &mut Step<'_>, key: u64, result: Option<TaskResult>) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        task.wire.progress = 1.0;
        task.wire.result = result;
        self.end_task(step, key, TaskState::Completed, None);
    }

    /// The worker failed. It is offered again where its caller said so.
    fn task_failed(&mut self, step: &mut Step<'_>, key: u64, mut error: TaskError) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        if error.occurred_at.is_none() {
            error.occurred_at = Some(timestamp(step.now));
        }
        if task.may_retry() {
            task.wire.error = Some(error);
            self.offer_again(step, key, false);
        } else {
            self.end_task(step, key, TaskState::Failed, Some(error));
        }
    }

    /// Cancels a task that is not over. Returns whether that changed anything.
    pub fn cancel_task(&mut self, step: &mut Step<'_>, key: u64, reason: &str, force: bool) -> bool {
        step.grows = false;
        if self.tasks.get(key).is_none_or(Task::is_over) {
            return false;
        }
        step.effect(Effect::Task {
            task: key,
            note: Note::Cancel {
                reason: reason.into(),
                force,
            },
        });
        let error = (!reason.is_empty()).then(|| TaskError {
            code: "CANCELLED".into(),
            message: reason.into(),
            occurred_at: Some(timestamp(step.now)),
            ..TaskError::default()
        });
        self.end_task(step, key, TaskState::Cancelled, error);
        true
    }

    /// Looks at a task whose timer came due.
    pub fn task_due(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(task) = self.tasks.get(key).filter(|task| !task.is_over()) else {
            return;
        };
        let timeout = self.timeout_of(task);
        let late = task
            .started
            .is_some_and(|started| started.saturating_add(timeout) <= step.now);
        if !late && task.expires > step.now {
            self.timers.set(task.due(timeout), Timer::Task(key));
            return;
        }
        let call = task.call;
        if late && task.expires > step.now && self.put_off(step, Timer::Task(key)) {
            return;
        }
        // Nobody knows whether a call timed out whose worker is lost.
        if let Some(call) = call.filter(|call| self.calls.get(*call).is_some_and(|call| call.lost)) {
            self.timers
                .set(step.now.saturating_add(LOOK_PATIENCE), Timer::Task(key));
            return self.resolve_lost(step, call);
        }
        step.grows = false;
        let message = if late {
            "it ran longer than its timeout"
        } else {
            "no worker finished it before it expired"
        };
        step.effect(Effect::Task {
            task: key,
            note: Note::Cancel {
                reason: message.into(),
                force: true,
            },
        });
        let error = TaskError {
            code: "TIMEOUT".into(),
            message: message.into(),
            occurred_at: Some(timestamp(step.now)),
            ..TaskError::default()
        };
        self.end_task(step, key, TaskState::Timeout, Some(error));
    }

    pub(in crate::domain) fn end_task(
        &mut self,
        step: &mut Step<'_>,
        key: u64,
        to: TaskState,
        error: Option<TaskError>,
    ) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        debug_assert!(may_move(task.state(), to), "checked by every caller");
        task.wire.completed_at = Some(timestamp(step.now));
        if error.is_some() {
            task.wire.error = error.clone();
        }
        let (agent, result) = (task.agent, task.wire.result.clone());
        self.release(key, agent);
        self.move_task(step, key, to, error.as_ref().map_or("", |e| e.message.as_str()));
        let note = match (to, error.clone()) {
            (TaskState::Completed | TaskState::Cancelled, _) => Note::Complete(result.clone()),
            (_, error) => Note::Failed(error.unwrap_or_default()),
        };
        step.effect(Effect::Task { task: key, note });
        self.call_task_ended(step, key, to, result, error);
    }

    pub(super) fn release(&mut self, key: u64, agent: Option<u64>) {
        if let Some(running) = agent.and_then(|agent| self.agents.running.get_mut(&agent)) {
            running.remove(&key);
        }
    }

    pub(super) fn move_task(&mut self, step: &mut Step<'_>, key: u64, to: TaskState, message: &str) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        task.wire.state = to.into();
        let name = match to {
            TaskState::Completed => words::event::TASK_COMPLETED,
            TaskState::Failed | TaskState::Timeout => words::event::TASK_FAILED,
            _ => words::event::TASK_UPDATED,
        };
        self.task_event(step, key, name);
        step.fact(Fact::Task(key));
        step.effect(Effect::Task {
            task: key,
            note: Note::State {
                state: to,
                message: message.into(),
            },
        });
    }

    pub(super) fn task_event(&mut self, step: &mut Step<'_>, key: u64, name: &str) {
        let task = self.tasks.get(key).expect("the caller looked it up");
        if task.call.is_some() {
            return; // the events of its call say it
        }
        let session = self.sessions.find(&task.wire.session_id);
        let about = session.map_or_else(
            || About {
                session_id: task.wire.session_id.clone(),
                ..About::default()
            },
            about_session,
        );
        let in_log = session.map_or(0, |session| session.key);
        let data = [
            ("task_id", &*task.id),
            ("agent_id", &*task.wire.agent_id),
            ("session_id", &*task.wire.session_id),
            ("type", task.wire.r#type().as_str_name()),
            ("state", task.state().as_str_name()),
        ];
        let event = event::build(step, name, event::AGENT, about, &data);
        step.fact(Fact::Event { session: in_log, event });
    }
}
