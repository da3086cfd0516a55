//! Tasks: work given to an agent under a lease.
//!
//! ```text
//!  PENDING ──▶ QUEUED ──▶ RUNNING ◀──▶ PAUSED       a worker takes a task by its first frame for it, or by naming it
//!     │ ▲        │          │ │          │          as active; until then it is offered with every heartbeat
//!     │ └──lost──┼──────────┘ │          │
//!     └──────────┴────────────┴──────────┴──▶ COMPLETED, FAILED, CANCELLED, TIMEOUT: nothing leads out of these
//! ```

mod lease;
mod work;

pub(super) use lease::is_able;
pub use work::is_workers;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nexus_daemon::Caller;
use nexus_proto::agent::v1::{
    ExecuteTaskRequest, Task as Wire, TaskConfig, TaskError, TaskOutput, TaskPriority, TaskProgress, TaskResult,
    TaskState, TaskType,
};
use nexus_proto::words;

use super::event::{self, timestamp};
use super::timers::Timer;
use super::{Error, Fact, State, Step, Time, ids};

#[derive(Clone, Debug)]
pub struct Task {
    pub key: u64,
    pub id: Arc<str>,
    /// The agent that has to do it; `None` until the orchestrator has found one.
    pub agent: Option<u64>,
    /// Named by the caller; otherwise another agent may get it when this one is lost.
    pub bound: bool,
    /// Whose share of open tasks it counts against; `None` for an administrator's.
    pub giver: Option<Arc<str>>,
    pub attempt: i64,
    pub started: Option<Time>,
    pub expires: Time,
    /// The call of a tool that it executes.
    pub call: Option<u64>,
    /// What clients see.
    pub wire: Wire,
}

/// What is told to those who watch or work a task.
#[derive(Clone, Debug)]
pub enum Note {
    State {
        state: TaskState,
        message: String,
    },
    Progress(TaskProgress),
    Output(TaskOutput),
    Complete(Option<TaskResult>),
    Failed(TaskError),
    /// For the worker: the caller wants it stopped.
    Cancel {
        reason: String,
        force: bool,
    },
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
        let found = ids::number(id)
            .and_then(|key| self.by_key.get(&key))
            .filter(|task| *task.id == *id);
        found.ok_or(Error::TaskNotFound)
    }

    /// How many tasks each agent has that are not over.
    pub fn loads(&self) -> HashMap<u64, usize> {
        let mut loads = HashMap::new();
        for agent in self.iter().filter(|task| !task.is_over()).filter_map(|task| task.agent) {
            *loads.entry(agent).or_default() += 1;
        }
        loads
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

    /// When it was over; 0 while it is not.
    pub fn ended(&self) -> Time {
        self.wire.completed_at.as_ref().map_or(0, event::time)
    }

    /// Whether its caller wants it tried once more after a failure.
    fn may_retry(&self) -> bool {
        self.wire
            .config
            .as_ref()
            .is_some_and(|c| c.retry_on_failure && self.attempt <= c.max_retries)
    }

    /// When it has taken too long: its time counts from its start, its expiry from its making.
    fn due(&self, timeout: i64) -> Time {
        self.started.map_or(self.expires, |started| {
            self.expires.min(started.saturating_add(timeout))
        })
    }
}

pub fn is_over(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Completed | TaskState::Failed | TaskState::Cancelled | TaskState::Timeout
    )
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
        caller: &Caller,
        request: ExecuteTaskRequest,
    ) -> Result<u64, Error> {
        let agent = self.task_target(caller, &request.agent_id, &request.session_id)?;
        if request.session_id.is_empty() {
            return Err(Error::Required("session_id"));
        }
        let config = request.config.ok_or(Error::Required("config"))?;
        if config.timeout_ns < 0 || config.max_retries < 0 {
            return Err(Error::Invalid(
                "config.timeout_ns and config.max_retries must not be negative".into(),
            ));
        }
        check_constraints(&config)?;
        let kind = TaskType::try_from(request.r#type);
        let kind = kind.map_err(|_| Error::Invalid(format!("type {} is unknown", request.r#type)))?;
        let priority = TaskPriority::try_from(request.priority);
        let priority = priority.map_err(|_| Error::Invalid(format!("priority {} is unknown", request.priority)))?;
        let max = self.rules.max_open_tasks;
        if self.tasks.by_key.len() >= max {
            return Err(Error::Limit {
                what: "open tasks",
                max,
                setting: "orchestrator.max_open_tasks",
            });
        }
        self.share_of_tasks(caller)?;
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
            priority: if priority == TaskPriority::Unspecified {
                TaskPriority::Normal
            } else {
                priority
            }
            .into(),
            created_at: Some(timestamp(step.now)),
            expires_at: Some(timestamp(expires)),
            config: Some(config),
            agent_id: self.agent_id(agent),
            ..Wire::default()
        };
        self.tasks.insert(Task {
            key,
            id: id.into(),
            agent,
            bound,
            giver: (!caller.is_admin()).then(|| caller.principal.clone()),
            attempt: 1,
            started: None,
            expires,
            call: None,
            wire,
        });
        self.timers.set(expires, Timer::Task(key));
        self.task_event(step, key, words::event::TASK_CREATED);
        self.link_to_session(step, key);
        step.fact(Fact::Task(key));
        step.fact(Fact::TaskMade(key));
        self.push_task(step, key);
        Ok(key)
    }

    /// Takes in a task from disk. A worker may still run it: its lease ends with the time to live, as always.
    pub fn adopt_task(&mut self, task: Task) {
        let timeout = self.timeout_of(&task);
        self.timers.set(task.due(timeout), Timer::Task(task.key));
        if let (Some(agent), Some(_)) = (task.agent, task.started) {
            self.agents
                .running
                .entry(agent)
                .or_default()
                .insert(task.key, task.id.clone());
        }
        self.tasks.insert(task);
    }

    /// How long a task may run: the shorter of what its caller set, or else the configured time.
    fn timeout_of(&self, task: &Task) -> i64 {
        let config = task.wire.config.as_ref();
        let wanted = config.map_or(0, |c| c.timeout_ns);
        let longest = config
            .and_then(|c| c.constraints.as_ref())
            .map_or(0, |c| c.max_execution_time_ns);
        [wanted, longest]
            .into_iter()
            .filter(|t| *t > 0)
            .min()
            .unwrap_or(self.rules.task_timeout)
    }

    fn agent_id(&self, agent: Option<u64>) -> String {
        agent
            .and_then(|key| self.agents.get(key))
            .map(|agent| agent.id.to_string())
            .unwrap_or_default()
    }

    /// A session lists the tasks that were run for it.
    fn link_to_session(&mut self, step: &mut Step<'_>, key: u64) {
        let Some(task) = self.tasks.get(key) else { return };
        let id = task.id.to_string();
        let Some(session) = self.sessions.find(&task.wire.session_id).map(|session| session.key) else {
            return;
        };
        let session = self.sessions.get_mut(session).expect("it was just found");
        session.add_task(id);
        step.fact(Fact::Session(session.key));
    }
}

/// Refuses an operation that the task's own constraints exclude.
fn check_constraints(config: &TaskConfig) -> Result<(), Error> {
    let Some(constraints) = &config.constraints else {
        return Ok(());
    };
    let parameter = |name: &str| {
        config
            .parameters
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    };
    let operation = Some(config.command.as_str()).filter(|command| !command.is_empty());
    let operation = operation
        .or_else(|| parameter("operation"))
        .or_else(|| parameter("op"))
        .unwrap_or_default();
    let allowed = &constraints.allowed_operations;
    let excluded = !allowed.is_empty() && !allowed.iter().any(|known| known == operation);
    if excluded || constraints.denied_operations.iter().any(|known| known == operation) {
        return Err(Error::Forbidden(format!(
            "config.constraints do not allow the operation {operation:?}"
        )));
    }
    Ok(())
}

/// The tasks of one listing, by every field of its filter.
pub fn matches(task: &Wire, filter: &nexus_proto::agent::v1::TaskFilter) -> bool {
    let created = task.created_at.as_ref().map_or(0, event::time);
    let any = |wanted: i32, is: i32| wanted == 0 || wanted == is;
    any(filter.state, task.state)
        && any(filter.r#type, task.r#type)
        && any(filter.priority, task.priority)
        && (filter.session_id.is_empty() || filter.session_id == task.session_id)
        && filter
            .created_after
            .as_ref()
            .is_none_or(|after| created > event::time(after))
        && filter
            .created_before
            .as_ref()
            .is_none_or(|before| created < event::time(before))
}
