//! Whatever happens in whatever order: nothing is lost, nothing doubled, nothing forgotten.

use nexus_proto::agent::v1::stream_task_request::Payload as Said;
use nexus_proto::agent::v1::{TaskComplete, TaskError, TaskProgress, TaskStatusUpdate};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Create {
        idle: bool,
        ends: bool,
    },
    Say(usize),
    Note(usize),
    Retry(usize),
    Cancel(usize, bool),
    Close(usize),
    Delete(usize),
    Stream(usize, bool),
    Register(bool),
    Link(usize),
    Unlink(usize),
    Unregister(usize),
    Beat(usize),
    Mail(usize),
    Delta(usize),
    Tool(usize),
    Answer(usize),
    GiveUp(usize),
    Task(Option<usize>, bool),
    Word(usize, u8, i32),
    CancelTask(usize),
    Pass(i64),
    Restart,
    /// The group with the next decisions fails.
    FailNext(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let i = 0..4_usize;
    prop_oneof![
        2 => (any::<bool>(), any::<bool>()).prop_map(|(idle, ends)| Act::Create { idle, ends }),
        8 => i.clone().prop_map(Act::Say),
        2 => i.clone().prop_map(Act::Note),
        2 => i.clone().prop_map(Act::Retry),
        2 => (i.clone(), any::<bool>()).prop_map(|(i, last)| Act::Cancel(i, last)),
        1 => i.clone().prop_map(Act::Close),
        1 => i.clone().prop_map(Act::Delete),
        2 => (i.clone(), any::<bool>()).prop_map(|(i, open)| Act::Stream(i, open)),
        3 => any::<bool>().prop_map(Act::Register),
        6 => i.clone().prop_map(Act::Link),
        3 => i.clone().prop_map(Act::Unlink),
        1 => i.clone().prop_map(Act::Unregister),
        3 => i.clone().prop_map(Act::Beat),
        2 => i.clone().prop_map(Act::Mail),
        3 => i.clone().prop_map(Act::Delta),
        1 => i.clone().prop_map(Act::Tool),
        6 => i.clone().prop_map(Act::Answer),
        1 => i.clone().prop_map(Act::GiveUp),
        3 => (proptest::option::of(i.clone()), any::<bool>()).prop_map(|(i, again)| Act::Task(i, again)),
        5 => (i.clone(), 0..4_u8, 0..9_i32).prop_map(|(i, kind, state)| Act::Word(i, kind, state)),
        1 => i.prop_map(Act::CancelTask),
        4 => prop_oneof![Just(1), Just(6), Just(40), Just(700)].prop_map(Act::Pass),
        1 => Just(Act::Restart),
        2 => (1..6_usize).prop_map(Act::FailNext),
    ]
}

/// The `i`th of what there is, if there is anything.
fn nth(of: impl Iterator<Item = u64>, i: usize) -> Option<u64> {
    let all: Vec<u64> = of.collect();
    (!all.is_empty()).then(|| all[i % all.len()])
}

impl World {
    fn session_at(&self, i: usize) -> Option<u64> {
        nth(self.state.sessions.iter().map(|session| session.key), i)
    }

    fn agent_at(&self, i: usize) -> Option<u64> {
        nth(self.state.agents.iter().map(|agent| agent.key), i)
    }

    fn task_at(&self, i: usize) -> Option<u64> {
        nth(self.state.tasks.iter().map(|task| task.key), i)
    }

    /// A turn that runs, and who runs it.
    fn running(&self, i: usize) -> Option<(u64, u64, String)> {
        let runs = self.state.sessions.iter().filter_map(|session| {
            let turn = session.turn()?;
            let Phase::Running { agent, .. } = turn.phase else {
                return None;
            };
            Some((session.key, agent, turn.correlation()))
        });
        let all: Vec<_> = runs.collect();
        (!all.is_empty()).then(|| all[i % all.len()].clone())
    }

    /// Does it if there is something to do it to. Refusals are fine: that they change nothing is checked in `step`.
    fn act(&mut self, act: Act, works: &mut HashMap<u64, Option<i64>>) -> Option<()> {
        match act {
            Act::Create { idle, ends } => {
                let config = nexus_proto::orchestrator::v1::SessionConfig {
                    idle_timeout_ns: i64::from(idle) * 5 * SECOND,
                    max_duration_ns: i64::from(ends) * 300 * SECOND,
                    ..Default::default()
                };
                let metadata = SessionMetadata::default();
                // Every other session counts against a user's share.
                let by = if ends { caller(Role::User, 2) } else { admin() };
                self.step(|state, step| state.create_session(step, &by, metadata, Some(config)))
                    .ok()?;
            }
            Act::Say(i) => drop(self.say(self.session_at(i)?, "hello")),
            Act::Note(i) => {
                let message = Message {
                    role: MessageRole::System.into(),
                    ..Message::default()
                };
                let session = self.session_at(i)?;
                self.step(|state, step| state.add_message(step, session, message))
                    .ok()?;
            }
            Act::Retry(i) => {
                let failed = self
                    .asked
                    .iter()
                    .filter(|(_, over)| matches!(over, Some(TurnEnd::Failed { .. })));
                let all: Vec<(u64, u64)> = failed.map(|(at, _)| *at).collect();
                let (session, n) = *all.get(i % all.len().max(1))?;
                let message = Message {
                    sequence: n,
                    id: format!("{n}"),
                    content: "hello".into(),
                    ..Message::default()
                };
                self.step(|state, step| state.retry_turn(step, session, &message))
                    .ok()?;
            }
            Act::Cancel(i, last) => {
                let session = self.session_at(i)?;
                let turns = self.state.sessions.get(session)?.turns();
                let id = if last {
                    turns.back()?.message_id.to_string()
                } else {
                    String::new()
                };
                self.must(|state, step| state.cancel_turn(step, session, &id));
            }
            Act::Close(i) => {
                let session = self.session_at(i)?;
                self.step(|state, step| state.close_session(step, session, "")).ok()?;
            }
            Act::Delete(i) => {
                let session = self.session_at(i)?;
                self.step(|state, step| state.delete_session(step, session)).ok()?;
            }
            Act::Stream(i, open) => {
                let session = self.session_at(i)?;
                if open || self.state.sessions.get(session)?.streams() > 0 {
                    self.state.count_stream(session, open).ok()?;
                    let streams = &mut self.attached.session_streams;
                    match streams.iter().position(|of| *of == session) {
                        Some(place) if !open => drop(streams.swap_remove(place)),
                        _ => streams.push(session),
                    }
                }
            }
            Act::Register(assistant) => {
                self.try_register(if assistant { "assistant" } else { "worker" }).ok()?;
            }
            Act::Link(i) => drop(self.link(self.agent_at(i)?)),
            Act::Unlink(i) => {
                let agent = self.agent_at(i)?;
                let link = self.state.agents.get(agent)?.link?;
                self.unlink(agent, link);
            }
            Act::Unregister(i) => {
                let agent = self.agent_at(i)?;
                self.must(|state, step| state.unregister(step, agent, ""));
            }
            Act::Beat(i) => drop(self.heartbeat(self.agent_at(i)?)),
            Act::Mail(i) => {
                let agent = self.agent_at(i)?;
                self.step(|state, step| state.send_to_agent(step, agent, AgentMessage::default()))
                    .ok()?;
            }
            Act::Delta(i) => {
                let (session, agent, correlation) = self.running(i)?;
                self.step(|state, step| Ok(state.delta(step, agent, session, &correlation, 0, "piece")))
                    .ok()?;
            }
            Act::Tool(i) => {
                let (session, agent, correlation) = self.running(i)?;
                self.must(|state, step| state.tool_ran(step, agent, session, &correlation));
            }
            Act::Answer(i) => {
                let (session, agent, correlation) = self.running(i)?;
                assert!(self.answer(agent, session, &correlation, "answer"));
                assert!(
                    !self.answer(agent, session, &correlation, "answer"),
                    "an answer is taken once"
                );
            }
            Act::GiveUp(i) => {
                let (session, agent, correlation) = self.running(i)?;
                self.step(|state, step| Ok(state.answer_failed(step, agent, session, &correlation, "INTERNAL: x")))
                    .ok()?;
            }
            Act::Task(i, again) => {
                let agent = i.and_then(|i| self.agent_at(i));
                let config = TaskConfig {
                    timeout_ns: 30 * SECOND,
                    retry_on_failure: again,
                    max_retries: 2,
                    ..TaskConfig::default()
                };
                self.task(agent, config).ok()?;
            }
            Act::Word(i, kind, state) => {
                let task = self.task_at(i)?;
                let word = match kind {
                    0 => Said::Status(TaskStatusUpdate {
                        state,
                        ..TaskStatusUpdate::default()
                    }),
                    1 => Said::Progress(TaskProgress {
                        percent: 0.5,
                        ..TaskProgress::default()
                    }),
                    2 => Said::Complete(TaskComplete::default()),
                    _ => Said::ErrorMsg(TaskError::default()),
                };
                let works = works.entry(task).or_default();
                self.step(|state, step| state.worker_said(step, task, works, word))
                    .ok()?;
            }
            Act::CancelTask(i) => {
                let task = self.task_at(i)?;
                self.step(|state, step| Ok(state.cancel_task(step, task, "", false)))
                    .ok()?;
            }
            Act::Pass(seconds) => self.pass(seconds * SECOND),
            Act::Restart => self.restart(),
            Act::FailNext(_) => self.failing = true,
        }
        Some(())
    }

    /// The streams that are open are those that the state counts.
    fn check_attached(&self) {
        for session in self.state.sessions.iter() {
            let open = self.attached.session_streams.iter().filter(|of| **of == session.key);
            assert_eq!(session.streams(), open.count());
        }
        for agent in self.state.agents.iter() {
            let open = self.attached.agent_streams.iter().find(|(of, _)| *of == agent.key);
            assert_eq!(agent.link, open.map(|(_, link)| *link));
        }
        for (agent, _) in &self.attached.agent_streams {
            assert!(
                self.state.agents.get(*agent).is_some(),
                "the stream of an agent that is gone"
            );
        }
        for session in &self.attached.session_streams {
            assert!(
                self.state.sessions.get(*session).is_some(),
                "a stream of a session that is gone"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_forgotten(acts in proptest::collection::vec(act(), 1..120)) {
        let rules = Rules { max_sessions: 5, max_agents: 6, turns_per_assistant: 2, max_queued_turns: 4, max_kept_messages: 3, ..Rules::default() };
        let mut world = World::new(rules);
        let mut works = HashMap::new();
        let mut left = None;
        for act in acts {
            if let (Act::FailNext(acts), None) = (&act, left) {
                left = Some(acts + 1);
            }
            world.act(act, &mut works);
            left = left.filter(|_| world.failing).map(|left| left - 1);
            if left == Some(0) {
                world.fail();
                left = None;
            }
            if left.is_none() {
                world.check();
                world.check_attached();
            }
        }
        if left.is_some() {
            world.fail();
        }
        // In the end everything comes to an end by itself.
        world.pass(48 * 3600 * SECOND);
        world.check();
        prop_assert!(world.asked.values().all(Option::is_some), "a turn that is never over: {:?}", world.asked);
        prop_assert_eq!(world.state.tasks.iter().count(), 0);
        prop_assert!(world.state.timers.len() <= 64, "timers pile up: {}", world.state.timers.len());
    }
}
