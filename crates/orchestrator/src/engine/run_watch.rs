//! Those who watch runs: each with a bounded queue, in which what does not fit becomes a gap.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nexus_proto::orchestrator::v1::{EventGap, RunEvent, RunState, TextDelta, run_event::Kind};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::outlets::Outlet;
use super::{Engine, Ledger, wall};
use crate::domain::run::run_event;

/// News that may wait for a watcher that does not read.
const QUEUED: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct RunWatchers {
    last: u64,
    of_session: HashMap<u64, Vec<Arc<RunWatcher>>>,
    /// Those that want the approvals of every session.
    everywhere: Vec<Arc<RunWatcher>>,
}

/// What a watcher is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    Session,
    /// One run; the watch ends with it.
    Run(String),
    /// One call.
    Call(String),
    /// Approvals only; of one session, or of all that this principal made (`None`: of all).
    Approvals(Option<Arc<str>>),
}

#[derive(Debug)]
pub struct RunWatcher {
    id: u64,
    session: Option<u64>,
    shown: Shown,
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    frames: VecDeque<RunEvent>,
    gap: Option<EventGap>,
    ended: bool,
}

impl RunWatcher {
    fn push(&self, event: &RunEvent) {
        let ends = match (&self.shown, &event.kind) {
            (Shown::Run(id), kind) => {
                if *id != event.run_id {
                    return;
                }
                matches!(kind, Some(Kind::Run(run)) if run.state() == RunState::Ended)
            }
            (Shown::Call(id), Some(Kind::Call(update))) if update.call.as_ref().is_some_and(|call| call.id == *id) => {
                false
            }
            (Shown::Call(id), Some(Kind::Output(output))) if output.call_id == *id => false,
            (Shown::Call(_), _) => return,
            (Shown::Session, _) | (Shown::Approvals(_), Some(Kind::Approval(_))) => false,
            (Shown::Approvals(_), _) => return,
        };
        let mut queue = self.queue.lock();
        if queue.ended {
            return;
        }
        queue.next += 1;
        let cursor = queue.next;
        if queue.frames.len() >= QUEUED {
            let gap = queue.gap.get_or_insert(EventGap {
                first: cursor,
                last: cursor,
            });
            gap.last = cursor;
        } else {
            queue.frames.push_back(RunEvent {
                cursor,
                ..event.clone()
            });
        }
        queue.ended = ends;
        drop(queue);
        self.more.notify_one();
    }

    pub fn end(&self) {
        self.queue.lock().ended = true;
        self.more.notify_one();
    }

    /// The next piece of news; `None` at the end.
    pub async fn next(&self) -> Option<RunEvent> {
        loop {
            {
                let mut queue = self.queue.lock();
                if let Some(frame) = queue.frames.pop_front() {
                    return Some(frame);
                }
                if let Some(gap) = queue.gap.take() {
                    let mut event = run_event(wall(), "", "", Kind::Gap(gap));
                    event.cursor = gap.last;
                    return Some(event);
                }
                if queue.ended {
                    return None;
                }
            }
            self.more.notified().await;
        }
    }
}

impl Outlet for RunWatchers {}

impl RunWatchers {
    pub fn tell(&self, session: u64, creator: &str, event: &RunEvent) {
        let of_session = self.of_session.get(&session).into_iter().flatten();
        of_session.for_each(|watcher| watcher.push(event));
        let wants = |watcher: &&Arc<RunWatcher>| match &watcher.shown {
            Shown::Approvals(Some(principal)) => **principal == *creator,
            _ => true,
        };
        self.everywhere
            .iter()
            .filter(wants)
            .for_each(|watcher| watcher.push(event));
    }

    pub fn end_session(&mut self, session: u64) {
        let ended = self.of_session.remove(&session);
        ended.into_iter().flatten().for_each(|watcher| watcher.end());
    }
}

impl Ledger {
    /// Tells those who watch a session, or all approvals.
    pub fn tell_run(&self, session: u64, event: &RunEvent) {
        let creator = self.state.sessions.get(session).map(|session| session.creator.clone());
        if let Some(watchers) = self.outlets.get::<RunWatchers>() {
            watchers.tell(session, creator.as_deref().unwrap_or_default(), event);
        }
    }

    /// A piece of the text, or of the thoughts, of the step that a model answers.
    pub fn tell_text(&self, session: u64, text: &str, index: u64, thinking: bool) {
        let watched = self
            .outlets
            .get::<RunWatchers>()
            .is_some_and(|watchers| watchers.of_session.contains_key(&session));
        if !watched {
            return;
        }
        let Some(found) = self.state.sessions.get(session) else {
            return;
        };
        let Some(turn) = found.turn() else { return };
        let delta = TextDelta {
            step: turn.step,
            text: text.into(),
            index,
            thinking,
        };
        let run = crate::domain::run::run_id(session, turn);
        self.tell_run(session, &run_event(wall(), &found.id, &run, Kind::Text(delta)));
    }

    /// Tells a watcher of one run that it was over before the watch began.
    pub fn tell_ended(&self, watcher: &RunWatcher, run: &nexus_proto::orchestrator::v1::Run) {
        watcher.push(&run_event(wall(), &run.session_id, &run.id, Kind::Run(run.clone())));
    }

    /// What is known of the runs of a session that are not over: the runs, their steps and calls, and open approvals.
    fn known_runs(&self, session: u64) -> Vec<RunEvent> {
        let Some(found) = self.state.sessions.get(session) else {
            return Vec::new();
        };
        let now = wall();
        let mut events = Vec::new();
        for turn in found.turns() {
            let id = crate::domain::run::run_id(session, turn);
            let mut add = |kind| events.push(run_event(now, &found.id, &id, kind));
            if let Some(run) = self.state.run_view(session, turn.n) {
                add(Kind::Run(run));
            }
            if let Some(run) = self.state.runs.get(session, turn.n) {
                add(Kind::Step(self.state.step_with_calls(run)));
            }
            if let Some(step) = self.state.current_step(session, turn.n) {
                add(Kind::Step(step));
            }
        }
        let pending = self
            .state
            .approvals
            .pending()
            .filter(|approval| approval.session == session);
        events.extend(pending.map(|approval| {
            let wire = &approval.wire;
            run_event(now, &wire.session_id, &wire.run_id, Kind::Approval(wire.clone()))
        }));
        events
    }
}

impl Engine {
    /// Watches a session's runs, one run, or approvals: first what is known of those that are not over.
    pub fn watch_runs(&self, session: Option<u64>, shown: Shown) -> Arc<RunWatcher> {
        self.look_mut(|ledger| {
            let watchers = ledger.outlets.of::<RunWatchers>();
            watchers.last += 1;
            let watcher = Arc::new(RunWatcher {
                id: watchers.last,
                session,
                shown,
                queue: Mutex::default(),
                more: Notify::new(),
            });
            let known = match (session, &watcher.shown) {
                (Some(session), _) => ledger.known_runs(session),
                (None, Shown::Approvals(of)) => ledger.known_approvals(of.as_deref()),
                (None, _) => Vec::new(),
            };
            known.iter().for_each(|event| watcher.push(event));
            match session {
                Some(session) => {
                    let watchers = &mut ledger.outlets.of::<RunWatchers>().of_session;
                    watchers.entry(session).or_default().push(watcher.clone());
                }
                None => ledger.outlets.of::<RunWatchers>().everywhere.push(watcher.clone()),
            }
            watcher
        })
    }

    pub fn unwatch_runs(&self, watcher: &RunWatcher) {
        self.look_mut(|ledger| {
            let all = ledger.outlets.of::<RunWatchers>();
            let Some(session) = watcher.session else {
                return all.everywhere.retain(|other| other.id != watcher.id);
            };
            if let Some(watchers) = all.of_session.get_mut(&session) {
                watchers.retain(|other| other.id != watcher.id);
                if watchers.is_empty() {
                    all.of_session.remove(&session);
                }
            }
        });
    }
}

impl Ledger {
    fn known_approvals(&self, of: Option<&str>) -> Vec<RunEvent> {
        let now = wall();
        let mine = |session: u64| {
            of.is_none_or(|of| {
                self.state
                    .sessions
                    .get(session)
                    .is_some_and(|session| *session.creator == *of)
            })
        };
        let pending = self.state.approvals.pending().filter(|approval| mine(approval.session));
        let event = |wire: &nexus_proto::orchestrator::v1::Approval| {
            run_event(now, &wire.session_id, &wire.run_id, Kind::Approval(wire.clone()))
        };
        pending.map(|approval| event(&approval.wire)).collect()
    }
}
