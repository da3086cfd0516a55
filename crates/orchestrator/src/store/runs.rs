//! The documents of runs, their steps and calls, of approvals and grants, of tools, and of what is stopped.
//!
//! Those of a session begin with its key, and go with it. A call, a run's approval and an execution are found by their own
//! ids with [`CALL_SESSION`], whose entries say in which session they are.

use std::collections::BTreeMap;

use bytes::Bytes;
use nexus_proto::common::v1::ToolDefinition;
use nexus_proto::orchestrator::v1::{
    Approval as WireApproval, Grant as WireGrant, Run as WireRun, RunCall, RunEnd, RunStep,
};
use nexus_proto::tool::v1::ToolUsageStats;
use nexus_store::{Op, Read, Table};
use prost::Message as _;

use super::{
    APPROVAL, CALL, CALL_OPEN, CALL_SESSION, END, GRANT, RUN, SESSION_NOTE, STEP, STOP, TOOL, TOOL_STATS, key, number,
    number_at, pair,
};
use crate::domain::approval::{Approval, Grant};
use crate::domain::call::{Call, Lock};
use crate::domain::run::{Ending, Guard, Run};
use crate::domain::stop::{Stopped, Stopping};
use crate::domain::timers::Timer;
use crate::domain::tool::Tool;
use crate::domain::turn::Phase;
use crate::domain::{Error, Fact, State, Time};

#[derive(Clone, PartialEq, prost::Message)]
struct RunDoc {
    #[prost(message, optional, tag = "1")]
    run: Option<WireRun>,
    /// Of the last finished step.
    #[prost(int32, tag = "2")]
    step: i32,
    #[prost(int64, optional, tag = "3")]
    next: Option<Time>,
    #[prost(int32, tag = "4")]
    ending: i32,
    #[prost(string, tag = "5")]
    ending_reason: String,
    #[prost(message, repeated, tag = "6")]
    same: Vec<SameDoc>,
    #[prost(string, tag = "7")]
    mistaken_tool: String,
    #[prost(uint32, tag = "8")]
    mistakes: u32,
    #[prost(int64, optional, tag = "9")]
    working: Option<Time>,
}

/// A call that came to the same result several times.
#[derive(Clone, PartialEq, prost::Message)]
struct SameDoc {
    #[prost(fixed64, tag = "1")]
    call: u64,
    #[prost(fixed64, tag = "2")]
    result: u64,
    #[prost(uint32, tag = "3")]
    times: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StepDoc {
    #[prost(message, optional, tag = "1")]
    step: Option<RunStep>,
    #[prost(fixed64, repeated, tag = "2")]
    calls: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CallDoc {
    #[prost(message, optional, tag = "1")]
    call: Option<RunCall>,
    #[prost(string, tag = "2")]
    session_id: String,
    #[prost(uint64, tag = "3")]
    n: u64,
    /// 0: of no run.
    #[prost(int32, tag = "4")]
    step: i32,
    #[prost(uint32, tag = "5")]
    lock: u32,
    #[prost(string, repeated, tag = "6")]
    paths: Vec<String>,
    #[prost(bool, tag = "7")]
    idempotent: bool,
    #[prost(bool, tag = "8")]
    edit: bool,
    #[prost(string, optional, tag = "9")]
    hash_before: Option<String>,
    #[prost(string, optional, tag = "10")]
    hash_after: Option<String>,
    #[prost(string, tag = "11")]
    definition_digest: String,
    #[prost(int64, tag = "12")]
    timeout: i64,
    #[prost(uint64, optional, tag = "13")]
    task: Option<u64>,
    #[prost(string, optional, tag = "14")]
    cancelled: Option<String>,
    #[prost(string, optional, tag = "15")]
    approved: Option<String>,
    #[prost(string, tag = "16")]
    caller: String,
    #[prost(string, tag = "17")]
    correlation_id: String,
    #[prost(string, repeated, tag = "18")]
    file_paths: Vec<String>,
    #[prost(string, repeated, tag = "19")]
    file_hashes: Vec<String>,
    #[prost(string, repeated, tag = "20")]
    not_covered: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ApprovalDoc {
    #[prost(message, optional, tag = "1")]
    approval: Option<WireApproval>,
    #[prost(uint64, tag = "2")]
    call: u64,
    #[prost(string, tag = "3")]
    plan_hash: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GrantDoc {
    #[prost(message, optional, tag = "1")]
    grant: Option<WireGrant>,
    #[prost(uint64, tag = "2")]
    session: u64,
    #[prost(string, tag = "3")]
    owner: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ToolDoc {
    #[prost(message, optional, tag = "1")]
    definition: Option<ToolDefinition>,
    #[prost(string, tag = "2")]
    owner: String,
    #[prost(int64, tag = "3")]
    registered: Time,
    #[prost(int64, tag = "4")]
    updated: Time,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StopDoc {
    #[prost(int64, tag = "1")]
    since: Time,
    #[prost(string, tag = "2")]
    by: String,
    #[prost(string, tag = "3")]
    reason: String,
}

/// Tables whose documents go with their session.
pub const OF_SESSION: [Table; 4] = [RUN, STEP, CALL, APPROVAL];

/// The changes that a fact about runs asks for.
pub fn ops(fact: &Fact, state: &State, out: &mut Vec<Op>) {
    match fact {
        Fact::Run { session, n } => {
            if let Some(run) = state.runs.get(*session, *n) {
                out.push(put(RUN, pair(*session, *n), &run_doc(run)));
            }
        }
        Fact::RunStep { session, n } => {
            if let Some(run) = state.runs.get(*session, *n) {
                let doc = StepDoc {
                    step: Some(run.step.clone()),
                    calls: run.calls.clone(),
                };
                out.push(put(STEP, step_key(*session, *n, run.step.number), &doc));
            }
        }
        Fact::Call(call) => {
            let Some(call) = state.calls.get(*call) else { return };
            let at = pair(call.session, call.key);
            if call.wire.attempt == 0 {
                out.push(Op::Put {
                    table: CALL_SESSION,
                    key: key(call.key),
                    value: key(call.session),
                });
            }
            let open = if call.is_over() {
                Op::Delete {
                    table: CALL_OPEN,
                    key: at.clone(),
                }
            } else {
                Op::Put {
                    table: CALL_OPEN,
                    key: at.clone(),
                    value: Bytes::new(),
                }
            };
            out.push(open);
            out.push(put(CALL, at, &call_doc(call)));
        }
        Fact::Approval(approval) => {
            let Some(approval) = state.approvals.get(*approval) else {
                return;
            };
            let doc = ApprovalDoc {
                approval: Some(approval.wire.clone()),
                call: approval.call,
                plan_hash: approval.plan_hash.clone(),
            };
            out.push(put(APPROVAL, pair(approval.session, approval.key), &doc));
            out.push(Op::Put {
                table: CALL_SESSION,
                key: key(approval.key),
                value: key(approval.session),
            });
        }
        Fact::Grant(grant) => {
            let Some(grant) = state.approvals.grant(*grant) else {
                return;
            };
            let doc = GrantDoc {
                grant: Some(grant.wire.clone()),
                session: grant.session,
                owner: grant.owner.to_string(),
            };
            out.push(put(GRANT, key(grant.key), &doc));
        }
        Fact::GrantGone(grant) => out.push(Op::Delete {
            table: GRANT,
            key: key(*grant),
        }),
        Fact::Tool(name) => {
            let Some(tool) = state.tools.get(name) else { return };
            let doc = ToolDoc {
                definition: Some(tool.definition.clone()),
                owner: tool.owner.to_string(),
                registered: tool.registered,
                updated: tool.updated,
            };
            out.push(put(TOOL, named(name), &doc));
        }
        Fact::ToolStats(name) => {
            if let Some(tool) = state.tools.get(name) {
                out.push(put(TOOL_STATS, named(name), &tool.stats));
            }
        }
        Fact::ToolGone(name) => out.extend([TOOL, TOOL_STATS].map(|table| Op::Delete {
            table,
            key: named(name),
        })),
        Fact::Stop(what) => out.push(match state.stops.get(what) {
            Some(stopping) => put(
                STOP,
                stop_key(what),
                &StopDoc {
                    since: stopping.since,
                    by: stopping.by.clone(),
                    reason: stopping.reason.clone(),
                },
            ),
            // What cannot be read goes too, once somebody resumed all.
            None if *what == Stopped::All => Op::DeleteRange {
                table: STOP,
                from: Bytes::new(),
                to: Bytes::copy_from_slice(&END),
            },
            None => Op::Delete {
                table: STOP,
                key: stop_key(what),
            },
        }),
        Fact::SessionNote(session) => out.push(match state.notes.get(session) {
            Some(note) => Op::Put {
                table: SESSION_NOTE,
                key: key(*session),
                value: Bytes::copy_from_slice(note.as_bytes()),
            },
            None => Op::Delete {
                table: SESSION_NOTE,
                key: key(*session),
            },
        }),
        _ => {}
    }
}

fn put(table: Table, key: Bytes, doc: &impl prost::Message) -> Op {
    Op::Put {
        table,
        key,
        value: doc.encode_to_vec().into(),
    }
}

fn named(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// The steps of a run sort by their numbers.
pub fn step_key(session: u64, n: u64, step: i32) -> Bytes {
    [&pair(session, n)[..], &u64::from(step.unsigned_abs()).to_be_bytes()]
        .concat()
        .into()
}

fn stop_key(what: &Stopped) -> Bytes {
    match what {
        Stopped::All => Bytes::from_static(b"all"),
        Stopped::Agent(id) => format!("agent/{id}").into(),
    }
}

fn run_doc(run: &Run) -> RunDoc {
    let same = run.guard.same.iter();
    RunDoc {
        run: Some(run.wire.clone()),
        step: run.step.number,
        next: run.next,
        ending: run.ending.as_ref().map_or(0, |ending| ending.end.into()),
        ending_reason: run
            .ending
            .as_ref()
            .map(|ending| ending.reason.clone())
            .unwrap_or_default(),
        same: same
            .map(|(call, (result, times))| SameDoc {
                call: *call,
                result: *result,
                times: *times,
            })
            .collect(),
        mistaken_tool: run.guard.mistakes.0.clone(),
        mistakes: run.guard.mistakes.1,
        working: run.working,
    }
}

fn call_doc(call: &Call) -> CallDoc {
    let (lock, paths) = match &call.lock {
        Lock::Alone => (0, Vec::new()),
        Lock::Read => (1, Vec::new()),
        Lock::Nothing => (4, Vec::new()),
        Lock::Write(paths) => (2, paths.clone()),
        Lock::Exec => (3, Vec::new()),
    };
    CallDoc {
        call: Some(call.wire.clone()),
        session_id: call.session_id.to_string(),
        n: call.step.map_or(0, |(n, _)| n),
        step: call.step.map_or(0, |(_, step)| step),
        lock,
        paths,
        idempotent: call.idempotent,
        edit: call.edit,
        hash_before: call.hashes.as_ref().map(|(before, _)| before.clone()),
        hash_after: call.hashes.as_ref().map(|(_, after)| after.clone()),
        definition_digest: call.definition_digest.clone(),
        timeout: call.timeout,
        task: call.task,
        cancelled: call.cancelled.clone(),
        approved: call.approved.clone(),
        caller: call.caller.to_string(),
        correlation_id: call.correlation_id.clone(),
        file_paths: call.files.iter().map(|(path, _)| path.clone()).collect(),
        file_hashes: call.files.iter().map(|(_, hash)| hash.clone()).collect(),
        not_covered: call.not_covered.clone(),
    }
}

fn decode<M: prost::Message + Default>(what: &str, value: &[u8]) -> Result<M, nexus_store::Error> {
    M::decode(value).map_err(|e| super::damaged(format!("{what}: {e}")))
}

/// Reads a call document.
pub fn call(at: &[u8], value: &[u8]) -> Result<Call, nexus_store::Error> {
    let doc = decode::<CallDoc>("a call", value)?;
    let lock = match doc.lock {
        1 => Lock::Read,
        4 => Lock::Nothing,
        2 => Lock::Write(doc.paths),
        3 => Lock::Exec,
        _ => Lock::Alone,
    };
    Ok(Call {
        session: number(at)?,
        session_id: doc.session_id.into(),
        step: (doc.step > 0).then_some((doc.n, doc.step)),
        wire: doc.call.unwrap_or_default(),
        lock,
        idempotent: doc.idempotent,
        edit: doc.edit,
        hashes: doc.hash_before.zip(doc.hash_after),
        definition_digest: doc.definition_digest,
        timeout: doc.timeout,
        task: doc.task,
        cancelled: doc.cancelled,
        approved: doc.approved,
        caller: doc.caller.into(),
        correlation_id: doc.correlation_id,
        files: doc.file_paths.into_iter().zip(doc.file_hashes).collect(),
        not_covered: doc.not_covered,
        ..Call::empty(number_at(at, 8)?)
    })
}

/// Reads an approval document.
pub fn approval(at: &[u8], value: &[u8]) -> Result<Approval, nexus_store::Error> {
    let doc = decode::<ApprovalDoc>("an approval", value)?;
    Ok(Approval {
        key: number_at(at, 8)?,
        session: number(at)?,
        call: doc.call,
        wire: doc.approval.unwrap_or_default(),
        plan_hash: doc.plan_hash,
    })
}

/// Reads a run's document: the run without steps, and the number of its last finished step.
pub fn run_header(value: &[u8]) -> Result<WireRun, nexus_store::Error> {
    Ok(decode::<RunDoc>("a run", value)?.run.unwrap_or_default())
}

/// Reads a step with its calls.
pub fn step_with_calls(read: &mut dyn Read, session: u64, value: &[u8]) -> Result<RunStep, nexus_store::Error> {
    let doc = decode::<StepDoc>("a step", value)?;
    let mut step = doc.step.unwrap_or_default();
    for found in doc.calls {
        let at = pair(session, found);
        if let Some(value) = read.get(CALL, &at)? {
            step.calls.push(call(&at, &value)?.wire);
        }
    }
    Ok(step)
}

/// Adds what is open of runs and calls to a state whose turns and agents are loaded, and the tools, grants and stops.
/// Returns the highest key in use.
pub fn load(read: &mut dyn Read, state: &mut State, now: Time) -> Result<u64, nexus_store::Error> {
    let mut last = 0;
    let turns: Vec<(u64, u64)> = state
        .sessions
        .iter()
        .flat_map(|session| session.turns().iter().map(|turn| (session.key, turn.n)))
        .collect();
    for (session, n) in turns {
        if let Some(value) = read.get(RUN, &pair(session, n))? {
            load_run(read, state, (session, n), &value)?;
        }
    }
    for (at, _) in read.scan(CALL_OPEN, &[], &END, usize::MAX)? {
        let Some(value) = read.get(CALL, &at)? else { continue };
        load_call(read, state, call(&at, &value)?, now)?;
    }
    for (at, value) in read.scan(GRANT, &[], &END, usize::MAX)? {
        let doc = decode::<GrantDoc>("a grant", &value)?;
        state.approvals.insert_grant(Grant {
            key: number(&at)?,
            session: doc.session,
            owner: doc.owner.into(),
            wire: doc.grant.unwrap_or_default(),
        });
        last = last.max(number(&at)?);
    }
    load_tools(read, state)?;
    load_stops(read, state)?;
    for (at, value) in read.scan(SESSION_NOTE, &[], &END, usize::MAX)? {
        state
            .notes
            .insert(number(&at)?, String::from_utf8_lossy(&value).into_owned());
    }
    if let Some(key) = read.last(CALL_SESSION)? {
        last = last.max(number(&key)?);
    }
    Ok(last)
}

fn load_run(read: &mut dyn Read, state: &mut State, at: (u64, u64), value: &[u8]) -> Result<(), nexus_store::Error> {
    let (session, n) = at;
    let doc = decode::<RunDoc>("a run", value)?;
    let wire = doc.run.unwrap_or_default();
    let turn = state.sessions.get(session).and_then(|session| session.turn_of(n));
    let same_run = turn.is_some_and(|turn| crate::domain::run::run_id(session, turn) == wire.id);
    if !same_run {
        return Ok(()); // of an earlier try of the same message
    }
    let step = match read.get(STEP, &step_key(session, n, doc.step))? {
        Some(value) => decode::<StepDoc>("a step", &value)?,
        None => StepDoc::default(),
    };
    let same = doc.same.into_iter().map(|same| (same.call, (same.result, same.times)));
    let ending = RunEnd::try_from(doc.ending)
        .ok()
        .filter(|end| *end != RunEnd::Unspecified);
    let guard = Guard {
        same: same.collect::<BTreeMap<_, _>>(),
        mistakes: (doc.mistaken_tool, doc.mistakes),
    };
    for key in &step.calls {
        let at = pair(session, *key);
        if let Some(value) = read.get(CALL, &at)? {
            state.calls.insert(call(&at, &value)?);
        }
    }
    for (at, value) in read.scan(APPROVAL, &key(session), &super::above(session), usize::MAX)? {
        let found = approval(&at, &value)?;
        if found.wire.run_id == wire.id && found.wire.state() == nexus_proto::orchestrator::v1::ApprovalState::Denied {
            state.approvals.load_denied(session, n, found.plan_hash);
        }
    }
    let calls_run = doc.next.is_none();
    state.runs.insert(Run {
        session,
        n,
        wire,
        step: step.step.unwrap_or_default(),
        calls: step.calls,
        next: doc.next,
        working: doc.working,
        ending: ending.map(|end| Ending {
            end,
            reason: doc.ending_reason,
        }),
        guard,
    });
    if calls_run {
        state.agents.waiting.remove(&session);
        state.load_phase(session, n, Phase::Calls);
    }
    Ok(())
}

fn load_call(read: &mut dyn Read, state: &mut State, mut call: Call, now: Time) -> Result<(), nexus_store::Error> {
    use nexus_proto::orchestrator::v1::CallState;
    let key = call.key;
    let approval_key = crate::domain::ids::number(&call.wire.approval_id);
    if let Some(found) = approval_key {
        let at = pair(call.session, found);
        if let Some(value) = read.get(APPROVAL, &at)? {
            let found = approval(&at, &value)?;
            if let Some(expires) = found
                .wire
                .expires_at
                .as_ref()
                .filter(|_| call.state() == CallState::Asked)
            {
                state.timers.set(crate::domain::event::time(expires), Timer::Call(key));
            }
            state.approvals.insert(found);
        }
    }
    if call.state() != CallState::Asked {
        // Everybody was away with us: each patience begins anew.
        let due = now.saturating_add(state.rules.agent_ttl);
        let patient = call.state() != CallState::Running || call.cancelled.is_some();
        call.due = patient.then_some(due);
        if patient {
            state.timers.set(due, Timer::Call(key));
        }
    }
    if call.state() == CallState::Allowed {
        state.calls.load_waiting(key);
    }
    state.calls.insert(call);
    Ok(())
}

fn load_tools(read: &mut dyn Read, state: &mut State) -> Result<(), nexus_store::Error> {
    for (name, value) in read.scan(TOOL, &[], &END, usize::MAX)? {
        let doc = decode::<ToolDoc>("a tool", &value)?;
        let stats = match read.get(TOOL_STATS, &name)? {
            Some(value) => decode::<ToolUsageStats>("the numbers of a tool", &value)?,
            None => ToolUsageStats::default(),
        };
        state.tools.insert(Tool {
            definition: doc.definition.unwrap_or_default(),
            owner: doc.owner.into(),
            registered: doc.registered,
            updated: doc.updated,
            stats,
        });
    }
    Ok(())
}

/// Numbers of tools that come with Nexus and were never changed have no document of their own.
pub fn builtin_stats(read: &mut dyn Read, state: &mut State) -> Result<(), nexus_store::Error> {
    let names: Vec<String> = state.tools.iter().map(|tool| tool.definition.name.clone()).collect();
    for name in names {
        if let Some(value) = read.get(TOOL_STATS, name.as_bytes())? {
            state
                .tools
                .load_stats(&name, decode::<ToolUsageStats>("the numbers of a tool", &value)?);
        }
    }
    Ok(())
}

/// A stop that cannot be read stops everything.
fn load_stops(read: &mut dyn Read, state: &mut State) -> Result<(), nexus_store::Error> {
    for (at, value) in read.scan(STOP, &[], &END, usize::MAX)? {
        let what = match std::str::from_utf8(&at) {
            Ok("all") => Some(Stopped::All),
            Ok(text) => text.strip_prefix("agent/").map(|id| Stopped::Agent(id.to_owned())),
            Err(_) => None,
        };
        match (what, StopDoc::decode(value)) {
            (Some(what), Ok(doc)) => state.stops.load(
                what,
                Stopping {
                    since: doc.since,
                    by: doc.by,
                    reason: doc.reason,
                },
            ),
            _ => state.stops.unreadable = true,
        }
    }
    Ok(())
}

/// So that callers outside of the loading can use `?` on an engine's error.
pub fn found<T>(result: Result<T, nexus_store::Error>) -> Result<T, Error> {
    result.map_err(Error::Store)
}

impl super::Stored {
    /// A run without its steps.
    pub async fn run_header(&self, session: u64, n: u64) -> Result<Option<WireRun>, Error> {
        let kept = self.reader.get(RUN, pair(session, n).to_vec()).await?;
        found(kept.map(|value| run_header(&value)).transpose())
    }

    /// A run and its finished steps, with their calls.
    pub async fn run(&self, session: u64, n: u64) -> Result<Option<(WireRun, Vec<RunStep>)>, Error> {
        let read = move |read: &mut dyn Read| {
            let Some(value) = read.get(RUN, &pair(session, n))? else {
                return Ok(None);
            };
            let run = run_header(&value)?;
            let (from, to) = (step_key(session, n, 0), step_key(session, n, i32::MAX));
            let mut steps = Vec::new();
            for (_, value) in read.scan(STEP, &from, &to, MOST_STEPS)? {
                steps.push(step_with_calls(read, session, &value)?);
            }
            // Steps of an earlier run of the same message may lie behind those of this one.
            steps.retain(|step| step.number <= run.step_count);
            Ok(Some((run, steps)))
        };
        Ok(self.reader.run(read).await?)
    }

    /// The session of a call or an approval, by its key.
    async fn session_of(&self, own: u64) -> Result<Option<u64>, Error> {
        let kept = self.reader.get(CALL_SESSION, key(own).to_vec()).await?;
        found(kept.map(|value| number(&value)).transpose())
    }

    pub async fn approval(&self, own: u64) -> Result<Option<Approval>, Error> {
        let Some(session) = self.session_of(own).await? else {
            return Ok(None);
        };
        let at = pair(session, own);
        let kept = self.reader.get(APPROVAL, at.to_vec()).await?;
        found(kept.map(|value| approval(&at, &value)).transpose())
    }

    pub async fn call(&self, own: u64) -> Result<Option<Call>, Error> {
        let Some(session) = self.session_of(own).await? else {
            return Ok(None);
        };
        let at = pair(session, own);
        let kept = self.reader.get(CALL, at.to_vec()).await?;
        found(kept.map(|value| call(&at, &value)).transpose())
    }

    /// Approvals of one session or of all, after a place, at most `limit`, and where to go on.
    pub async fn approvals(
        &self,
        session: Option<u64>,
        after: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<(Vec<Approval>, Option<(u64, u64)>), Error> {
        let read = move |read: &mut dyn Read| {
            let (from, to) = bounds(session, after);
            let documents = read.scan(APPROVAL, &from, &to, limit)?;
            let approvals = documents.iter().map(|(at, value)| approval(at, value));
            let approvals = approvals.collect::<Result<Vec<_>, _>>()?;
            let last = approvals.last().map(|last| (last.session, last.key));
            let full = approvals.len() == limit;
            Ok((approvals, last.filter(|_| full)))
        };
        Ok(self.reader.run(read).await?)
    }

    /// Calls of one session or of all, as [`Stored::approvals`].
    pub async fn calls(
        &self,
        session: Option<u64>,
        after: Option<(u64, u64)>,
        limit: usize,
    ) -> Result<(Vec<Call>, Option<(u64, u64)>), Error> {
        let read = move |read: &mut dyn Read| {
            let (from, to) = bounds(session, after);
            let documents = read.scan(CALL, &from, &to, limit)?;
            let calls = documents.iter().map(|(at, value)| call(at, value));
            let calls = calls.collect::<Result<Vec<_>, _>>()?;
            let last = calls.last().map(|last| (last.session, last.key));
            let full = calls.len() == limit;
            Ok((calls, last.filter(|_| full)))
        };
        Ok(self.reader.run(read).await?)
    }
}

/// Most finished steps that one run can have, and some.
const MOST_STEPS: usize = 1_000;

fn bounds(session: Option<u64>, after: Option<(u64, u64)>) -> (Bytes, Bytes) {
    let from = match (after, session) {
        (Some((session, own)), _) => pair(session, own.saturating_add(1)),
        (None, Some(session)) => key(session),
        (None, None) => Bytes::new(),
    };
    let to = session.map_or_else(|| Bytes::copy_from_slice(&END), super::above);
    (from, to)
}
