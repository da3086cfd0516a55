//! Loads the state from disk.

use nexus_store::Read;
use prost::Message as _;

use super::containers::container;
use super::docs::{UserUsage, agent, kept, session, task, turn};
use super::index::open_tasks;
use super::runs;
use super::{AGENT, CLOSED, CONTAINER, END, KEPT, LIVE, OPEN, SESSION_USAGE, TASK, USER_USAGE, key, number, number_at};
use crate::domain::container::Phase;
use crate::domain::session::Session;
use crate::domain::timers::Timer;
use crate::domain::tool::builtin_tools;
use crate::domain::{Error, Rules, State, Time};

/// Reads one session with its head, from where it stands.
pub fn find_session(read: &mut dyn Read, id: u64) -> Result<Option<Session>, nexus_store::Error> {
    for table in [LIVE, CLOSED] {
        if let Some(value) = read.get(table, &id.to_be_bytes())? {
            let mut found = session(&id.to_be_bytes(), &value).map_err(damaged)?;
            set_head(&mut found, read.heads(&[id])?[0]);
            set_usage(read, &mut found)?;
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// What is kept of a session that counts against a share.
fn set_usage(read: &mut dyn Read, session: &mut Session) -> Result<(), nexus_store::Error> {
    if session.limited
        && let Some(stored) = read.get(SESSION_USAGE, &session.key.to_be_bytes())?
    {
        session.load_stored(number(&stored)?);
    }
    Ok(())
}

fn set_head(session: &mut Session, head: Option<nexus_store::Head>) {
    if let Some(head) = head {
        session.load_head(head.n, head.time);
    }
}

/// Makes the state of what is on disk: all that is live.
pub fn load(read: &mut dyn Read, rules: Rules, now: Time) -> Result<(State, u64), nexus_store::Error> {
    let mut state = State::new(rules);
    let mut last = 0;
    let everything = (&[][..], &END[..]);
    let sessions = read.scan(LIVE, everything.0, everything.1, usize::MAX)?;
    let keys: Vec<u64> = sessions.iter().map(|(key, _)| number(key)).collect::<Result<_, _>>()?;
    let heads = read.heads(&keys)?;
    for ((key, value), head) in sessions.iter().zip(heads) {
        let mut session = session(key, value).map_err(damaged)?;
        set_head(&mut session, head);
        set_usage(read, &mut session)?;
        last = last.max(session.key);
        state.look_again(&session);
        state.sessions.insert(session);
    }
    for (key, value) in read.scan(OPEN, everything.0, everything.1, usize::MAX)? {
        let session = number(&key)?;
        let Some(found) = state.sessions.get_mut(session) else {
            continue;
        };
        found.load_turn(turn(number_at(&key, 8)?, &value).map_err(damaged)?);
        state.agents.waiting.insert(session);
        state.agents.assistant_seen = Some(now);
    }
    for (key, value) in read.scan(AGENT, everything.0, everything.1, usize::MAX)? {
        let agent = agent(&key, &value, now).map_err(damaged)?;
        last = last.max(agent.key);
        if agent.is_alive() && agent.is_assistant() {
            state.agents.assistant_seen = Some(now);
        }
        state
            .timers
            .set(now.saturating_add(state.rules.agent_ttl), Timer::Agent(agent.key));
        state.agents.insert(agent);
    }
    for (key, value) in read.scan(KEPT, everything.0, everything.1, usize::MAX)? {
        let n = number_at(&key, 8)?;
        let Some(agent) = state.agents.get_mut(number(&key)?) else {
            continue;
        };
        agent.kept.insert(n, kept(&value).map_err(damaged)?);
        agent.kept_next = n + 1;
    }
    for (key, value) in read.scan(CONTAINER, everything.0, everything.1, usize::MAX)? {
        let container = container(&key, &value).map_err(damaged)?;
        last = last.max(container.key);
        if container.phase != Phase::Creating
            && let Some(session) = state.sessions.get_mut(container.session)
        {
            session.add_container(container.id.clone());
        }
        state.containers.insert(container);
    }
    // Closed sessions are not loaded, but their keys are taken.
    if let Some(key) = read.last(CLOSED)? {
        last = last.max(number(&key)?);
    }
    for (user, value) in read.scan(USER_USAGE, everything.0, everything.1, usize::MAX)? {
        let usage = UserUsage::decode(value).map_err(|e| super::damaged(format!("what is kept of a user: {e}")))?;
        let user = String::from_utf8_lossy(&user);
        state.usage.load(&user, usage.stored, usage.closed);
    }
    for open in open_tasks(read)? {
        let value = read.get(TASK, &key(open))?;
        let value = value.ok_or_else(|| super::damaged(format!("task {open:016x} is in the index only")))?;
        state.adopt_task(task(&key(open), &value).map_err(damaged)?);
    }
    last = last.max(runs::load(read, &mut state, now)?);
    state.tools.load_builtins(builtin_tools(), now);
    runs::builtin_stats(read, &mut state)?;
    // Those that are over are not loaded either.
    if let Some(key) = read.last(TASK)? {
        last = last.max(number(&key)?);
    }
    Ok((state, last))
}

pub(super) fn damaged(error: Error) -> nexus_store::Error {
    match error {
        Error::Store(error) => error,
        other => nexus_store::Error::Damaged {
            path: "orchestrator".into(),
            detail: other.to_string(),
        },
    }
}
