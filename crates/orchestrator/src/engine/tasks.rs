//! The calls about tasks.

use nexus_daemon::Caller;
use nexus_proto::agent::v1::{CancelTaskRequest, CancelTaskResponse, ExecuteTaskRequest, Task as Wire, TaskFilter};

use super::{Engine, Once};
use crate::domain::task::matches;
use crate::domain::{Error, ids};
use crate::store;

/// Tasks read from disk at once.
const READ_AT_ONCE: usize = 512;

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
            let (seen, open) = self.look(|core| {
                let open = match core.state.tasks.find(id) {
                    Ok(_) => core.state.visible_task(id, caller).map(|task| Some(task.wire.clone())),
                    Err(Error::TaskNotFound) => Ok(None),
                    Err(error) => Err(error),
                };
                ((core.epoch, core.tx), open)
            });
            match open? {
                None => break,
                Some(task) if self.came_to_be(seen).await? => return Ok(task),
                Some(_) => {}
            }
        }
        let key = ids::number(id).ok_or(Error::TaskNotFound)?;
        let kept = self.inner.reader.get(store::TASK, store::key(key).to_vec()).await?;
        let task = store::task(&store::key(key), &kept.ok_or(Error::TaskNotFound)?)?;
        if *task.id == *id && self.look(|core| core.state.shows_ended_task(&task.wire, caller)) {
            Ok(task.wire)
        } else {
            Err(Error::TaskNotFound)
        }
    }

    /// Tasks of an agent, oldest first, by every field of the filter.
    pub async fn tasks(&self, caller: &Caller, agent_id: &str, filter: &TaskFilter) -> Result<Vec<Wire>, Error> {
        if agent_id.is_empty() {
            return Err(Error::Required("agent_id"));
        }
        if !caller.is_admin() {
            self.look(|core| core.state.agents.owned(agent_id, caller).map(drop))?;
        }
        self.settled(self.look(|core| core.tx)).await?;
        let (mut found, mut from) = (Vec::new(), Vec::new());
        loop {
            let page = self
                .inner
                .reader
                .scan(store::TASK, from, vec![0xff; 9], READ_AT_ONCE)
                .await?;
            let Some((last, _)) = page.last() else { return Ok(found) };
            from = [last, &[0][..]].concat();
            for (key, value) in &page {
                let mut wire = store::task(key, value)?.wire;
                // Progress is not saved with every step; the open task knows it best.
                if let Some(open) = self.look(|core| core.state.tasks.find(&wire.id).ok().map(|task| task.wire.clone()))
                {
                    wire = open;
                }
                if wire.agent_id == agent_id && matches(&wire, filter) {
                    found.push(wire);
                }
            }
        }
    }
}
