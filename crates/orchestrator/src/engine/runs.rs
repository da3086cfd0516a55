//! The calls about runs: an assistant moves them, their owners read, cancel and stop them.

use std::sync::Arc;
use std::time::Duration;

use nexus_daemon::{Caller, Role};
use nexus_proto::orchestrator::v1::{
    CancelRunRequest, CancelRunResponse, CompactRequest, CompactResponse, FinishStepRequest, FinishStepResponse,
    GetToolsRequest, GetToolsResponse, ListRunsRequest, ListRunsResponse, ResumeRequest, ResumeResponse, Run, RunEnd,
    RunState, StopRequest, StopResponse, WatchRunsRequest,
};

use super::run_watch::{RunWatcher, Shown};
use super::{Engine, Once};
use crate::domain::access::role_refused;
use crate::domain::run::{Cancelled, place_of, text_only};
use crate::domain::sessions::View;
use crate::domain::stop::Stopped;
use crate::domain::{Error, State};

/// Longest wait for what was cancelled or stopped to end, before its answer.
const END_WAIT: Duration = Duration::from_millis(900);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Turns of a session that one page looks at.
const LOOKED_AT: u64 = 2_000;
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1_000;

impl Engine {
    /// What the model answered in a step, from the assistant that drives its run.
    pub async fn finish_step(&self, caller: &Caller, request: FinishStepRequest) -> Result<FinishStepResponse, Error> {
        if request.run_id.is_empty() {
            return Err(Error::Required("run_id"));
        }
        let queued = self
            .queue(|parts, step| {
                let agent = parts.state.agents.owned(&request.agent_id, caller)?;
                let id = request.run_id.clone();
                let place = parts.state.finish_step(step, agent, request)?;
                let open = parts.state.run_view(place.session, place.n);
                let ended = parts.state.runs.get(place.session, place.n).map(|run| run.wire.clone());
                let over = Run {
                    id,
                    state: RunState::Ended.into(),
                    ..Run::default()
                };
                Ok(FinishStepResponse {
                    run: open.or(ended).or(Some(over)),
                })
            })
            .await?;
        queued.done().await
    }

    /// The tools of a run, as models are told of them.
    pub fn tools_of_run(&self, caller: &Caller, request: &GetToolsRequest) -> Result<GetToolsResponse, Error> {
        self.look(|ledger| {
            if !request.session_id.is_empty() && caller.role == Role::Agent {
                ledger.state.reading_view(&request.session_id, caller)?;
            }
            Ok(GetToolsResponse {
                tools: ledger.state.tools.told(),
                digest: ledger.state.tools.digest().to_owned(),
            })
        })
    }

    /// Where a run is, if this caller may see it.
    pub(super) async fn run_place(&self, id: &str, caller: &Caller) -> Result<(u64, u64), Error> {
        if id.is_empty() {
            return Err(Error::Required("run_id"));
        }
        let missing = || Error::RunNotFound(id.into());
        let (key, n) = place_of(id).ok_or_else(missing)?;
        let (session, _, creator) = self.session_by_key(key).await?.ok_or_else(missing)?;
        let visible = match caller.role {
            Role::Admin => true,
            Role::User => *creator == *caller.principal,
            Role::Agent => self.look(|ledger| ledger.state.drives_session(&session, caller)),
        };
        if visible { Ok((key, n)) } else { Err(missing()) }
    }

    /// A run with its steps and calls.
    pub async fn run(&self, id: &str, caller: &Caller) -> Result<Run, Error> {
        let (key, n) = self.run_place(id, caller).await?;
        self.settled(self.look(|ledger| ledger.tx)).await?;
        let open = self.look(|ledger| {
            let place = ledger.state.open_run(id)?;
            let run = ledger.state.run_view(place.0, place.1)?;
            Some((run, ledger.state.current_step(place.0, place.1)))
        });
        let stored = self.shared.stored.run(key, n).await?.filter(|(run, _)| run.id == id);
        match (open, stored) {
            (Some((mut run, current)), stored) => {
                run.steps = stored.map(|(_, steps)| steps).unwrap_or_default();
                run.steps.extend(current);
                Ok(run)
            }
            (None, Some((mut run, steps))) => {
                run.steps = steps;
                Ok(run)
            }
            (None, None) => self
                .text_run(key, n, id)
                .await?
                .ok_or_else(|| Error::RunNotFound(id.into())),
        }
    }

    /// A run that is over and asked for no calls. With an empty id: whatever run the message has.
    async fn text_run(&self, key: u64, n: u64, id: &str) -> Result<Option<Run>, Error> {
        let Some(asked) = self.message_at(key, n).await? else {
            return Ok(None);
        };
        let Some(end) = self.ended_turn(key, n).await? else {
            return Ok(None);
        };
        let answer = match end {
            crate::domain::turn::TurnEnd::Answered { answer } => self.message_at(key, answer).await?,
            crate::domain::turn::TurnEnd::Failed { .. } => None,
        };
        let Some((session_id, ..)) = self.session_by_key(key).await? else {
            return Ok(None);
        };
        let id = match (&answer, id) {
            (Some(answer), "") => crate::domain::run::run_id_of(key, n, &answer.id),
            (None, "") => crate::domain::run::run_id_of(key, n, ""),
            (_, id) => id.to_owned(),
        };
        Ok(text_only(key, &session_id, &asked, &end, answer.as_ref(), &id))
    }

    /// Runs of a session, newest first; without a session those that are not over.
    pub async fn runs(&self, caller: &Caller, request: ListRunsRequest) -> Result<ListRunsResponse, Error> {
        let view = View::of(caller, "list runs")?;
        let wanted = |run: &Run| {
            (request.state == 0 || run.state == request.state)
                && (request.parent_id.is_empty() || run.parent_id == request.parent_id)
        };
        let size = usize::try_from(request.page_size)
            .ok()
            .filter(|size| *size > 0)
            .unwrap_or(PAGE);
        let size = size.min(LARGEST_PAGE);
        if request.session_id.is_empty() {
            let mut runs = self.look(|ledger| {
                let sessions = ledger.state.sessions.iter().filter(|session| view.shows(session));
                let places = sessions.flat_map(|session| session.turns().iter().map(|turn| (session.key, turn.n)));
                places
                    .filter_map(|(key, n)| ledger.state.run_view(key, n))
                    .collect::<Vec<_>>()
            });
            runs.retain(wanted);
            runs.reverse();
            runs.truncate(size);
            return Ok(ListRunsResponse {
                runs,
                next_page_token: String::new(),
            });
        }
        let key = self.open_session(&request.session_id, view).await?;
        self.settled(self.look(|ledger| ledger.tx)).await?;
        let head = self.look(|ledger| ledger.state.sessions.get(key).map_or(0, |session| session.head()));
        let before = match request.page_token.as_str() {
            "" => head + 1,
            token => token
                .parse::<u64>()
                .map_err(|_| Error::Invalid("page_token is not one that was given".into()))?
                .min(head + 1),
        };
        let (mut runs, mut n) = (Vec::new(), before);
        let end = before.saturating_sub(LOOKED_AT).max(1);
        while n > end && runs.len() < size {
            n -= 1;
            runs.extend(self.bare_run(key, n).await?.filter(&wanted));
        }
        let more = n > 1;
        Ok(ListRunsResponse {
            runs,
            next_page_token: if more { n.to_string() } else { String::new() },
        })
    }

    /// The run of one message without its steps, if the message has one.
    async fn bare_run(&self, key: u64, n: u64) -> Result<Option<Run>, Error> {
        if let Some(run) = self.look(|ledger| ledger.state.run_view(key, n)) {
            return Ok(Some(run));
        }
        let run = match self.shared.stored.run_header(key, n).await? {
            Some(run) => Some(run),
            None => self.text_run(key, n, "").await?,
        };
        Ok(run.map(|run| Run {
            steps: Vec::new(),
            ..run
        }))
    }

    /// Watches the runs of a session, or one run, which the caller may see.
    pub async fn watch_run(&self, caller: &Caller, request: &WatchRunsRequest) -> Result<Arc<RunWatcher>, Error> {
        if !request.run_id.is_empty() {
            let (key, _) = self.run_place(&request.run_id, caller).await?;
            let watcher = self.watch_runs(Some(key), Shown::Run(request.run_id.clone()));
            if self.look(|ledger| ledger.state.open_run(&request.run_id).is_none()) {
                let run = self.run(&request.run_id, caller).await?;
                self.look(|ledger| ledger.tell_ended(&watcher, &run));
            }
            return Ok(watcher);
        }
        if request.session_id.is_empty() {
            return Err(Error::Required("session_id or run_id"));
        }
        let view = View::of(caller, "watch runs")?;
        let key = self.open_session(&request.session_id, view).await?;
        Ok(self.watch_runs(Some(key), Shown::Session))
    }

    /// Puts a summary in the place of older steps and messages: an entry of the session's log, with its range.
    pub async fn compact(&self, caller: &Caller, request: CompactRequest) -> Result<CompactResponse, Error> {
        let (key, n) = self.run_place(&request.run_id, caller).await?;
        self.room()?;
        self.write(|state, step| state.compact_run(step, caller, (key, n), request))
            .await?;
        Ok(CompactResponse {})
    }

    pub async fn cancel_run(
        &self,
        once: Option<Once>,
        caller: &Caller,
        request: CancelRunRequest,
    ) -> Result<CancelRunResponse, Error> {
        controls(caller, "cancel runs")?;
        let (key, n) = self.run_place(&request.run_id, caller).await?;
        let reason = reason(&request.reason, "cancelled by its user");
        let mut cancelled: CancelRunResponse = self
            .once(once, |parts, step| {
                let open = parts.state.open_run(&request.run_id).is_some();
                let mut done = Cancelled::default();
                let cancelled = open
                    && parts
                        .state
                        .cancel_run(step, key, n, RunEnd::Cancelled, &reason, &mut done);
                Ok(CancelRunResponse {
                    run: None,
                    cancelled,
                    background: parts.state.processes.get(&key).into_iter().flatten().cloned().collect(),
                })
            })
            .await?;
        self.wait_for_ends(&[(key, n)], &[]).await;
        cancelled.run = Some(self.run(&request.run_id, caller).await?);
        Ok(cancelled)
    }

    /// Ends runs with all that they started; for an agent or for all it lasts.
    pub async fn stop(&self, caller: &Caller, request: StopRequest) -> Result<StopResponse, Error> {
        let why = reason(&request.reason, "stopped");
        let named = [
            !request.run_id.is_empty(),
            !request.session_id.is_empty(),
            !request.agent_id.is_empty(),
            request.all,
        ];
        if named.iter().filter(|named| **named).count() != 1 {
            return Err(Error::Invalid(
                "exactly one of run_id, session_id, agent_id and all has to be set".into(),
            ));
        }
        controls(caller, "stop runs")?;
        let done = if !request.run_id.is_empty() {
            let (key, n) = self.run_place(&request.run_id, caller).await?;
            self.write(|state, step| {
                let mut done = Cancelled::default();
                if state.open_run(&request.run_id).is_some() {
                    state.cancel_run(step, key, n, RunEnd::Stopped, &why, &mut done);
                }
                Ok(done)
            })
            .await?
        } else if !request.session_id.is_empty() {
            let key = self
                .open_session(&request.session_id, View::of(caller, "stop runs")?)
                .await?;
            self.stop_session(key, &why).await?
        } else {
            if !caller.is_admin() {
                return Err(role_refused(caller, "stop an agent or everything"));
            }
            let what = lasting(&request.agent_id);
            let by = caller.principal.to_string();
            self.write(|state, step| Ok(state.stop(step, &what, &by, &why))).await?
        };
        let survived = self.wait_for_ends(&done.places, &done.calls).await;
        Ok(StopResponse {
            runs: done.runs,
            calls: done.calls,
            survived,
        })
    }

    /// Ends all that runs in a session.
    pub(crate) async fn stop_session(&self, key: u64, reason: &str) -> Result<Cancelled, Error> {
        self.write(|state, step| {
            let mut done = Cancelled::default();
            state.cancel_session_runs(step, key, RunEnd::Stopped, reason, &mut done);
            Ok(done)
        })
        .await
    }

    pub async fn resume(&self, caller: &Caller, request: ResumeRequest) -> Result<ResumeResponse, Error> {
        if !caller.is_admin() {
            return Err(role_refused(caller, "resume an agent or everything"));
        }
        if request.all != request.agent_id.is_empty() {
            return Err(Error::Invalid("exactly one of agent_id and all has to be set".into()));
        }
        let what = lasting(&request.agent_id);
        let resumed = self.write(|state, step| Ok(state.resume(step, &what))).await?;
        Ok(ResumeResponse { resumed })
    }

    /// Waits until runs and calls have ended, within a budget. Returns the ids of the calls that have not.
    async fn wait_for_ends(&self, runs: &[(u64, u64)], calls: &[String]) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + END_WAIT;
        let runs_on = |state: &State| runs.iter().any(|place| !state.run_is_over(*place));
        let survived = |state: &State| -> Vec<String> {
            let open = |id: &&String| state.calls.find(id).is_some_and(|call| !call.is_over());
            calls.iter().filter(open).cloned().collect()
        };
        loop {
            let (on, left) = self.look(|ledger| (runs_on(&ledger.state), survived(&ledger.state)));
            if (!on && left.is_empty()) || tokio::time::Instant::now() >= deadline {
                return left;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn lasting(agent_id: &str) -> Stopped {
    match agent_id {
        "" => Stopped::All,
        id => Stopped::Agent(id.to_owned()),
    }
}

fn reason(given: &str, default: &str) -> String {
    const BYTES: usize = 1 << 10;
    let given = if given.is_empty() { default } else { given };
    given[..given.floor_char_boundary(BYTES)].to_owned()
}

/// Only people end runs.
fn controls(caller: &Caller, doing: &'static str) -> Result<(), Error> {
    match caller.role {
        Role::Admin | Role::User => Ok(()),
        Role::Agent => Err(role_refused(caller, doing)),
    }
}
