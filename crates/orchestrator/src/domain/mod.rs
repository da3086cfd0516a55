//! What the orchestrator decides: sessions and their turns, agents and their tasks.
//!
//! Every method takes the state, a [`Step`] and arguments, checks first and changes last: an error means that nothing
//! changed. What has to be remembered goes into the step as a [`Fact`], what has to be done once that is on disk as an
//! [`Effect`]. Nothing here waits, reads a clock, draws a random number or knows how a fact is stored.

pub mod access;
pub mod agent;
pub mod approval;
pub mod call;
pub mod container;
pub mod error;
pub mod event;
pub mod filter;
pub mod ids;
pub mod message;
pub mod reload;
pub mod run;
pub mod session;
pub mod sessions;
pub mod shares;
pub mod step;
pub mod stop;
pub mod task;
pub mod timers;
pub mod tool;
pub mod turn;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use step::{Effect, Fact, Step, Time};

use std::collections::{BTreeSet, HashMap};

use agent::Agents;
use approval::Approvals;
use call::Calls;
use container::Containers;
use run::Runs;
use sessions::Sessions;
use shares::{Shares, Usage};
use stop::Stops;
use task::Tasks;
use timers::Timers;
use tool::Tools;

/// Limits and times that the configuration gives. Times are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Sessions that are ACTIVE, or IDLE with an open stream.
    pub max_sessions: usize,
    /// After this without a message an ACTIVE session is IDLE, unless it sets its own; 0 for never.
    pub idle_timeout: i64,
    pub max_agents: usize,
    /// Principals other than administrators that may register as an assistant.
    pub assistants: BTreeSet<String>,
    /// Principals other than administrators whose daemons may serve behind the front door.
    pub front_door: BTreeSet<String>,
    /// Principals other than administrators whose workers are given tool calls.
    pub workers: BTreeSet<String>,
    /// Messages kept for an agent that holds no stream.
    /// What each user may take.
    pub shares: Shares,
    pub max_kept_messages: usize,
    pub kept_message_ttl: i64,
    /// An agent without an open stream is lost after this long without a heartbeat.
    pub agent_ttl: i64,
    /// A lost agent is forgotten after this long.
    pub forget_agent_after: i64,
    pub max_open_tasks: usize,
    pub task_timeout: i64,
    pub task_expiry: i64,
    /// How long a turn waits for an assistant that was here a moment ago.
    pub assistant_grace: i64,
    /// How recently that must have been.
    pub assistant_recent: i64,
    /// Longest time from offering a turn to its answer.
    pub answer_timeout: i64,
    pub turns_per_assistant: usize,
    /// Turns of one session that may wait.
    pub max_queued_turns: usize,
    /// Whether a session that is closed takes its containers with it; otherwise they are only stopped.
    pub remove_containers: bool,
    /// The directory that holds the workspace of each session, by the session's id; empty: none.
    pub workspaces: String,
}

impl Default for Rules {
    fn default() -> Self {
        const SECOND: i64 = 1_000_000_000;
        Rules {
            max_sessions: 10_000,
            idle_timeout: 600 * SECOND,
            max_agents: 10_000,
            assistants: BTreeSet::new(),
            front_door: BTreeSet::new(),
            workers: BTreeSet::new(),
            shares: Shares::default(),
            max_kept_messages: 1_000,
            kept_message_ttl: 24 * 3600 * SECOND,
            agent_ttl: 90 * SECOND,
            forget_agent_after: 24 * 3600 * SECOND,
            max_open_tasks: 10_000,
            task_timeout: 1800 * SECOND,
            task_expiry: 24 * 3600 * SECOND,
            assistant_grace: 5 * SECOND,
            assistant_recent: 30 * SECOND,
            answer_timeout: 600 * SECOND,
            turns_per_assistant: 64,
            max_queued_turns: 1_000,
            remove_containers: true,
            workspaces: String::new(),
        }
    }
}

/// All that is live. What is over (closed sessions, finished tasks) is on disk and loaded when asked for.
#[derive(Debug)]
pub struct State {
    pub rules: Rules,
    pub sessions: Sessions,
    pub agents: Agents,
    pub tasks: Tasks,
    pub runs: Runs,
    pub calls: Calls,
    pub approvals: Approvals,
    pub tools: Tools,
    pub stops: Stops,
    /// What the next run of a session is told of the one before, which was interrupted.
    pub notes: HashMap<u64, String>,
    /// Background processes of sessions that are known to run; not on disk.
    pub processes: HashMap<u64, BTreeSet<String>>,
    pub containers: Containers,
    pub usage: Usage,
    pub timers: Timers,
    /// Until then nobody is given up for being silent or late: all were away, and none could help it.
    pub grace_until: Time,
}

impl State {
    /// How long after a wake everyone may take to be heard of: half a heartbeat more than the one between two.
    const WAKE_GRACE: Time = 45_000_000_000;

    /// The host slept, or this process was frozen.
    pub fn woke(&mut self, now: Time) {
        self.grace_until = now.saturating_add(Self::WAKE_GRACE);
    }

    /// Puts a timer that came due off, while there is grace.
    fn put_off(&mut self, step: &Step<'_>, timer: timers::Timer) -> bool {
        let off = step.now < self.grace_until;
        if off {
            self.timers.set(self.grace_until, timer);
        }
        off
    }

    pub fn new(rules: Rules) -> Self {
        let mut tools = Tools::default();
        tools.load_builtins(tool::builtin_tools(), 0);
        State {
            rules,
            sessions: Sessions::default(),
            agents: Agents::default(),
            tasks: Tasks::default(),
            runs: Runs::default(),
            calls: Calls::default(),
            approvals: Approvals::default(),
            tools,
            stops: Stops::default(),
            notes: HashMap::new(),
            processes: HashMap::new(),
            containers: Containers::default(),
            usage: Usage::default(),
            timers: Timers::default(),
            grace_until: 0,
        }
    }
}
