//! The calls about tasks.

use nexus_daemon::Caller;
use nexus_proto::agent::v1::{
    CancelTaskRequest, CancelTaskResponse, ExecuteTaskRequest, ListTasksRequest, ListTasksResponse, Task as Wire,
    TaskState,
};

use super::{Engine, Once};
use crate::domain::task::{is_over, matches};
use crate::domain::{Error, ids};
use crate::store::TasksOf;

const LARGEST_PAGE: usize = 1_000;

impl Engine {
    pub async fn execute_task(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: ExecuteTaskRequest,
    ) -> Result<Wire, Error> {
        self.room()?;
        self.once(once, |parts, step| {
            let key = parts.state.execute_task(step, caller, request)?;
            Ok(parts.state.tasks.get(key).expect("it was just made").wire.clone())
        })
        .await
    }

    /// Cancels a task; one that is over already is left as it is, and is no error.
    pub async fn cancel_task(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: CancelTaskRequest,
    ) -> Result<CancelTaskResponse, Error> {
        let cancelled = self
            .once(once, |parts, step| {
                let key = parts.state.visible_task(&request.task_id, caller)?.key;
                let cancelled = parts.state.cancel_task(step, key, &request.reason, request.force);
                let state = parts.state.tasks.get(key).map_or(0, |task| task.wire.state);
                Ok(CancelTaskResponse {
                    task_id: request.task_id.clone(),
                    state,
                    cancelled,
                })
            })
            .await;
        match cancelled {
            Err(Error::TaskNotFound) => {
                let over = self.task(&request.task_id, caller).await?;
                Ok(CancelTaskResponse {
                    task_id: over.id,
                    state: over.state,
                    cancelled: false,
                })
            }
            other => other,
        }
    }

    /// A task that is open, or that ended not long ago, if this caller may know of it.
    pub async fn task(&self, id: &str, caller: &Caller) -> Result<Wire, Error> {
        loop {
            let (seen, open) = self.look(|ledger| {
                let open = match ledger.state.tasks.find(id) {
                    Ok(_) => ledger
                        .state
                        .visible_task(id, caller)
                        .map(|task| Some(task.wire.clone())),
                    Err(Error::TaskNotFound) => Ok(None),
                    Err(error) => Err(error),
                };
                ((ledger.epoch, ledger.tx), open)
            });
            match open? {
                None => break,
                Some(task) if self.came_to_be(seen).await? => return Ok(task),
                Some(_) => {}
            }
        }
        let key = ids::number(id).ok_or(Error::TaskNotFound)?;
        let task = self.shared.stored.task(key).await?;
        let task = task.filter(|task| task.id == id && self.look(|ledger| ledger.state.shows_ended_task(task, caller)));
        task.ok_or(Error::TaskNotFound)
    }

    /// Tasks of an agent, or for an administrator of all, oldest first, by every field of the filter.
    pub async fn tasks(&self, caller: &Caller, request: ListTasksRequest) -> Result<ListTasksResponse, Error> {
        let filter = &request.filter.unwrap_or_default();
        let agent_id = request.agent_id.as_str();
        let size = match usize::try_from(request.page_size) {
            Ok(0) if agent_id.is_empty() => return Err(Error::Required("agent_id")),
            Ok(0) => usize::MAX,
            Ok(size) => size.min(LARGEST_PAGE),
            Err(_) => return Err(Error::Invalid("page_size must not be negative".into())),
        };
        let from = match request.page_token.as_str() {
            "" => 0,
            token => u64::from_str_radix(token, 16)
                .map_err(|_| Error::Invalid("page_token is not one that was given".into()))?,
        };
        if !caller.is_admin() {
            self.look(|ledger| ledger.state.agents.owned(agent_id, caller).map(drop))?;
        }
        self.settled(self.look(|ledger| ledger.tx)).await?;
        let state = TaskState::try_from(filter.state).unwrap_or_default();
        if state != TaskState::Unspecified && !is_over(state) {
            let tasks = self.look(|core| {
                let open = core
                    .state
                    .tasks
                    .iter()
                    .filter(|task| task.key > from)
                    .map(|task| &task.wire);
                let of_agent = open.filter(|task| agent_id.is_empty() || task.agent_id == agent_id);
                of_agent
                    .filter(|task| matches(task, filter))
                    .take(size.saturating_add(1))
                    .cloned()
                    .collect()
            });
            return Ok(page_of(tasks, size));
        }
        let of = TasksOf {
            agent_id: agent_id.into(),
            filter: filter.clone(),
        };
        let (mut found, mut after) = (Vec::new(), Some(from));
        while let Some(from) = after.filter(|_| found.len() <= size) {
            let (mut page, last) = self.shared.stored.tasks(of.clone(), from).await?;
            after = last;
            self.look(|ledger| {
                // Progress is not saved with every step; the open task knows it best.
                for task in &mut page {
                    if let Ok(open) = ledger.state.tasks.find(&task.id) {
                        *task = open.wire.clone();
                    }
                }
            });
            found.append(&mut page);
        }
        Ok(page_of(found, size))
    }
}

/// A page of tasks, and where the next one begins if there are more.
fn page_of(mut tasks: Vec<Wire>, size: usize) -> ListTasksResponse {
    let more = tasks.len() > size;
    tasks.truncate(size);
    let last = tasks.last().filter(|_| more).and_then(|task| ids::number(&task.id));
    ListTasksResponse {
        total_count: i32::try_from(tasks.len()).unwrap_or(i32::MAX),
        tasks,
        next_page_token: last.map(|last| format!("{last:x}")).unwrap_or_default(),
    }
}
