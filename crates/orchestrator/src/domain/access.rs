//! What each role may see and do: the table "What each role may call" of `docs/SECURITY.md`, as code.
//!
//! An administrator may do everything. A user sees and changes its own sessions. An agent sees and moves its own
//! registrations, the tasks that are theirs, and the sessions whose turns were offered to them. What a caller may not see
//! is answered as what does not exist; what it may never do is refused by its role.

use nexus_daemon::{Caller, Role};
use nexus_proto::agent::v1::{AgentMessage, RegisterRequest, Task as WireTask};

use super::agent::{Agent, Agents, is_assistant, serves};
use super::sessions::View;
use super::task::Task;
use super::{Error, State};

impl<'a> View<'a> {
    /// The sessions that this caller may see and change. `doing` is what it asked for.
    pub fn of(caller: &'a Caller, doing: &'static str) -> Result<View<'a>, Error> {
        match caller.role {
            Role::Admin => Ok(View::All),
            Role::User => Ok(View::Own(&caller.principal)),
            Role::Agent => Err(role_refused(caller, doing)),
        }
    }
}

/// Images are shared by all sessions: only administrators change the set of them.
pub fn may_change_images(caller: &Caller, doing: &'static str) -> Result<(), Error> {
    if caller.is_admin() {
        return Ok(());
    }
    Err(Error::Forbidden(format!("only an administrator may {doing}")))
}

/// What a caller's role does not allow, whatever it is about.
pub fn role_refused(caller: &Caller, doing: &'static str) -> Error {
    let role = caller.role.as_str();
    Error::RoleRefused { role, doing }
}

impl Agents {
    /// Whether this caller may speak for the agent: it registered it, or is an administrator.
    pub fn belongs(&self, key: u64, caller: &Caller) -> bool {
        caller.is_admin() || self.get(key).is_some_and(|agent| *agent.owner == *caller.principal)
    }

    /// The agent, if this caller may speak for it.
    pub fn owned(&self, id: &str, caller: &Caller) -> Result<u64, Error> {
        let agent = self.find(id)?;
        if self.belongs(agent.key, caller) {
            return Ok(agent.key);
        }
        // As if it did not exist.
        Err(Error::AgentNotFound)
    }

    /// The agents that this caller may know of, oldest first.
    pub fn visible<'a>(&'a self, caller: &'a Caller) -> impl Iterator<Item = &'a Agent> {
        self.iter().filter(|agent| self.belongs(agent.key, caller))
    }
}

impl State {
    /// The sessions that this caller may read, where it asks for one of them by its id.
    pub fn reading_view<'a>(&self, id: &str, caller: &'a Caller) -> Result<View<'a>, Error> {
        if caller.role != Role::Agent {
            return View::of(caller, "read sessions");
        }
        if self.is_offered_session(id, caller) {
            Ok(View::All)
        } else {
            Err(Error::SessionNotFound(id.into()))
        }
    }

    /// Whether an agent of this caller works on a turn of the session.
    pub fn is_offered_session(&self, id: &str, caller: &Caller) -> bool {
        let Some(session) = self.sessions.find(id) else {
            return false;
        };
        self.agents
            .visible(caller)
            .any(|agent| self.agents.works_on(agent.key, session.key))
    }

    /// Whether an agent of this caller drives a run of the session, also while the run's calls go on.
    pub fn drives_session(&self, id: &str, caller: &Caller) -> bool {
        if self.is_offered_session(id, caller) {
            return true;
        }
        let Some(session) = self.sessions.find(id) else {
            return false;
        };
        let mut runs = self.runs.iter().filter(|run| run.session == session.key);
        runs.any(|run| self.agents.owned(&run.wire.agent_id, caller).is_ok())
    }

    /// Refuses a registration of what only callers that the settings name may be.
    pub fn may_register(&self, caller: &Caller, request: &RegisterRequest) -> Result<(), Error> {
        if caller.is_admin() {
            return Ok(());
        }
        let not_named = |doing, setting| Error::NotNamed {
            principal: caller.principal.to_string(),
            doing,
            setting,
        };
        if is_assistant(request) && !self.rules.assistants.contains(&*caller.principal) {
            return Err(not_named("be an assistant", "orchestrator.assistants"));
        }
        if serves(request) && !self.rules.front_door.contains(&*caller.principal) {
            return Err(not_named("serve behind the front door", "orchestrator.front_door"));
        }
        Ok(())
    }

    /// The open task, if this caller may know of it.
    pub fn visible_task(&self, id: &str, caller: &Caller) -> Result<&Task, Error> {
        let task = self.tasks.find(id)?;
        let visible = caller.is_admin() || task.agent.is_some_and(|agent| self.agents.belongs(agent, caller));
        if visible { Ok(task) } else { Err(Error::TaskNotFound) }
    }

    /// Whether this caller may know of a task that is over.
    pub fn shows_ended_task(&self, task: &WireTask, caller: &Caller) -> bool {
        caller.is_admin() || self.agents.owned(&task.agent_id, caller).is_ok()
    }

    /// The agent that a new task is for, `None` where the orchestrator picks it. An agent gives tasks only to agents of its
    /// own caller, and only for sessions that were offered to them.
    pub fn task_target(&self, caller: &Caller, agent_id: &str, session_id: &str) -> Result<Option<u64>, Error> {
        if caller.is_admin() {
            return match agent_id {
                "" => Ok(None),
                id => Ok(Some(self.agents.find(id)?.key)),
            };
        }
        let agent = self.agents.owned(agent_id, caller)?;
        if !session_id.is_empty() && !self.is_offered_session(session_id, caller) {
            return Err(Error::SessionNotFound(session_id.into()));
        }
        Ok(Some(agent))
    }

    /// Says truly who sent a message to an agent: an agent that this caller speaks for, or else the caller itself. Only an
    /// administrator's word is taken as it is.
    pub fn sign(&self, message: &mut AgentMessage, caller: &Caller) {
        let named = &message.source_id;
        if !caller.is_admin() && (named.is_empty() || self.agents.owned(named, caller).is_err()) {
            message.source_id = caller.principal.to_string();
        }
    }
}
