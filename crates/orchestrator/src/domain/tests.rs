//! The rules without a runtime, and a world that does for them what the engine does: commits, runs effects, restarts.

mod access;
mod agents;
mod disk;
mod index;
mod random;
mod reload;
mod runs;
mod sessions;
mod shares;
mod tasks;
mod turns;

use std::collections::{BTreeMap, HashMap};

use nexus_daemon::{Caller, Role};
use nexus_proto::agent::v1::{
    AgentCapabilities, AgentMessage, AgentMetadata, AgentType, ExecuteTaskRequest, RegisterRequest, TaskConfig,
    TaskState, TaskType,
};
use nexus_proto::orchestrator::v1::{Event, Message, MessageRole, SessionMetadata, SessionState};

use super::ids::Ids;
use super::reload::Attached;
use super::task::{Note, may_move};
use super::timers::Timer;
use super::turn::{Phase, TurnEnd};
use super::{Effect, Error, Fact, Rules, State, Step, Time};
use crate::engine::cache::Cache;
use crate::store;

pub const SECOND: Time = 1_000_000_000;

/// A state, what was made durable of it, and what it asked to be done.
pub struct World {
    pub state: State,
    ids: Ids,
    pub now: Time,
    pub disk: disk::Disk,
    /// Every USER message, with how its turn ended if it did.
    pub asked: BTreeMap<(u64, u64), Option<TurnEnd>>,
    pub offers: Vec<(u64, AgentMessage)>,
    pub delivered: Vec<(u64, AgentMessage)>,
    pub errors: Vec<Event>,
    pub events: Vec<Event>,
    pub notes: Vec<(u64, Note)>,
    /// Edits whose files are to be looked at.
    pub looks: Vec<u64>,
    /// Files of every workspace, with their hashes.
    pub files: BTreeMap<String, String>,
    pub cache: Cache,
    /// Open streams, as the engine holds them.
    pub attached: Attached,
    /// While set nothing reaches the disk, and no effect runs: the group that these decisions are in is going to fail.
    pub failing: bool,
    /// Effects of decisions that never came to be.
    dropped: Vec<Effect>,
    heads: HashMap<u64, u64>,
    task_states: HashMap<u64, TaskState>,
}

/// This process's own uid.
pub fn admin() -> Caller {
    caller(Role::Admin, 1)
}

pub fn caller(role: Role, uid: u32) -> Caller {
    Caller::of_uid(uid, role)
}

fn dice() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
}

impl World {
    pub fn new(rules: Rules) -> World {
        World {
            state: State::new(rules),
            ids: Ids::new(0, dice),
            now: 1_700_000_000 * SECOND,
            disk: disk::Disk::new(),
            asked: BTreeMap::new(),
            offers: Vec::new(),
            delivered: Vec::new(),
            errors: Vec::new(),
            events: Vec::new(),
            notes: Vec::new(),
            looks: Vec::new(),
            files: BTreeMap::new(),
            cache: Cache::default(),
            attached: Attached::default(),
            failing: false,
            dropped: Vec::new(),
            heads: HashMap::new(),
            task_states: HashMap::new(),
        }
    }

    /// A decision that is never refused.
    pub fn must(&mut self, f: impl FnOnce(&mut State, &mut Step<'_>)) {
        self.step(|state, step| {
            f(state, step);
            Ok(())
        })
        .unwrap();
    }

    /// One decision, its commit, and everything that follows from it.
    pub fn step<R>(&mut self, f: impl FnOnce(&mut State, &mut Step<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let mut step = Step::new(self.now, &mut self.ids);
        let answer = f(&mut self.state, &mut step);
        let Step { facts, effects, .. } = step;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                assert!(
                    facts.is_empty() && effects.is_empty(),
                    "a refusal changed something: {error}"
                );
                return Err(error);
            }
        };
        let mut changes = store::Changes::default();
        for fact in &facts {
            changes.fact(fact, &self.state, self.now);
        }
        if self.failing {
            for fact in &facts {
                self.cache.follow(fact, &mut self.state, 0);
            }
            self.dropped.extend(effects);
            return Ok(answer);
        }
        self.disk.commit(changes);
        for fact in facts {
            self.note(fact);
        }
        for effect in effects {
            self.run(effect);
        }
        Ok(answer)
    }

    fn note(&mut self, fact: Fact) {
        self.cache.follow(&fact, &mut self.state, 0);
        match fact {
            Fact::Message {
                session, n, message, ..
            } => {
                let head = self.heads.entry(session).or_default();
                assert_eq!(n, *head + 1, "messages of a session are numbered without a hole");
                assert_eq!(message.sequence, n);
                *head = n;
                if message.role == i32::from(MessageRole::User) {
                    self.asked.insert((session, n), None);
                }
            }
            Fact::TurnEnded { session, n, over } => {
                let asked = self.asked.get_mut(&(session, n)).expect("a turn is of a message");
                assert!(
                    !matches!(asked, Some(TurnEnd::Answered { .. })),
                    "a message is answered once"
                );
                *asked = Some(over);
            }
            Fact::Turn { session, n } => {
                let asked = self.asked.get_mut(&(session, n)).expect("a turn is of a message");
                assert!(
                    !matches!(asked, Some(TurnEnd::Answered { .. })),
                    "an answered turn never opens again"
                );
                *asked = None;
            }
            Fact::Task(task) => {
                let Some(to) = self.state.tasks.get(task).map(|task| task.state()) else {
                    return;
                };
                let from = self.task_states.insert(task, to).unwrap_or(to);
                assert!(
                    from == to || reaches(from, to),
                    "{from:?} to {to:?} is not in the diagram"
                );
            }
            Fact::SessionGone { session, .. } => {
                self.asked.retain(|(of, _), _| *of != session);
                self.heads.remove(&session);
            }
            Fact::Event { event, .. } => self.events.push(event),
            Fact::Session(_)
            | Fact::Agent(_)
            | Fact::AgentGone(_)
            | Fact::Kept { .. }
            | Fact::TaskMade(_)
            | Fact::TaskMoved { .. }
            | Fact::Container(_)
            | Fact::ContainerGone(_)
            | Fact::SessionUsage(_)
            | Fact::UserUsage(_)
            | Fact::Run { .. }
            | Fact::RunStep { .. }
            | Fact::Call(_)
            | Fact::Approval(_)
            | Fact::Grant(_)
            | Fact::GrantGone(_)
            | Fact::Tool(_)
            | Fact::ToolStats(_)
            | Fact::ToolGone(_)
            | Fact::Stop(_)
            | Fact::SessionNote(_) => {}
        }
    }

    fn run(&mut self, effect: Effect) {
        match effect {
            Effect::Stored { session, n } => {
                self.cache.stored(session, n);
            }
            Effect::Dispatch { session } => self.dispatch(session),
            Effect::Offer { agent, request, .. } => self.offers.push((agent, *request)),
            Effect::Deliver { agent, message, .. } => self.delivered.push((agent, *message)),
            Effect::TurnEnded { error, .. } => self.errors.extend(error),
            Effect::Task { task, note } => {
                if matches!(note, Note::Complete(_) | Note::Failed(_)) {
                    self.state.tasks.remove(task);
                }
                self.notes.push((task, note));
            }
            Effect::Unlink { agent } => self.attached.agent_streams.retain(|(of, _)| *of != agent),
            Effect::Close { session, .. } => {
                // The streams of a session that was only closed are counted until they have ended.
                if self.state.sessions.get(session).is_none() {
                    self.attached.session_streams.retain(|of| *of != session);
                }
            }
            Effect::LookAtEdit { call } => self.looks.push(call),
            Effect::HashFiles { call } => self.hash_files(call),
            Effect::SessionGone { .. } | Effect::Run { .. } | Effect::Daemons | Effect::Containers => {}
        }
    }

    pub fn dispatch(&mut self, session: u64) {
        let committed = self.cache.committed(&self.state, session);
        self.step(|state, step| {
            state.dispatch(step, session, committed);
            Ok(())
        })
        .unwrap();
    }

    /// Lets time pass, looking at everything that comes due on the way.
    pub fn pass(&mut self, time: Time) {
        let end = self.now + time;
        while let Some(at) = self.state.timers.next().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let due = self.state.timers.pop(self.now).unwrap();
            self.step(|state, step| {
                match due {
                    Timer::Session(key) => state.session_due(step, key),
                    Timer::Turn(key) => state.turn_due(step, key),
                    Timer::Agent(key) => state.agent_due(step, key),
                    Timer::Task(key) => state.task_due(step, key),
                    Timer::Call(key) => state.call_due(step, key),
                }
                Ok(())
            })
            .unwrap();
        }
        self.now = end;
    }

    /// The process ends and starts again: what is not on disk is gone.
    pub fn restart(&mut self) {
        let (state, last) = store::load(&mut self.disk.read, self.state.rules.clone(), self.now).unwrap();
        self.state = state;
        self.cache = Cache::default();
        self.attached = Attached::default();
        self.failing = false;
        self.dropped.clear();
        self.ids = Ids::new(last, dice);
        let waiting: Vec<u64> = self.state.agents.waiting.iter().copied().collect();
        waiting.into_iter().for_each(|session| self.dispatch(session));
    }

    /// The group of the decisions since `failing` was set fails: the state is reloaded from disk.
    pub fn fail(&mut self) {
        self.failing = false;
        let (loaded, _) = store::load(&mut self.disk.read, self.state.rules.clone(), self.now).unwrap();
        let (state, effects) = self.state.reload(loaded, &self.attached);
        self.state = state;
        self.cache.reload(&self.state);
        for effect in std::mem::take(&mut self.dropped) {
            if let Effect::Offer {
                session,
                agent,
                request,
                ..
            } = effect
            {
                let correlation = request.metadata.unwrap_or_default().correlation_id;
                self.state.take_back_offer(session, agent, &correlation);
                self.dispatch(session);
            }
        }
        for effect in effects {
            self.run(effect);
        }
    }

    pub fn session(&mut self) -> u64 {
        self.step(|state, step| state.create_session(step, &admin(), SessionMetadata::default(), None))
            .unwrap()
    }

    pub fn say(&mut self, session: u64, text: &str) -> Result<u64, Error> {
        let message = Message {
            role: MessageRole::User.into(),
            content: text.into(),
            ..Message::default()
        };
        self.step(|state, step| state.add_message(step, session, message))
    }

    pub fn register(&mut self, name: &str) -> u64 {
        self.try_register(name).unwrap()
    }

    pub fn try_register(&mut self, name: &str) -> Result<u64, Error> {
        let capabilities = AgentCapabilities {
            supported_tasks: vec!["code-execution".into()],
            ..AgentCapabilities::default()
        };
        let request = RegisterRequest {
            name: name.into(),
            r#type: AgentType::Worker.into(),
            metadata: Some(AgentMetadata::default()),
            capabilities: Some(capabilities),
        };
        self.step(|state, step| state.register(step, &admin(), request))
    }

    /// Opens an agent's stream; returns its number.
    pub fn link(&mut self, agent: u64) -> u64 {
        let link = self.step(|state, step| Ok(state.link(step, agent).0)).unwrap();
        self.attached.agent_streams.retain(|(of, _)| *of != agent);
        self.attached.agent_streams.push((agent, link));
        link
    }

    pub fn unlink(&mut self, agent: u64, link: u64) {
        self.step(|state, step| {
            state.unlink(step, agent, link);
            Ok(())
        })
        .unwrap();
        self.attached.agent_streams.retain(|open| *open != (agent, link));
    }

    pub fn heartbeat(&mut self, agent: u64) -> Vec<String> {
        self.step(|state, step| Ok(state.heartbeat(step, agent, None, &[])))
            .unwrap()
    }

    pub fn answer(&mut self, agent: u64, session: u64, correlation: &str, text: &str) -> bool {
        self.step(|state, step| Ok(state.answer(step, agent, session, correlation, text.into(), HashMap::new())))
            .unwrap()
    }

    pub fn task(&mut self, agent: Option<u64>, config: TaskConfig) -> Result<u64, Error> {
        let agent_id = agent.and_then(|agent| self.state.agents.get(agent));
        let request = ExecuteTaskRequest {
            agent_id: agent_id.map(|agent| agent.id.to_string()).unwrap_or_default(),
            session_id: "s".into(),
            r#type: TaskType::CodeExecution.into(),
            config: Some(config),
            ..ExecuteTaskRequest::default()
        };
        self.step(|state, step| state.execute_task(step, &admin(), request))
    }

    /// Names of the events so far, and forgets them.
    pub fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
            .into_iter()
            .map(|event| event.name)
            .collect()
    }

    /// The correlation id of the newest offer, and whom it went to.
    pub fn offered(&self) -> (u64, String) {
        let (agent, request) = self.offers.last().expect("something was offered");
        (*agent, request.metadata.as_ref().unwrap().correlation_id.clone())
    }

    /// What must hold whenever everything is committed.
    pub fn check(&self) {
        let mut counted = 0;
        for session in self.state.sessions.iter() {
            counted += usize::from(match session.state {
                SessionState::Active => true,
                SessionState::Idle => session.streams() > 0,
                _ => false,
            });
            if session.next_look(self.state.rules.idle_timeout).is_some() {
                assert!(
                    self.state.timers.is_set(Timer::Session(session.key)),
                    "a session nobody looks at again"
                );
            }
            for (place, turn) in session.turns().iter().enumerate() {
                assert_eq!(
                    self.asked.get(&(session.key, turn.n)),
                    Some(&None),
                    "a turn is open or over, not both"
                );
                match turn.phase {
                    Phase::Running { agent, .. } => {
                        assert_eq!(place, 0, "one turn at a time, in order");
                        assert!(self.state.agents.get(agent).is_some_and(|agent| agent.link.is_some()));
                        assert!(self.state.agents.turns_of(agent) > 0);
                        assert!(
                            self.state.timers.is_set(Timer::Turn(session.key)),
                            "a turn that never times out"
                        );
                    }
                    Phase::Waiting { .. } if place == 0 => {
                        assert!(
                            self.state.agents.waiting.contains(&session.key),
                            "a turn that nobody remembers"
                        );
                        let timed = self.state.timers.is_set(Timer::Turn(session.key));
                        assert!(timed || self.state.agents.has_assistant(), "a turn that waits for ever");
                    }
                    Phase::Waiting { .. } => {}
                    Phase::Calls => {
                        assert_eq!(place, 0, "one turn at a time, in order");
                        let run = self.state.runs.get(session.key, turn.n).expect("calls are of a run");
                        let mut calls = run.calls.iter().filter_map(|call| self.state.calls.get(*call));
                        assert!(calls.any(|call| !call.is_over()), "a run that waits for nothing");
                    }
                }
            }
        }
        assert_eq!(
            (self.state.sessions.counted(), self.cache.bytes()),
            (counted, self.cache.counted_bytes())
        );
        for ((session, n), over) in self.asked.iter().filter(|(_, over)| over.is_none()) {
            let open = self
                .state
                .sessions
                .get(*session)
                .is_some_and(|session| session.turn_of(*n).is_some());
            assert!(open, "message {n} was neither answered nor failed: {over:?}");
        }
        for task in self.state.tasks.iter().filter(|task| !task.is_over()) {
            assert!(
                self.state.timers.is_set(Timer::Task(task.key)),
                "a task that never times out"
            );
        }
        for call in self.state.calls.iter().filter(|call| !call.is_over()) {
            let timed = self.state.timers.is_set(Timer::Call(call.key));
            let task = call
                .task
                .and_then(|task| self.state.tasks.get(task))
                .is_some_and(|task| !task.is_over());
            assert!(timed || task, "a call that waits for ever: {call:?}");
        }
        for agent in self.state.agents.iter().filter(|agent| agent.link.is_none()) {
            assert!(
                self.state.timers.is_set(Timer::Agent(agent.key)),
                "an agent that is never lost"
            );
        }
    }
}

/// True if the diagram leads from one state to another; one step may take two arrows.
fn reaches(from: TaskState, to: TaskState) -> bool {
    may_move(from, to) || (may_move(from, TaskState::Running) && may_move(TaskState::Running, to))
}
