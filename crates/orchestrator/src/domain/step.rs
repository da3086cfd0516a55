//! The result of one decision: facts to be made durable, and effects that follow once they are.

use std::sync::Arc;

use nexus_proto::agent::v1::AgentMessage;
use nexus_proto::orchestrator::v1::{Event, Message, RunEvent};

use super::ids::Ids;

/// Wall clock in nanoseconds since the epoch; never falls from one step to the next.
pub type Time = i64;

/// Something that must not be forgotten. The order of facts is the order of the log.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a step has few facts, and most of them are events: a box would be one more allocation for each"
)]
pub enum Fact {
    /// A message of a session, which is also the event `message.sent`.
    Message {
        session: u64,
        n: u64,
        message: Arc<Message>,
        origin: MessageOrigin,
    },
    /// An event, of a session or of nothing (0).
    Event {
        session: u64,
        event: Event,
    },
    /// These have changed; their present state is saved.
    Session(u64),
    Agent(u64),
    Task(u64),
    /// A turn began, changed its attempt, or is over.
    Turn {
        session: u64,
        n: u64,
    },
    TurnEnded {
        session: u64,
        n: u64,
        over: super::turn::TurnEnd,
    },
    AgentGone(u64),
    /// A message for an agent that holds no stream; `None` once it was delivered.
    Kept {
        agent: u64,
        n: u64,
        message: Option<Box<super::agent::Kept>>,
    },
    /// For good: messages, events, turns, everything.
    SessionGone {
        session: u64,
        creator: Arc<str>,
        owner: String,
    },
    /// A task is new, or another agent has it now.
    TaskMade(u64),
    TaskMoved {
        task: u64,
        from: Option<u64>,
    },
    Container(u64),
    ContainerGone(u64),
    /// A run was created or moved, or its last finished step changed.
    Run {
        session: u64,
        n: u64,
    },
    RunStep {
        session: u64,
        n: u64,
    },
    Call(u64),
    Approval(u64),
    Grant(u64),
    GrantGone(u64),
    Tool(String),
    ToolStats(String),
    ToolGone(String),
    /// It is stopped, or not any more.
    Stop(super::stop::Stopped),
    /// What the next run of a session is told changed.
    SessionNote(u64),
    /// What is kept of a session, or of a user, is another number of bytes now.
    SessionUsage(u64),
    UserUsage(Arc<str>),
}

/// Where a message came from.
#[derive(Clone, Copy, Debug)]
pub enum MessageOrigin {
    /// From a client, which may have chosen its id.
    Client { chose_id: bool },
    /// The answer of an assistant, which may have been shown in pieces before.
    Answer { in_pieces: bool },
}

/// What follows a commit, in this order, beside the answer to the caller.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Messages up to `n` are durable: readers of the session may have them.
    Stored { session: u64, n: u64 },
    /// Gives the next waiting turn of a session to an assistant.
    Dispatch { session: u64 },
    /// Offers a turn to an assistant; the content of message `n` is still to be filled in.
    Offer {
        session: u64,
        n: u64,
        agent: u64,
        request: Box<AgentMessage>,
    },
    /// A turn is over: whoever waits for its answer is told, with the error where there is one.
    TurnEnded { session: u64, n: u64, error: Option<Event> },
    /// A session is gone for good, and so are its files.
    SessionGone { id: Arc<str> },
    /// Ends the streams of a session.
    Close { session: u64, id: Arc<str> },
    /// Hands a message to an agent that holds a stream. Mail is kept where that fails, or ends before it was read.
    Deliver {
        agent: u64,
        message: Box<AgentMessage>,
        mail: bool,
    },
    /// A task moved: whoever watches or works it is told.
    Task { task: u64, note: super::task::Note },
    /// The files that a call names are to be hashed.
    HashFiles { call: u64 },
    /// The worker of an edit was lost: the file says whether the edit was done.
    LookAtEdit { call: u64 },
    /// News of a run, for those who watch it.
    Run { session: u64, event: Box<RunEvent> },
    /// The set of registered daemons changed.
    Daemons,
    /// Containers are to be stopped, started or removed.
    Containers,
    /// An agent's stream has to end: it is gone, or another took over.
    Unlink { agent: u64 },
}

/// One decision in the making.
#[derive(Debug)]
pub struct Step<'a> {
    pub now: Time,
    pub ids: &'a mut Ids,
    pub facts: Vec<Fact>,
    pub effects: Vec<Effect>,
    /// False for what must work on a nearly full disk.
    pub grows: bool,
}

impl<'a> Step<'a> {
    pub fn new(now: Time, ids: &'a mut Ids) -> Self {
        // Most decisions have one or two of each, and both are large.
        Step {
            now,
            ids,
            facts: Vec::with_capacity(2),
            effects: Vec::with_capacity(2),
            grows: true,
        }
    }

    pub fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}
