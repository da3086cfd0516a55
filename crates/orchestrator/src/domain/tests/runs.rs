//! Runs, their calls and approvals: through every fact, every death, and at random.

use std::collections::BTreeMap;

use nexus_proto::agent::v1::stream_task_request::Payload as Said;
use nexus_proto::agent::v1::{TaskComplete, TaskResult, TaskStatusUpdate, agent_message};
use nexus_proto::llm::v1::{Block, ToolCall, block};
use nexus_proto::orchestrator::v1::{
    ApprovalState, CallState, FinishStepRequest, GrantKind, GrantScope, Run, RunEnd, RunState, RunStep, StepOffer,
};
use nexus_proto::words;
use proptest::prelude::*;

use super::*;
use crate::domain::approval::Decide;
use crate::domain::call::Call;
use crate::domain::run::Cancelled;
use crate::domain::stop::Stopped;

const TOOLS: [&str; 3] = ["exec", "read_file", "write_file"];

fn text(text: &str) -> Block {
    Block {
        kind: Some(block::Kind::Text(text.into())),
    }
}

fn call(id: &str, name: &str, arguments: &str) -> Block {
    Block {
        kind: Some(block::Kind::ToolCall(ToolCall {
            id: id.into(),
            name: name.into(),
            arguments: arguments.into(),
            malformed: false,
        })),
    }
}

fn exec(command: &str) -> Block {
    call("t", "exec", &format!(r#"{{"command":{command:?}}}"#))
}

impl World {
    fn agent_with(&mut self, name: &str, protocols: &[&str], tools: &[&str]) -> u64 {
        self.try_agent(name, protocols, tools).unwrap()
    }

    fn try_agent(&mut self, name: &str, protocols: &[&str], tools: &[&str]) -> Result<u64, Error> {
        let capabilities = AgentCapabilities {
            supported_tasks: vec!["tool_execution".into()],
            supported_tools: tools.iter().map(ToString::to_string).collect(),
            supported_protocols: protocols.iter().map(ToString::to_string).collect(),
            ..AgentCapabilities::default()
        };
        let request = RegisterRequest {
            name: name.into(),
            r#type: AgentType::Worker.into(),
            metadata: Some(AgentMetadata::default()),
            capabilities: Some(capabilities),
        };
        let agent = self.step(|state, step| state.register(step, &admin(), request))?;
        self.link(agent);
        Ok(agent)
    }

    fn driver(&mut self) -> u64 {
        self.agent_with("assistant", &[words::protocol::RUNS], &[])
    }

    fn worker(&mut self) -> u64 {
        self.agent_with("worker", &[], &TOOLS)
    }

    /// A session whose first message was offered to a driver, and the run's id.
    fn begin(&mut self) -> (u64, u64, String) {
        let driver = self.driver();
        let session = self.session();
        self.say(session, "write the program").unwrap();
        let (to, offer) = self.offers.last().expect("it was offered").clone();
        assert_eq!(to, driver);
        let run = offer.metadata.unwrap().headers["run_id"].clone();
        (session, driver, run)
    }

    fn finish(&mut self, driver: u64, run: &str, number: i32, attempt: i32, blocks: Vec<Block>) -> Result<(), Error> {
        let request = FinishStepRequest {
            run_id: run.into(),
            step: number,
            attempt,
            blocks,
            model: "m".into(),
            stop_reason: "stop".into(),
            ..FinishStepRequest::default()
        };
        self.step(|state, step| state.finish_step(step, driver, request).map(drop))
    }

    /// The newest step that was offered.
    fn step_offer(&self) -> (u64, StepOffer) {
        let steps = self
            .delivered
            .iter()
            .rev()
            .filter_map(|(agent, message)| match &message.payload {
                Some(agent_message::Payload::Step(offer)) => Some((*agent, offer.clone())),
                _ => None,
            });
        steps.into_iter().next().expect("a step was offered")
    }

    /// Tasks that were pushed to a worker and are not over, oldest first.
    fn pushed(&self, worker: u64) -> Vec<u64> {
        let open = self
            .state
            .tasks
            .iter()
            .filter(|task| task.agent == Some(worker) && !task.is_over());
        open.map(|task| task.key).collect()
    }

    fn take(&mut self, worker: u64, task: u64) {
        let id = self.state.tasks.get(task).unwrap().id.to_string();
        self.must(|state, step| state.take_task(step, worker, &id));
    }

    fn complete(&mut self, task: u64, output: &str) {
        let complete = Said::Complete(TaskComplete {
            result: Some(TaskResult {
                output_text: output.into(),
                ..TaskResult::default()
            }),
            ..TaskComplete::default()
        });
        self.step(|state, step| state.worker_said(step, task, &mut None, complete))
            .unwrap();
    }

    pub fn hash_files(&mut self, call: u64) {
        let names = self.state.calls.get(call).map(Call::named_files).unwrap_or_default();
        let files = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.files.get(&name)?.clone())));
        let files = files.collect();
        self.must(|state, step| state.files_found(step, call, files, Vec::new()));
    }

    fn call_of(&self, session: u64, place: usize) -> Call {
        let run = self
            .state
            .runs
            .iter()
            .find(|run| run.session == session)
            .expect("a run");
        self.state.calls.get(run.calls[place]).unwrap().clone()
    }
}

fn result(step: &RunStep, place: usize) -> String {
    match &step.calls[place].result[0].kind {
        Some(block::Kind::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_two_steps_and_a_call_come_to_an_answer() {
    let mut world = World::new(Rules::default());
    let worker = world.worker();
    let (session, driver, run) = world.begin();
    world
        .finish(driver, &run, 1, 1, vec![text("I look."), exec("ls")])
        .unwrap();
    let tasks = world.pushed(worker);
    assert_eq!(tasks.len(), 1);
    assert_eq!(world.call_of(session, 0).state(), CallState::Started);
    world.take(worker, tasks[0]);
    assert_eq!(world.call_of(session, 0).state(), CallState::Running);
    world.complete(tasks[0], "main.c");
    let (to, offer) = world.step_offer();
    assert_eq!((to, offer.step, offer.attempt), (driver, 2, 1));
    assert_eq!(result(&offer.previous.unwrap(), 0), "main.c");
    world
        .finish(driver, &run, 2, 1, vec![text("There is main.c.")])
        .unwrap();
    let answered = world.asked[&(session, 1)].clone();
    assert_eq!(answered, Some(TurnEnd::Answered { answer: 2 }));
    world.check();
    // The same step again is refused: its turn is over.
    assert!(matches!(
        world.finish(driver, &run, 2, 1, vec![text("again")]),
        Err(Error::StepOver { .. })
    ));
}

#[test]
fn a_turn_of_text_only_has_the_facts_it_always_had() {
    let mut world = World::new(Rules::default());
    let (session, driver, run) = world.begin();
    let before = world.disk.read.clone();
    world.finish(driver, &run, 1, 1, vec![text("Hello.")]).unwrap();
    drop(before);
    assert_eq!(world.state.runs.iter().count(), 0);
    assert_eq!(world.asked[&(session, 1)], Some(TurnEnd::Answered { answer: 2 }));
    let names = world.told();
    assert!(
        names
            .iter()
            .all(|name| !name.starts_with("run.") && !name.starts_with("call.")),
        "{names:?}"
    );
}

#[test]
fn old_assistants_are_offered_messages_only() {
    let mut world = World::new(Rules::default());
    let old = world.register("assistant");
    world.link(old);
    let session = world.session();
    world.say(session, "hello").unwrap();
    let (to, offer) = world.offers.last().unwrap().clone();
    assert_eq!(to, old);
    let headers = offer.metadata.unwrap().headers;
    assert!(
        !headers.contains_key("run_id") && !headers.contains_key("step"),
        "{headers:?}"
    );
}

#[test]
fn what_is_wrong_with_a_call_is_its_result() {
    let mut world = World::new(Rules::default());
    world.worker();
    let (_, driver, run) = world.begin();
    let blocks = vec![
        call("a", "exek", "{}"),
        call("b", "exec", "{\"command\":"),
        call("c", "read_file", r#"{"path":"x"}"#),
    ];
    world.finish(driver, &run, 1, 1, blocks).unwrap();
    let task = world.state.tasks.iter().next().expect("the third call runs").key;
    let worker = world.state.tasks.get(task).unwrap().agent.unwrap();
    world.take(worker, task);
    world.complete(task, "text");
    let (_, offer) = world.step_offer();
    let step = offer.previous.unwrap();
    let codes: Vec<&str> = step.calls.iter().map(|call| call.code.as_str()).collect();
    assert_eq!(codes, ["unknown_tool", "invalid_arguments", ""]);
    assert!(result(&step, 0).contains("exec"), "{}", result(&step, 0));
    let ids: Vec<&str> = step.calls.iter().map(|call| call.tool_call_id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c"], "results stand in the order of the calls");
}

#[test]
fn a_dead_assistant_is_replaced_twice_while_the_model_answers() {
    let mut world = World::new(Rules::default());
    let (session, driver, run) = world.begin();
    let mut drivers = vec![driver];
    for attempt in 2..=3 {
        let next = world.driver();
        let dead = drivers.pop().unwrap();
        let link = world.state.agents.get(dead).unwrap().link.unwrap();
        world.unlink(dead, link);
        let (to, offer) = world.offers.last().unwrap().clone();
        assert_eq!(to, next);
        assert_eq!(offer.metadata.unwrap().headers["step_attempt"], attempt.to_string());
        assert!(
            matches!(
                world.finish(dead, &run, 1, 1, vec![text("late")]),
                Err(Error::StepOver { .. })
            ),
            "an older attempt says nothing any more"
        );
        drivers.push(next);
    }
    let last = drivers.pop().unwrap();
    let link = world.state.agents.get(last).unwrap().link.unwrap();
    world.unlink(last, link);
    assert!(matches!(world.asked[&(session, 1)], Some(TurnEnd::Failed { .. })));
}

#[test]
fn a_dead_assistant_does_not_stop_the_calls() {
    let mut world = World::new(Rules::default());
    let worker = world.worker();
    let (session, driver, run) = world.begin();
    world.finish(driver, &run, 1, 1, vec![exec("make")]).unwrap();
    let link = world.state.agents.get(driver).unwrap().link.unwrap();
    world.unlink(driver, link);
    let task = world.pushed(worker)[0];
    world.take(worker, task);
    world.pass(40 * SECOND);
    world.complete(task, "built");
    world.pass(30 * SECOND);
    world.check();
    let next = world.driver();
    let (to, offer) = world.step_offer();
    assert_eq!((to, offer.step), (next, 2));
    world.finish(next, &run, 2, 1, vec![text("Built.")]).unwrap();
    assert!(matches!(world.asked[&(session, 1)], Some(TurnEnd::Answered { .. })));
}

#[test]
fn a_call_that_no_worker_confirmed_goes_to_another_one() {
    let mut world = World::new(Rules::default());
    let first = world.worker();
    let (session, driver, run) = world.begin();
    world.finish(driver, &run, 1, 1, vec![exec("make")]).unwrap();
    let old = world.pushed(first)[0];
    let second = world.worker();
    let link = world.state.agents.get(first).unwrap().link.unwrap();
    world.unlink(first, link);
    let task = world.pushed(second)[0];
    assert_ne!(task, old);
    // The first one comes back and tries to take what it was given: that is over.
    world.link(first);
    if let Some(task) = world.state.tasks.get(old) {
        assert!(task.is_over());
    }
    world.take(second, task);
    world.complete(task, "done");
    let step = world.step_offer().1.previous.unwrap();
    assert_eq!((step.calls[0].attempt, step.calls[0].state()), (2, CallState::Done));
    assert!(world.asked[&(session, 1)].is_none());
}

#[test]
fn a_call_that_ran_when_its_worker_died_is_unknown_unless_it_may_run_twice() {
    for (block, idempotent) in [(exec("make"), false), (call("r", "read_file", r#"{"path":"a"}"#), true)] {
        let mut world = World::new(Rules::default());
        let worker = world.worker();
        let (session, driver, run) = world.begin();
        world.finish(driver, &run, 1, 1, vec![block]).unwrap();
        let task = world.pushed(worker)[0];
        world.take(worker, task);
        let link = world.state.agents.get(worker).unwrap().link.unwrap();
        world.unlink(worker, link);
        assert_eq!(
            world.call_of(session, 0).state(),
            CallState::Running,
            "it may still come back"
        );
        let second = world.worker();
        world.pass(200 * SECOND);
        if idempotent {
            assert_eq!(world.call_of(session, 0).wire.attempt, 2);
            assert_eq!(world.pushed(second).len(), 1);
        } else {
            let step = world.step_offer().1.previous.unwrap();
            assert_eq!(step.calls[0].state(), CallState::Unknown);
            assert_eq!(step.calls[0].code, "interrupted");
            assert!(
                result(&step, 0).contains("look before repeating"),
                "{}",
                result(&step, 0)
            );
            assert!(world.pushed(second).is_empty(), "it is not run again");
        }
        world.check();
    }
}

#[test]
fn a_worker_that_still_has_the_process_goes_on_with_the_same_attempt() {
    let mut world = World::new(Rules::default());
    let worker = world.worker();
    let (session, driver, run) = world.begin();
    world
        .finish(driver, &run, 1, 1, vec![exec("make"), exec("sleep")])
        .unwrap();
    let tasks = world.pushed(worker);
    tasks.iter().for_each(|task| world.take(worker, *task));
    let link = world.state.agents.get(worker).unwrap().link.unwrap();
    world.unlink(worker, link);
    // Its successor has a record of the first call and none of the second.
    let next = world.worker();
    let known = world.state.tasks.get(tasks[0]).unwrap().id.to_string();
    world
        .step(|state, step| Ok(state.heartbeat(step, next, None, std::slice::from_ref(&known))))
        .unwrap();
    assert_eq!(world.call_of(session, 0).wire.attempt, 1);
    assert_eq!(world.call_of(session, 1).state(), CallState::Unknown);
    world.complete(tasks[0], "made");
    let step = world.step_offer().1.previous.unwrap();
    assert_eq!(step.calls[0].state(), CallState::Done);
}

#[test]
fn the_file_says_what_became_of_an_edit_whose_worker_died() {
    for (found, state) in [
        (Some("1"), CallState::Done),
        (Some("0"), CallState::Started),
        (Some("2"), CallState::Unknown),
        (None, CallState::Unknown),
    ] {
        let (mut world, second) = edit_lost();
        let call = world.looks.pop().expect("its file is looked at");
        let found = found.map(|digit| digit.repeat(64));
        world.must(|state, step| state.edit_found(step, call, found.as_deref()));
        assert_eq!(world.state.calls.get(call).unwrap().state(), state, "{found:?}");
        assert_eq!(world.pushed(second).len(), usize::from(state == CallState::Started));
        world.check();
    }
}

/// An edit whose worker was lost after it said what it would write, and another worker.
fn edit_lost() -> (World, u64) {
    let mut world = World::new(Rules::default());
    let worker = world.worker();
    let (_, driver, run) = world.begin();
    let write = call("w", "write_file", r#"{"path":"a","content":"b"}"#);
    world.finish(driver, &run, 1, 1, vec![write]).unwrap();
    let task = world.pushed(worker)[0];
    world.take(worker, task);
    announce(&mut world, task);
    world.restart();
    let second = world.worker();
    world.pass(185 * SECOND);
    (world, second)
}

fn announce(world: &mut World, task: u64) {
    let hashes = format!(
        r#"{{"hash_before":"{}","hash_after":"{}"}}"#,
        "0".repeat(64),
        "1".repeat(64)
    );
    let update = Said::Status(TaskStatusUpdate {
        state: TaskState::Running.into(),
        message: hashes,
        timestamp: None,
    });
    world
        .step(|state, step| state.worker_said(step, task, &mut None, update))
        .unwrap();
}

#[test]
fn cancel_ends_a_run_in_every_state() {
    // MODEL, with text.
    let mut world = World::new(Rules::default());
    let (session, driver, run) = world.begin();
    let correlation = world.offered().1;
    world
        .step(|state, step| Ok(state.delta(step, driver, session, &correlation, 0, "Half")))
        .unwrap();
    let mut done = Cancelled::default();
    world.must(|state, step| assert!(state.cancel_run(step, session, 1, RunEnd::Cancelled, "", &mut done)));
    assert!(matches!(world.asked[&(session, 1)], Some(TurnEnd::Answered { .. })));
    assert_eq!(done.runs, [run]);

    // TOOLS: a running call is told to end, one that waits ends at once.
    let mut world = World::new(Rules::default());
    let worker = world.worker();
    let (session, driver, run) = world.begin();
    let blocks = vec![exec("sleep"), call("w", "message", r#"{"text":"x"}"#)];
    world.finish(driver, &run, 1, 1, blocks).unwrap();
    let task = world.pushed(worker)[0];
    world.take(worker, task);
    let mut done = Cancelled::default();
    world.must(|state, step| assert!(state.cancel_run(step, session, 1, RunEnd::Cancelled, "", &mut done)));
    assert!(
        world.asked[&(session, 1)].is_none(),
        "its worker is still killing the call"
    );
    assert!(world.notes.iter().any(|(_, note)| matches!(note, Note::Cancel { .. })));
    world.complete(task, "so far");
    assert!(matches!(world.asked[&(session, 1)], Some(TurnEnd::Failed { .. })));
    // The next run is told.
    world.say(session, "again").unwrap();
    let (_, offer) = world.offers.last().unwrap().clone();
    assert!(offer.metadata.unwrap().headers["note"].contains("exec"));
    world.check();
}

#[test]
fn a_call_whose_worker_never_says_that_it_ended_is_given_up() {
    let mut world = World::new(Rules::default());
    let worker = world.worker();
    let (session, driver, run) = world.begin();
    world.finish(driver, &run, 1, 1, vec![exec("sleep")]).unwrap();
    let task = world.pushed(worker)[0];
    world.take(worker, task);
    world.must(|state, step| {
        assert!(state.cancel_run(step, session, 1, RunEnd::Cancelled, "", &mut Cancelled::default()))
    });
    world.pass(5 * SECOND);
    assert!(world.asked[&(session, 1)].is_some());
    world.check();
}

#[test]
fn the_word_stop_ends_what_runs_and_no_model_sees_it() {
    let mut world = World::new(Rules::default());
    world.worker();
    let (session, driver, run) = world.begin();
    world.finish(driver, &run, 1, 1, vec![exec("sleep")]).unwrap();
    let offers = world.offers.len();
    let n = world.say(session, " /Stop ").unwrap();
    assert!(matches!(world.asked[&(session, n)], Some(TurnEnd::Answered { .. })));
    assert!(
        world.asked[&(session, 1)].is_some(),
        "the call had not been confirmed: it ends at once"
    );
    assert_eq!(world.offers.len(), offers);
    world.check();
}

#[test]
fn a_stop_lasts_over_restarts_until_it_is_resumed() {
    let mut world = World::new(Rules::default());
    let driver = world.driver();
    let session = world.session();
    world.must(|state, step| drop(state.stop(step, &Stopped::All, "uid:0", "test")));
    world.restart();
    world.link(driver);
    world.say(session, "hello").unwrap();
    assert!(world.offers.is_empty());
    assert!(matches!(&world.asked[&(session, 1)], Some(TurnEnd::Failed { error }) if error.starts_with("CANCELED")));
    assert!(world.step(|state, step| Ok(state.resume(step, &Stopped::All))).unwrap());
    world.say(session, "hello again").unwrap();
    assert_eq!(world.offers.len(), 1);
}

#[test]
fn a_stop_that_cannot_be_read_stops_everything() {
    let mut world = World::new(Rules::default());
    world.disk.raw(&[nexus_store::Op::Put {
        table: nexus_store::Table(40),
        key: bytes::Bytes::from_static(b"agent/x"),
        value: bytes::Bytes::from_static(b"\xff\xff"),
    }]);
    world.restart();
    assert!(world.state.stops.all());
    world.step(|state, step| Ok(state.resume(step, &Stopped::All))).unwrap();
    world.restart();
    assert!(!world.state.stops.all());
}

/// A run whose one call waits for an approval.
fn asked(world: &mut World) -> (u64, u64, String, String, String) {
    world.worker();
    let driver = world.driver();
    let session = world.session();
    world.must(|state, step| {
        let config = nexus_proto::orchestrator::v1::SessionConfig {
            policy: Some(nexus_proto::orchestrator::v1::SessionPolicy {
                require_approval: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        let context = nexus_proto::orchestrator::v1::SessionContext {
            config: Some(config),
            ..Default::default()
        };
        state.update_session(step, session, None, Some(context)).unwrap();
    });
    world.say(session, "go").unwrap();
    let run = world.offers.last().unwrap().1.metadata.clone().unwrap().headers["run_id"].clone();
    world
        .finish(driver, &run, 1, 1, vec![exec("cargo test --all")])
        .unwrap();
    let approval = world
        .state
        .approvals
        .pending()
        .next()
        .expect("it was asked for")
        .wire
        .clone();
    (session, driver, run, approval.id, approval.digest)
}

#[test]
fn the_first_decision_wins_and_names_what_it_saw() {
    let mut world = World::new(Rules::default());
    let (session, _, _, id, digest) = asked(&mut world);
    assert_eq!(world.state.run_view(session, 1).unwrap().state(), RunState::Waiting);
    let allow = |digest: &str| Decide {
        allow: true,
        digest: digest.into(),
        ..Decide::default()
    };
    let decide = |world: &mut World, by: &Caller, decide: Decide| {
        world.step(|state, step| state.decide_approval(step, by, &id, decide).map(drop))
    };
    let agent = caller(Role::Agent, 7);
    assert!(matches!(
        decide(&mut world, &agent, allow(&digest)),
        Err(Error::RoleRefused { .. })
    ));
    let other = caller(Role::User, 9);
    assert!(matches!(
        decide(&mut world, &other, allow(&digest)),
        Err(Error::ApprovalNotFound(_))
    ));
    assert!(matches!(
        decide(&mut world, &admin(), allow("other")),
        Err(Error::ApprovalChanged(_))
    ));
    world.restart();
    decide(&mut world, &admin(), allow(&digest)).unwrap();
    assert!(matches!(
        decide(&mut world, &admin(), allow(&digest)),
        Err(Error::ApprovalDecided { .. })
    ));
    assert_eq!(
        world.call_of(session, 0).state(),
        CallState::Started,
        "the worker is told with its next heartbeat"
    );
    world.check();
}

#[test]
fn what_was_denied_is_refused_unasked_in_the_same_run() {
    let mut world = World::new(Rules::default());
    let (_, driver, run, id, _) = asked(&mut world);
    let deny = Decide {
        reason: "not now".into(),
        ..Decide::default()
    };
    world
        .step(|state, step| state.decide_approval(step, &admin(), &id, deny).map(drop))
        .unwrap();
    let step = world.step_offer().1.previous.unwrap();
    assert_eq!(
        (step.calls[0].state(), step.calls[0].code.as_str()),
        (CallState::Refused, "denied")
    );
    assert!(result(&step, 0).contains("not now"));
    world.restart();
    world.link(driver);
    world
        .finish(driver, &run, 2, 1, vec![exec("cargo test --all")])
        .unwrap();
    assert_eq!(world.state.approvals.pending().count(), 0, "it is not asked for again");
    assert_eq!(world.step_offer().1.step, 3);
}

#[test]
fn an_approval_expires_after_an_hour_and_a_cancel_withdraws_it() {
    let mut world = World::new(Rules::default());
    let (_, _, _, id, digest) = asked(&mut world);
    world.pass(3_601 * SECOND);
    let step = world.step_offer().1.previous.unwrap();
    assert_eq!(step.calls[0].code, "approval_expired");
    let late = Decide {
        allow: true,
        digest,
        ..Decide::default()
    };
    assert!(
        world
            .step(|state, step| state.decide_approval(step, &admin(), &id, late).map(drop))
            .is_err()
    );

    let mut world = World::new(Rules::default());
    let (session, ..) = asked(&mut world);
    world.must(|state, step| {
        assert!(state.cancel_run(step, session, 1, RunEnd::Cancelled, "", &mut Cancelled::default()))
    });
    assert_eq!(world.state.approvals.pending().count(), 0);
    assert!(world.asked[&(session, 1)].is_some());
    world.check();
}

#[test]
fn a_plan_that_changed_since_its_approval_is_asked_for_again() {
    let mut world = World::new(Rules::default());
    let (session, _, _, id, digest) = asked(&mut world);
    // No worker: the call is approved and waits.
    let workers: Vec<u64> = world
        .state
        .agents
        .iter()
        .filter(|a| !a.is_assistant())
        .map(|a| a.key)
        .collect();
    for worker in workers {
        let link = world.state.agents.get(worker).unwrap().link.unwrap();
        world.unlink(worker, link);
        world.must(|state, step| state.unregister(step, worker, ""));
    }
    let allow = Decide {
        allow: true,
        digest: digest.clone(),
        ..Decide::default()
    };
    world
        .step(|state, step| state.decide_approval(step, &admin(), &id, allow).map(drop))
        .unwrap();
    // The tool's definition is another one when a worker comes.
    world.must(|state, _| {
        let mut tool = state.tools.get("exec").unwrap().clone();
        tool.definition.digest = "other".into();
        state.tools.insert(tool);
    });
    world.worker();
    let pending = world
        .state
        .approvals
        .pending()
        .next()
        .expect("it is asked for again")
        .wire
        .clone();
    assert_eq!(pending.supersedes, id);
    assert_ne!(pending.digest, digest);
    assert_eq!(world.call_of(session, 0).state(), CallState::Asked);
    assert!(world.state.tasks.iter().all(|task| task.is_over()));
    let old = world.state.approvals.find(&id).map(|approval| approval.wire.state());
    assert!(old.is_none_or(|state| state == ApprovalState::Superseded));
}

/// The attack: a script is approved, and swapped before it runs.
#[test]
fn a_file_that_changed_since_the_approval_stops_the_call() {
    let mut world = World::new(Rules::default());
    for swap in [false, true] {
        let (session, driver, run, id, digest) = asked(&mut world);
        let deny = Decide::default();
        world
            .step(|state, step| state.decide_approval(step, &admin(), &id, deny).map(drop))
            .unwrap();
        drop(digest);
        world.files.insert("build.sh".into(), "1".into());
        world.finish(driver, &run, 2, 1, vec![exec("sh build.sh")]).unwrap();
        let wire = world
            .state
            .approvals
            .pending()
            .next()
            .expect("it was asked for")
            .wire
            .clone();
        assert!(
            wire.plan_json.contains(r#""files":[{"path":"build.sh","sha256":"1"}]"#),
            "{}",
            wire.plan_json
        );
        if swap {
            world.files.insert("build.sh".into(), "2".into());
        }
        let allow = Decide {
            allow: true,
            digest: wire.digest.clone(),
            ..Decide::default()
        };
        world
            .step(|state, step| state.decide_approval(step, &admin(), &wire.id, allow).map(drop))
            .unwrap();
        let state = world.call_of(session, 0).state();
        if swap {
            assert_eq!(state, CallState::Asked);
            let again = world
                .state
                .approvals
                .pending()
                .next()
                .expect("it is asked for again")
                .wire
                .clone();
            assert_eq!(again.supersedes, wire.id);
            assert!(again.plan_json.contains(r#""sha256":"2""#));
        } else {
            assert_eq!(state, CallState::Started);
            let task = world.state.tasks.iter().find(|task| !task.is_over()).expect("it runs");
            let files = &task.wire.config.as_ref().unwrap().parameters["files"];
            assert!(files.contains("build.sh"), "{files}");
        }
        world.check();
        world.must(|state, step| {
            assert!(state.cancel_run(step, session, 1, RunEnd::Cancelled, "", &mut Cancelled::default()));
        });
    }
}

#[test]
fn grants_are_derived_by_us() {
    let mut world = World::new(Rules::default());
    let (_, _, _, id, digest) = asked(&mut world);
    let offers = world.state.approvals.find(&id).unwrap().wire.offers.clone();
    let kinds: Vec<GrantKind> = offers.iter().map(|offer| offer.kind()).collect();
    assert_eq!(kinds, [GrantKind::Exact, GrantKind::Prefix]);
    let mut wider = offers[1].clone();
    wider.pattern = "c".into();
    wider.set_scope(GrantScope::Owner);
    let allow = |grant| Decide {
        allow: true,
        digest: digest.clone(),
        grant: Some(grant),
        ..Decide::default()
    };
    let refused = world.step(|state, step| state.decide_approval(step, &admin(), &id, allow(wider)).map(drop));
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    world
        .step(|state, step| {
            state
                .decide_approval(step, &admin(), &id, allow(offers[1].clone()))
                .map(drop)
        })
        .unwrap();
    assert_eq!(world.state.approvals.grants().count(), 1);
    world.restart();
    let grant = world
        .state
        .approvals
        .grants()
        .next()
        .expect("a grant outlives a restart");
    assert_eq!(grant.wire.scope(), GrantScope::Session);
    let key = grant.key;
    assert!(world.step(|state, step| Ok(state.revoke_grant(step, key))).unwrap());
    world.restart();
    assert_eq!(world.state.approvals.grants().count(), 0);
}

#[test]
fn eight_calls_run_at_once_and_edits_keep_their_order() {
    let mut world = World::new(Rules::default());
    let worker = world.agent_with("worker", &[], &TOOLS);
    let (session, driver, run) = world.begin();
    let blocks: Vec<Block> = (0..10).map(|i| exec(&format!("sleep {i}"))).collect();
    world.finish(driver, &run, 1, 1, blocks).unwrap();
    assert_eq!(world.pushed(worker).len(), 8);
    let first = world.pushed(worker)[0];
    world.take(worker, first);
    world.complete(first, "");
    assert_eq!(world.pushed(worker).len(), 8, "the ninth starts when one ends");
    assert_eq!(world.call_of(session, 9).state(), CallState::Allowed);
    world.check();
}

/// The attack: another uid registers a worker that takes every tool, to read what users' agents do and to forge results.
#[test]
fn calls_are_given_to_workers_of_administrators_and_of_those_that_the_settings_name() {
    for named in [false, true] {
        let mut world = World::new(Rules {
            workers: if named {
                ["uid:8".to_owned()].into()
            } else {
                Default::default()
            },
            ..Rules::default()
        });
        let by = caller(Role::Agent, 8);
        let request = RegisterRequest {
            name: "worker".into(),
            r#type: AgentType::Worker.into(),
            metadata: Some(AgentMetadata::default()),
            capabilities: Some(AgentCapabilities {
                supported_tasks: vec!["tool_execution".into()],
                supported_tools: TOOLS.map(String::from).into(),
                ..AgentCapabilities::default()
            }),
        };
        let foreign = world.step(|state, step| state.register(step, &by, request)).unwrap();
        world.link(foreign);
        let (session, driver, run) = world.begin();
        world.finish(driver, &run, 1, 1, vec![exec("ls")]).unwrap();
        assert_eq!(world.pushed(foreign).len(), usize::from(named));
        world.restart();
        world.link(foreign);
        assert_eq!(world.pushed(foreign).len(), usize::from(named));
        if !named {
            assert_eq!(world.call_of(session, 0).state(), CallState::Allowed);
        }
    }
}

#[test]
fn a_loop_ends_by_its_sixth_call() {
    let mut world = World::new(Rules::default());
    let worker = world.worker();
    let (session, driver, run) = world.begin();
    let mut ran = 0;
    for number in 1..=6 {
        world.finish(driver, &run, number, 1, vec![exec("false")]).unwrap();
        for task in world.pushed(worker) {
            ran += 1;
            world.take(worker, task);
            world.complete(task, "exit 1");
        }
        if number == 3 {
            assert!(
                !world.step_offer().1.previous.unwrap().notes.is_empty(),
                "the model is told"
            );
        }
    }
    assert_eq!(ran, 4, "the fifth and the sixth are refused");
    let Some(TurnEnd::Failed { error }) = &world.asked[&(session, 1)] else {
        panic!("it goes on: {:?}", world.asked);
    };
    assert!(error.starts_with("loop"), "{error}");
}

#[test]
fn after_two_hundred_steps_a_report_is_asked_for_and_then_the_run_ends() {
    let mut world = World::new(Rules::default());
    let worker = world.worker();
    let (session, driver, run) = world.begin();
    for number in 1..=200 {
        world
            .finish(driver, &run, number, 1, vec![exec(&format!("step {number}"))])
            .unwrap();
        let task = world.pushed(worker)[0];
        world.take(worker, task);
        world.complete(task, "done");
        assert_eq!(world.step_offer().1.last, number == 200, "step {number}");
    }
    world.finish(driver, &run, 201, 1, vec![exec("one more")]).unwrap();
    let Some(TurnEnd::Failed { error }) = &world.asked[&(session, 1)] else {
        panic!("it goes on: {:?}", world.asked);
    };
    assert!(error.starts_with("budget"), "{error}");
    assert!(world.pushed(worker).is_empty());
}

#[derive(Clone, Debug)]
enum Act {
    Driver,
    Worker,
    Unlink(usize),
    Lose(usize),
    Session(bool),
    Say(usize, bool),
    Finish(usize, u8),
    Take(usize),
    Complete(usize),
    Report(usize),
    Decide(usize, bool),
    Cancel(usize),
    CancelCall(usize),
    Pass(i64),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let i = 0..4_usize;
    prop_oneof![
        2 => Just(Act::Driver),
        2 => Just(Act::Worker),
        1 => i.clone().prop_map(Act::Unlink),
        1 => i.clone().prop_map(Act::Lose),
        2 => any::<bool>().prop_map(Act::Session),
        4 => (i.clone(), prop::bool::weighted(0.05)).prop_map(|(i, stop)| Act::Say(i, stop)),
        9 => (i.clone(), 0..5_u8).prop_map(|(i, kind)| Act::Finish(i, kind)),
        7 => i.clone().prop_map(Act::Take),
        7 => i.clone().prop_map(Act::Complete),
        2 => i.clone().prop_map(Act::Report),
        4 => (i.clone(), any::<bool>()).prop_map(|(i, allow)| Act::Decide(i, allow)),
        1 => i.clone().prop_map(Act::Cancel),
        1 => i.prop_map(Act::CancelCall),
        4 => prop_oneof![Just(1), Just(6), Just(40), Just(200), Just(4_000)].prop_map(Act::Pass),
        1 => Just(Act::Restart),
    ]
}

/// What really ran: a task that a worker took runs until it says that it ended, or its process is lost with its worker.
#[derive(Default)]
struct Ran {
    /// How often each call began, and whether it may begin twice.
    began: BTreeMap<String, (u32, bool)>,
}

impl World {
    fn nth_of<T>(all: Vec<T>, i: usize) -> Option<T> {
        let len = all.len();
        all.into_iter().nth(i % len.max(1))
    }

    fn workers(&self) -> Vec<u64> {
        self.state
            .agents
            .iter()
            .filter(|a| !a.is_assistant())
            .map(|a| a.key)
            .collect()
    }

    fn act_on_runs(&mut self, act: Act, ran: &mut Ran) -> Option<()> {
        match act {
            Act::Driver => drop(self.try_agent("assistant", &[words::protocol::RUNS], &[])),
            Act::Worker => drop(self.try_agent("worker", &[], &TOOLS)),
            Act::Unlink(i) => {
                let all: Vec<u64> = self
                    .state
                    .agents
                    .iter()
                    .filter(|a| a.link.is_some())
                    .map(|a| a.key)
                    .collect();
                let agent = Self::nth_of(all, i)?;
                let link = self.state.agents.get(agent)?.link?;
                self.unlink(agent, link);
            }
            Act::Lose(i) => {
                let worker = Self::nth_of(self.workers(), i)?;
                self.must(|state, step| state.unregister(step, worker, "gone"));
            }
            Act::Session(asks) => {
                let config = nexus_proto::orchestrator::v1::SessionConfig {
                    policy: Some(nexus_proto::orchestrator::v1::SessionPolicy {
                        require_approval: asks,
                        ..Default::default()
                    }),
                    ..Default::default()
                };
                let metadata = SessionMetadata::default();
                self.step(|state, step| state.create_session(step, &admin(), metadata, Some(config)))
                    .ok()?;
            }
            Act::Say(i, stop) => {
                let all: Vec<u64> = self.state.sessions.iter().map(|session| session.key).collect();
                let session = Self::nth_of(all, i)?;
                self.say(session, if stop { "stop" } else { "go" }).ok()?;
            }
            Act::Finish(i, kind) => {
                let running: Vec<(u64, u64, u64, i32, u32)> = self
                    .state
                    .sessions
                    .iter()
                    .filter_map(|session| {
                        let turn = session.turn()?;
                        let Phase::Running { agent, .. } = turn.phase else {
                            return None;
                        };
                        Some((session.key, turn.n, agent, turn.step, turn.attempt))
                    })
                    .collect();
                let (session, n, driver, number, attempt) = Self::nth_of(running, i)?;
                let run = self.state.run_view(session, n)?.id;
                let blocks = match kind {
                    0 => vec![text("done")],
                    1 => vec![exec(&format!("step {number}"))],
                    2 => vec![
                        call("r", "read_file", r#"{"path":"a"}"#),
                        exec("x"),
                        call("r", "read_file", "{"),
                    ],
                    3 => vec![call("u", "nothing", "{}")],
                    _ => (0..12).map(|i| exec(&format!("many {i} of {number}"))).collect(),
                };
                self.finish(driver, &run, number, i32::try_from(attempt).unwrap(), blocks)
                    .unwrap();
            }
            Act::Take(i) => {
                let waiting = self
                    .state
                    .tasks
                    .iter()
                    .filter(|task| task.state() == TaskState::Pending);
                let all: Vec<(u64, u64)> = waiting.filter_map(|task| Some((task.key, task.agent?))).collect();
                let (task, worker) = Self::nth_of(all, i)?;
                self.take(worker, task);
                let call = self.state.tasks.get(task)?.call?;
                let call = self.state.calls.get(call)?;
                let began = ran.began.entry(call.wire.id.clone()).or_insert((0, call.idempotent));
                began.0 += 1;
            }
            Act::Complete(i) => {
                let running = self
                    .state
                    .tasks
                    .iter()
                    .filter(|task| task.state() == TaskState::Running);
                let task = Self::nth_of(running.map(|task| task.key).collect(), i)?;
                self.complete(task, "output");
            }
            Act::Report(i) => {
                let worker = Self::nth_of(self.workers(), i)?;
                let own = self
                    .state
                    .tasks
                    .iter()
                    .filter(|task| task.agent == Some(worker) && task.started.is_some());
                let active: Vec<String> = own.map(|task| task.id.to_string()).collect();
                self.step(|state, step| Ok(state.heartbeat(step, worker, None, &active)))
                    .ok()?;
            }
            Act::Decide(i, allow) => {
                let pending: Vec<_> = self.state.approvals.pending().map(|a| a.wire.clone()).collect();
                let approval = Self::nth_of(pending, i)?;
                let decide = Decide {
                    allow,
                    digest: approval.digest,
                    ..Decide::default()
                };
                self.step(|state, step| state.decide_approval(step, &admin(), &approval.id, decide))
                    .ok()?;
            }
            Act::Cancel(i) => {
                let sessions = self.state.sessions.iter();
                let all: Vec<(u64, u64)> = sessions
                    .flat_map(|session| session.turns().iter().map(|turn| (session.key, turn.n)))
                    .collect();
                let (session, n) = Self::nth_of(all, i)?;
                self.must(|state, step| {
                    assert!(state.cancel_run(step, session, n, RunEnd::Cancelled, "", &mut Cancelled::default()));
                });
            }
            Act::CancelCall(i) => {
                let open = self.state.calls.iter().filter(|call| !call.is_over());
                let call = Self::nth_of(open.map(|call| call.key).collect(), i)?;
                self.must(|state, step| state.cancel_call(step, call, "test"));
            }
            Act::Pass(seconds) => self.pass(seconds * SECOND),
            Act::Restart => self.restart(),
        }
        Some(())
    }

    fn check_runs(&mut self, ran: &Ran) {
        for (call, (began, idempotent)) in &ran.began {
            let most = if *idempotent { 2 } else { 1 };
            assert!(*began <= most, "call {call} ran {began} times");
        }
        for (_, message) in std::mem::take(&mut self.delivered) {
            let Some(agent_message::Payload::Step(offer)) = message.payload else {
                continue;
            };
            let previous = offer.previous.expect("a later step has one before it");
            assert!(!previous.calls.is_empty(), "a step without calls is the last one");
            for call in &previous.calls {
                assert!(
                    crate::domain::call::is_over(call.state()),
                    "a step without all results: {call:?}"
                );
                assert!(!call.result.is_empty(), "a call without a result: {call:?}");
            }
        }
        let runs: Vec<&crate::domain::run::Run> = self.state.runs.iter().collect();
        for run in runs {
            let wire: &Run = &run.wire;
            let turn = self
                .state
                .sessions
                .get(run.session)
                .and_then(|s| s.turn().map(|turn| turn.n));
            assert!(
                wire.state() == RunState::Ended || turn == Some(run.n),
                "a run without its turn: {wire:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_call_runs_once_or_is_unknown_and_told(acts in proptest::collection::vec(act(), 1..150)) {
        let rules = Rules { max_agents: 8, turns_per_assistant: 2, ..Rules::default() };
        let mut world = World::new(rules);
        let mut ran = Ran::default();
        world.driver();
        world.worker();
        world.session();
        for act in acts {
            world.act_on_runs(act, &mut ran);
            world.check();
            world.check_runs(&ran);
        }
        // In the end everything comes to an end by itself.
        world.pass(48 * 3600 * SECOND);
        world.check();
        world.check_runs(&ran);
        prop_assert!(world.asked.values().all(Option::is_some), "a turn that is never over: {:?}", world.asked);
        prop_assert!(world.state.calls.iter().all(Call::is_over));
        prop_assert_eq!(world.state.approvals.pending().count(), 0);
    }
}
