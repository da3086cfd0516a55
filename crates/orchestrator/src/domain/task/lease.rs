//! Selects the worker that a task is offered to, and handles the loss of that worker.

use nexus_proto::agent::v1::{AgentType, TaskError, TaskState, TaskType};

use super::{Task, capability};
use crate::domain::agent::Agent;
use crate::domain::event::timestamp;
use crate::domain::{Fact, State, Step};

/// True if this is a live worker that says it can do such tasks.
pub(in crate::domain) fn is_able(agent: &Agent, kind: TaskType) -> bool {
    let wanted = capability(kind);
    let tasks = agent
        .request
        .capabilities
        .as_ref()
        .map(|c| c.supported_tasks.as_slice())
        .unwrap_or_default();
    let worker = agent.request.r#type == i32::from(AgentType::Worker) && !agent.is_assistant();
    agent.is_alive()
        && worker
        && tasks
            .iter()
            .any(|task| task.replace('-', "_").eq_ignore_ascii_case(&wanted))
}

impl State {
    /// The least busy live worker that says it can do this; of equals the oldest.
    pub(super) fn pick_worker(&self, kind: TaskType, not: Option<u64>) -> Option<u64> {
        let loads = self.tasks.loads();
        let able = self
            .agents
            .iter()
            .filter(|agent| Some(agent.key) != not && is_able(agent, kind));
        able.map(|agent| (loads.get(&agent.key).copied().unwrap_or(0), agent.key))
            .min()
            .map(|(_, key)| key)
    }

    /// Ids of tasks that wait for this agent, most urgent first. Those without an agent are its own, if it is able.
    pub fn offered_tasks(&mut self, step: &mut Step<'_>, agent: u64) -> Vec<String> {
        let Some(worker) = self.agents.get(agent) else {
            return Vec::new();
        };
        for task in self.tasks.by_key.values_mut() {
            if task.agent.is_none() && is_able(worker, task.wire.r#type()) {
                task.agent = Some(agent);
                task.wire.agent_id = worker.id.to_string();
                step.fact(Fact::Task(task.key));
                step.fact(Fact::TaskMoved {
                    task: task.key,
                    from: None,
                });
            }
        }
        let waits =
            |task: &&Task| task.agent == Some(agent) && matches!(task.state(), TaskState::Pending | TaskState::Queued);
        let mut offered: Vec<&Task> = self.tasks.iter().filter(waits).collect();
        offered.sort_by_key(|task| (-task.wire.priority, task.key));
        offered.iter().map(|task| task.id.to_string()).collect()
    }

    /// Takes a task from its worker and offers it once more: to the same one, or, if it may go `elsewhere`, to another.
    pub(super) fn offer_again(&mut self, step: &mut Step<'_>, key: u64, elsewhere: bool) {
        let task = self.tasks.by_key.get_mut(&key).expect("the caller looked it up");
        let (kind, bound, agent) = (task.wire.r#type(), task.bound, task.agent);
        if task.started.take().is_some() {
            task.attempt += 1;
        }
        task.wire.started_at = None;
        task.wire.progress = 0.0;
        self.release(key, agent);
        if elsewhere && !bound {
            let found = self.pick_worker(kind, agent);
            let id = self.agent_id(found);
            let task = self.tasks.by_key.get_mut(&key).expect("it was here a line ago");
            task.agent = found;
            task.wire.agent_id = id;
            if found != agent {
                step.fact(Fact::TaskMoved { task: key, from: agent });
            }
        }
        self.move_task(step, key, TaskState::Pending, "offered again");
        self.push_task(step, key);
    }

    /// Gives a task to another agent within the same attempt: that one holds its process.
    pub(in crate::domain) fn move_task_to(&mut self, step: &mut Step<'_>, key: u64, agent: u64, agent_id: &str) {
        let Some(task) = self.tasks.by_key.get_mut(&key) else {
            return;
        };
        let from = task.agent.replace(agent);
        agent_id.clone_into(&mut task.wire.agent_id);
        let (started, id) = (task.started, task.id.clone());
        self.release(key, from);
        if started.is_some() {
            self.agents.running.entry(agent).or_default().insert(key, id);
        }
        step.fact(Fact::Task(key));
        step.fact(Fact::TaskMoved { task: key, from });
    }

    /// The lease of a lost agent's tasks is over: they are offered again or fail, as their callers said. One that only
    /// this agent may do waits for it to come back, unless it is gone for good.
    pub fn tasks_of_lost(&mut self, step: &mut Step<'_>, agent: u64, for_good: bool) {
        let held: Vec<u64> = self
            .tasks
            .iter()
            .filter(|task| task.agent == Some(agent))
            .map(|task| task.key)
            .collect();
        self.calls_of_lost(step, agent, for_good);
        for key in held {
            let Some(task) = self
                .tasks
                .get(key)
                .filter(|task| !task.is_over() && task.call.is_none())
            else {
                continue;
            };
            let may_wait = !(task.bound && for_good);
            let again = task.may_retry() && may_wait;
            if task.started.is_none() && task.bound && may_wait {
                continue;
            }
            if again || (task.started.is_none() && may_wait) {
                self.offer_again(step, key, true);
            } else {
                let error = TaskError {
                    code: "AGENT_LOST".into(),
                    message: "the agent that had the task is gone".into(),
                    occurred_at: Some(timestamp(step.now)),
                    ..TaskError::default()
                };
                self.end_task(step, key, TaskState::Failed, Some(error));
            }
        }
    }
}
