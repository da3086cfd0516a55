//! Tasks: work given to an agent under a lease.
//!
//! ```text
//!  PENDING ──▶ QUEUED ──▶ RUNNING ◀──▶ PAUSED       a worker takes a task by its first frame for it, or by naming it
//!     │ ▲        │          │ │          │          as active; until then it is offered with every heartbeat
//!     │ └──lost──┼──────────┘ │          │
//!     └──────────┴────────────┴──────────┴──▶ COMPLETED, FAILED, CANCELLED, TIMEOUT: nothing leads out of these
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use nexus_proto::agent::v1::{
    AgentType, ExecuteTaskRequest, Task as Wire, TaskError, TaskOutput, TaskPriority, TaskProgress, TaskResult,
    TaskState, TaskType,
};

use super::event::{self, About, timestamp};
use super::timers::Timer;
use super::{Effect, Error, Fact, State, Step, Time, ids};

#[derive(Clone, Debug)]
pub struct Task {
    pub key: u64,
    pub id: Arc<str>,
    /// The agent that has to do it; `None` until the orchestrator has found one.
    pub agent: Option<u64>,
    /// Named by the caller; otherwise another agent may get it when this one is lost.
    pub bound: bool,
    pub attempt: i64,
    pub started: Option<Time>,
    pub expires: Time,
    /// What clients see.
    pub wire: Wire,
}

/// What is told to those who watch or work a task.
#[derive(Clone, Debug)]
pub enum Note {
    State { state: TaskState, message: String },
    Progress(TaskProgress),
    Output(TaskOutput),
    Complete(Option<TaskResult>),
    Failed(TaskError),
    /// For the worker: the caller wants it stopped.
    Cancel { reason: String, force: bool },
}

#[derive(Debug, Default)]
pub struct Tasks {
    by_key: BTreeMap<u64, Task>,
}

impl Tasks {
    pub fn get(&self, key: u64) -> Option<&Task> {
        self.by_key.get(&key)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Task> {
        self.by_key.values()
    }

    pub fn insert(&mut self, task: Task) {
        self.by_key.insert(task.key, task);
    }

    pub fn find(&self, id: &str) -> Result<&Task, Error> {
        if id.is_empty() {
            return Err(Error::Required("task_id"));
        }
        let found = ids::number(id).and_then(|key| self.by_key.get(&key)).filter(|task| *task.id == *id);
        found.ok_or(Error::TaskNotFound)
    }

    /// Forgets a task that is over and saved.
    pub fn remove(&mut self, key: u64) {
        self.by_key.remove(&key);
    }
}

impl Task {
    pub fn state(&self) -> TaskState {
        self.wire.state()
    }

    pub fn is_over(&self) -> bool {
        is_over(self.state())
    }
}

pub fn is_over(state: TaskState) -> bool {
    matches!(state, TaskState::Completed | TaskState::Failed | TaskState::Cancelled | TaskState::Timeout)
}

/// The arrows of the diagram above.
pub fn may_move(from: TaskState, to: TaskState) -> bool {
    use TaskState::{Cancelled, Completed, Failed, Paused, Pending, Queued, Running, Timeout};
    match from {
        Pending => matches!(to, Queued | Running | Failed | Cancelled | Timeout),
        Queued => matches!(to, Pending | Running | Failed | Cancelled | Timeout),
        Running => matches!(to, Pending | Paused | Completed | Failed | Cancelled | Timeout),
        Paused => matches!(to, Pending | Running | Completed | Failed | Cancelled | Timeout),
        Completed | Failed | Cancelled | Timeout | TaskState::Unspecified => false,
    }
}

pub fn state_name(state: TaskState) -> &'static str {
    state.as_str_name().trim_start_matches("TASK_STATE_")
}

/// The name of the capability that a kind of task asks for.
fn capability(kind: TaskType) -> String {
    kind.as_str_name().trim_start_matches("TASK_TYPE_").to_lowercase()
}

impl State {
    pub fn execute_task(
        &mut self,
        step: &mut Step<'_>,
        agent: Option<u64>,
        request: ExecuteTaskRequest,
    ) -> Result<u64, Error> {
        if request.session_id.is_empty() {
            return Err(Error::Required("session_id"));
        }
        let config = request.config.ok_or(Error::Required("config"))?;
        if config.timeout_ns < 0 || config.max_retries < 0 {
            return Err(Error::Invalid("config.timeout_ns and config.max_retries must not be negative".into()));
        }
        let kind = TaskType::try_from(request.r#type);
        let kind = kind.map_err(|_| Error::Invalid(format!("type {} is unknown", request.r#type)))?;
        let priority = TaskPriority::try_from(request.priority);
        let priority = priority.map_err(|_| Error::Invalid(format!("priority {} is unknown", request.priority)))?;
        let max = self.rules.max_open_tasks;
        if self.tasks.by_key.len() >= max {
            return Err(Error::Limit { what: "open tasks", max, setting: "orchestrator.max_open_tasks" });
        }
        let bound = agent.is_some();
        let agent = agent.or_else(|| self.pick_worker(kind, None));
        let (key, id) = step.ids.keyed(step.now);
        let expires = step.now.saturating_add(self.rules.task_expiry);
        let wire = Wire {
            id: id.clone(),
            name: config.command.clone(),
            session_id: request.session_id,
            r#type: kind.into(),
            state: TaskState::Pending.into(),
            priority: if priority == TaskPriority::Unspecified { TaskPriority::Normal } else { priority }.into(),
            created_at: Some(timestamp(step.now)),
            expires_at: Some(timestamp(expires)),
            config: Some(config),
            agent_id: self.agent_id(agent),
            ..Wire::default()
        };
        self.tasks.insert(Task { key, id: id.into(), agent, bound, attempt: 1, started: None, expires, wire });
        self.timers.set(expires, Timer::Task(key));
        self.task_event(step, key, "task.created");
        self.link_to_session(step, key);
        step.fact(Fact::Task(key));
        Ok(key)
    }

    /// Takes in a task from disk. A worker may still run it: its lease ends with the time to live, as always.
    pub fn adopt_task(&mut self, task: Task) {
        let timeout = self.timeout_of(&task);
        let due = task.started.map_or(task.expires, |started| task.expires.min(started.saturating_add(timeout)));
        self.timers.set(due, Timer::Task(task.key));
        if let (Some(agent), Some(_)) = (task.agent, task.started) {
            self.agents.running.entry(agent).or_default().insert(task.key, task.id.clone());
        }
        self.tasks.insert(task);
    }

    /// How long a task may run: the shorter of what its caller set, or else the configured time.
    fn timeout_of(&self, task: &Task) -> i64 {
        let config = task.wire.config.as_ref();
        let wanted = config.map_or(0, |c| c.timeout_ns);
        let longest = config.and_then(|c| c.constraints.as_ref()).map_or(0, |c| c.max_execution_time_ns);
        [wanted, longest].into_iter().filter(|t| *t > 0).min().unwrap_or(self.rules.task_timeout)
    }

    /// The least busy live worker that says it can do this; of equals the oldest.
    fn pick_worker(&self, kind: TaskType, not: Option<u64>) -> Option<u64> {
        let wanted = capability(kind);
        let able = self.agents.iter().filter(|agent| {
            let tasks = agent.request.capabilities.as_ref().map(|c| c.supported_tasks.as_slice()).unwrap_or_default();
            let named = tasks.iter().any(|task| task.replace('-', "_").eq_ignore_ascii_case(&wanted));
            let worker = agent.request.r#type == i32::from(AgentType::Worker) && !agent.is_assistant();
            agent.is_alive() && worker && named && Some(agent.key) != not
        });
        able.map(|agent| (self.load_of(agent.key), agent.key)).min().map(|(_, key)| key)
    }

    fn load_of(&self, agent: u64) -> usize {
        self.tasks.iter().filter(|task| task.agent == Some(agent)).count()
    }

    fn agent_id(&self, agent: Option<u64>) -> String {
        agent.and_then(|key| self.agents.get(key)).map(|agent| agent.id.to_string()).unwrap_or_default()
    }

    /// A session lists the tasks that were run for it.
    fn link_to_session(&mut self, step: &mut Step<'_>, key: u64) {
        const KEPT: usize = 100;
        let Some(task) = self.tasks.get(key) else { return };
        let id = task.id.to_string();
        let Some(session) = self.sessions.find(&task.wire.session_id).map(|session| session.key) else { return };
        let session = self.sessions.get_mut(session).expect("it was just found");
        session.current_task = id.clone();
        session.task_history.push(id);
        if session.task_history.len() > KEPT {
            session.task_history.remove(0);
        }
        step.fact(Fact::Session(session.key));
    }

    /// Ids of tasks that wait for this agent, most urgent first. Those without an agent go to the first that is able.
    pub fn offered_tasks(&mut self, step: &mut Step<'_>, agent: u64) -> Vec<String> {
        let orphans: Vec<(u64, TaskType)> =
            self.tasks.iter().filter(|task| task.agent.is_none()).map(|task| (task.key, task.wire.r#type())).collect();
        for (key, kind) in orphans {
            if let Some(found) = self.pick_worker(kind, None) {
                let id = self.agent_id(Some(found));
                let task = self.tasks.by_key.get_mut(&key).expect("it was just listed");
                task.agent = Some(found);
                task.wire.agent_id = id;
                step.fact(Fact::Task(key));
            }
        }
        let waits = |task: &&Task| {
            task.agent == Some(agent) && matches!(task.state(), TaskState::Pending | TaskState::Queued)
        };
        let mut offered: Vec<&Task> = self.tasks.iter().filter(waits).collect();
        offered.sort_by_key(|task| (-task.wire.priority, task.key));
        offered.iter().map(|task| task.id.to_string()).collect()
    }

    /// The agent has this task in hand. Another agent's task, or one that is over, is left alone.
    pub fn take_task(&mut self, step: &mut Step<'_>, agent: u64, id: &str) {
        let Ok(task) = self.tasks.find(id) else { return };
        let key = task.key;
        if task.agent == Some(agent) && matches!(task.state(), TaskState::Pending | TaskState::Queued) {
            self.start_task(step, key, "");
        }
    }

    pub fn start_task(&mut self, step: &mut Step<'_>, key: u64, message: &str) {
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
    }

    /// A worker's word on its task's state. What the diagram does not have is refused.
    pub fn task_status(&mut self, step: &mut Step<'_>, key: u64, to: TaskState, message: &str) -> Result<(), Error> {
        let task = self.tasks.get(key).ok_or(Error::TaskNotFound)?;
        let from = task.state();
        if from == to {
            return Ok(());
        }
        if !may_move(from, to) || to == TaskState::Pending {
            return Err(Error::TaskState { id: task.id.to_string(), state: state_name(from), wanted: state_name(to) });
        }
        match to {
            TaskState::Running if task.started.is_none() => self.start_task(step, key, message),
            TaskState::Completed => self.complete_task(step, key, None),
            TaskState::Failed | TaskState::Timeout => {
                let error = TaskError { code: state_name(to).into(), message: message.into(), ..TaskError::default() };
                self.end_task(step, key, to, Some(error));
            }
            TaskState::Cancelled => self.end_task(step, key, to, None),
            _ => self.move_task(step, key, to, message),
        }
        Ok(())
    }

    pub fn task_progress(&mut self, step: &mut Step<'_>, key: u64, progress: TaskProgress) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        if !task.is_over() {
            task.wire.progress = progress.percent.clamp(0.0, 1.0);
            step.effect(Effect::Task { task: key, note: Note::Progress(progress) });
        }
    }

    pub fn complete_task(&mut self, step: &mut Step<'_>, key: u64, result: Option<TaskResult>) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        if task.is_over() {
            return;
        }
        task.wire.progress = 1.0;
        task.wire.result = result;
        self.end_task(step, key, TaskState::Completed, None);
    }

    /// The worker failed. It is offered again where its caller said so.
    pub fn task_failed(&mut self, step: &mut Step<'_>, key: u64, mut error: TaskError) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        if task.is_over() {
            return;
        }
        if error.occurred_at.is_none() {
            error.occurred_at = Some(timestamp(step.now));
        }
        let config = task.wire.config.as_ref();
        if config.is_some_and(|c| c.retry_on_failure && task.attempt <= c.max_retries) {
            task.wire.error = Some(error);
            self.offer_again(step, key, false);
        } else {
            self.end_task(step, key, TaskState::Failed, Some(error));
        }
    }

    fn offer_again(&mut self, step: &mut Step<'_>, key: u64, elsewhere: bool) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        let (kind, bound, agent) = (task.wire.r#type(), task.bound, task.agent);
        task.attempt += 1;
        task.started = None;
        task.wire.started_at = None;
        task.wire.progress = 0.0;
        self.release(key, agent);
        if elsewhere && !bound {
            let found = self.pick_worker(kind, agent);
            let id = self.agent_id(found);
            let task = self.tasks.by_key.get_mut(&key).expect("it was here a line ago");
            task.agent = found;
            task.wire.agent_id = id;
        }
        self.move_task(step, key, TaskState::Pending, "offered again");
    }

    /// Cancels a task that is not over. Returns whether that changed anything.
    pub fn cancel_task(&mut self, step: &mut Step<'_>, key: u64, reason: &str, force: bool) -> bool {
        step.grows = false;
        if self.tasks.get(key).is_none_or(Task::is_over) {
            return false;
        }
        step.effect(Effect::Task { task: key, note: Note::Cancel { reason: reason.into(), force } });
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
        let Some(task) = self.tasks.get(key).filter(|task| !task.is_over()) else { return };
        let timeout = self.timeout_of(task);
        let late = task.started.is_some_and(|started| started.saturating_add(timeout) <= step.now);
        if !late && task.expires > step.now {
            return;
        }
        step.grows = false;
        let message = if late { "it ran longer than its timeout" } else { "nobody did it before it expired" };
        step.effect(Effect::Task { task: key, note: Note::Cancel { reason: message.into(), force: true } });
        let error = TaskError {
            code: "TIMEOUT".into(),
            message: message.into(),
            occurred_at: Some(timestamp(step.now)),
            ..TaskError::default()
        };
        self.end_task(step, key, TaskState::Timeout, Some(error));
    }

    /// The lease of a lost agent's tasks is over: they are offered again or fail, as their callers said.
    pub fn tasks_of_lost(&mut self, step: &mut Step<'_>, agent: u64) {
        let held: Vec<u64> = self.tasks.iter().filter(|task| task.agent == Some(agent)).map(|task| task.key).collect();
        for key in held {
            let task = self.tasks.get(key).expect("it was just listed");
            let config = task.wire.config.as_ref();
            let again = config.is_some_and(|c| c.retry_on_failure && task.attempt <= c.max_retries);
            if task.started.is_none() {
                if !task.bound {
                    self.offer_again(step, key, true);
                }
            } else if again {
                self.offer_again(step, key, true);
            } else {
                let error = TaskError {
                    code: "AGENT_LOST".into(),
                    message: "the agent that ran it is gone".into(),
                    occurred_at: Some(timestamp(step.now)),
                    ..TaskError::default()
                };
                self.end_task(step, key, TaskState::Failed, Some(error));
            }
        }
    }

    fn end_task(&mut self, step: &mut Step<'_>, key: u64, to: TaskState, error: Option<TaskError>) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        debug_assert!(may_move(task.state(), to) || to == TaskState::Completed, "checked by every caller");
        task.wire.completed_at = Some(timestamp(step.now));
        if error.is_some() {
            task.wire.error = error.clone();
        }
        let (agent, result) = (task.agent, task.wire.result.clone());
        self.release(key, agent);
        self.move_task(step, key, to, error.as_ref().map_or("", |e| e.message.as_str()));
        let note = match (to, error) {
            (TaskState::Completed | TaskState::Cancelled, _) => Note::Complete(result),
            (_, error) => Note::Failed(error.unwrap_or_default()),
        };
        step.effect(Effect::Task { task: key, note });
    }

    fn release(&mut self, key: u64, agent: Option<u64>) {
        if let Some(running) = agent.and_then(|agent| self.agents.running.get_mut(&agent)) {
            running.remove(&key);
        }
    }

    fn move_task(&mut self, step: &mut Step<'_>, key: u64, to: TaskState, message: &str) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        task.wire.state = to.into();
        let name = match to {
            TaskState::Completed => "task.completed",
            TaskState::Failed | TaskState::Timeout => "task.failed",
            _ => "task.updated",
        };
        self.task_event(step, key, name);
        step.fact(Fact::Task(key));
        step.effect(Effect::Task { task: key, note: Note::State { state: to, message: message.into() } });
    }

    fn task_event(&mut self, step: &mut Step<'_>, key: u64, name: &str) {
        let task = self.tasks.get(key).expect("the caller looked it up");
        let session = self.sessions.find(&task.wire.session_id);
        let about = session.map_or_else(
            || About { session_id: task.wire.session_id.clone(), ..About::default() },
            super::sessions::about,
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

/// The tasks of one listing, by every field of its filter.
pub fn matches(task: &Wire, filter: &nexus_proto::agent::v1::TaskFilter) -> bool {
    let created = task.created_at.as_ref().map_or(0, event::time);
    let any = |wanted: i32, is: i32| wanted == 0 || wanted == is;
    any(filter.state, task.state)
        && any(filter.r#type, task.r#type)
        && any(filter.priority, task.priority)
        && (filter.session_id.is_empty() || filter.session_id == task.session_id)
        && filter.created_after.as_ref().is_none_or(|after| created > event::time(after))
        && filter.created_before.as_ref().is_none_or(|before| created < event::time(before))
}

