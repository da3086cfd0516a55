use super::*;

fn chatting() -> (World, u64, u64, u64) {
    let mut world = World::new(Rules::default());
    let session = world.session();
    let agent = world.register("assistant");
    let link = world.link(agent);
    (world, session, agent, link)
}

fn last_error(world: &World) -> String {
    world
        .errors
        .last()
        .map(|event| event.data["error"].clone())
        .unwrap_or_default()
}

#[test]
fn without_an_assistant_a_turn_fails_at_once() {
    let mut world = World::new(Rules::default());
    let session = world.session();
    world.say(session, "hi").unwrap();
    assert!(last_error(&world).starts_with("NOT_FOUND:"), "{:?}", world.errors);
    let agent = world.register("assistant");
    world.link(agent);
    assert!(world.offers.is_empty(), "what failed is not answered later by surprise");
}

#[test]
fn a_turn_waits_five_seconds_for_an_assistant_that_was_here() {
    let (mut world, session, agent, link) = chatting();
    world.unlink(agent, link);
    world.pass(29 * SECOND);
    world.say(session, "hi").unwrap();
    world.pass(4 * SECOND);
    assert!(world.errors.is_empty());
    world.pass(SECOND);
    assert_eq!(world.errors.len(), 1);
    world.pass(SECOND);
    world.say(session, "hi").unwrap();
    assert_eq!(world.errors.len(), 2, "31 seconds later nobody is waited for");
}

#[test]
fn an_assistant_that_unregisters_was_here_too() {
    let (mut world, session, agent, _) = chatting();
    world.pass(60 * SECOND);
    world.must(|state, step| state.unregister(step, agent, ""));
    world.say(session, "hi").unwrap();
    assert!(world.errors.is_empty());
    let next = world.register("assistant");
    world.link(next);
    assert_eq!(world.offered().0, next);
    world.check();
}

#[test]
fn turns_run_one_at_a_time_in_order() {
    let (mut world, session, agent, _) = chatting();
    world.say(session, "one").unwrap();
    world.say(session, "two").unwrap();
    assert_eq!(world.offers.len(), 1);
    let (_, first) = world.offered();
    assert!(world.answer(agent, session, &first, "1"));
    assert_eq!(world.offers.len(), 2);
    assert!(
        !world.answer(agent, session, &first, "late"),
        "a late answer finds no turn"
    );
    world.check();
}

#[test]
fn a_message_that_is_not_on_disk_is_given_to_nobody() {
    let (mut world, session, agent, _) = chatting();
    world.say(session, "one").unwrap();
    let (_, first) = world.offered();
    // The second is decided, and its commit is still under way when the first is answered.
    let message = Message {
        role: MessageRole::User.into(),
        content: "two".into(),
        ..Message::default()
    };
    let mut step = Step::new(world.now, &mut world.ids);
    let n = world.state.add_message(&mut step, session, message).unwrap();
    let Step { facts, effects, .. } = step;
    facts.into_iter().for_each(|fact| world.note(fact));
    world.heads.insert(session, n + 1);
    world.state.sessions.get_mut(session).unwrap().end_turn();
    world.dispatch(session);
    assert_eq!(world.offers.len(), 1);
    effects.into_iter().for_each(|effect| world.run(effect));
    assert_eq!(world.offers.len(), 2);
    let _ = (agent, first);
}

#[test]
fn a_lost_assistant_is_replaced_once_and_not_after_a_tool_ran() {
    let (mut world, session, agent, link) = chatting();
    let other = world.register("assistant");
    world.link(other);
    world.say(session, "hi").unwrap();
    let (first, correlation) = world.offered();
    assert_eq!(first, other, "of equals the newest");
    world.link(other);
    let (second, again) = world.offered();
    assert_ne!(correlation, again);
    world.state.agents.get_mut(second).unwrap();
    let newest = world.state.agents.get(second).unwrap().link.unwrap();
    world.unlink(second, newest);
    assert!(last_error(&world).starts_with("UNAVAILABLE"), "twice is enough");

    world.say(session, "with a tool").unwrap();
    let (runs, correlation) = world.offered();
    assert_eq!(runs, agent);
    world.must(|state, step| state.tool_ran(step, runs, session, &correlation));
    world.unlink(agent, link);
    assert_eq!(world.errors.len(), 2);
    world.check();
}

#[test]
fn a_turn_whose_tool_ran_does_not_run_again_after_a_restart() {
    let (mut world, session, agent, _) = chatting();
    world.say(session, "hi").unwrap();
    let (_, correlation) = world.offered();
    world.must(|state, step| state.tool_ran(step, agent, session, &correlation));
    world.restart();
    world.link(agent);
    assert_eq!((world.offers.len(), world.errors.len()), (1, 1));
    world.check();
}

#[test]
fn open_turns_are_offered_after_a_restart_or_fail_after_the_grace() {
    let (mut world, session, agent, _) = chatting();
    world.say(session, "one").unwrap();
    world.say(session, "two").unwrap();
    world.restart();
    world.check();
    world.link(agent);
    let (_, correlation) = world.offered();
    assert!(world.answer(agent, session, &correlation, "1"));
    world.restart();
    world.pass(5 * SECOND);
    assert!(last_error(&world).starts_with("NOT_FOUND"));
    world.check();
}

#[test]
fn cancel_keeps_what_was_produced() {
    let (mut world, session, agent, _) = chatting();
    world.say(session, "hi").unwrap();
    let (_, correlation) = world.offered();
    let delta = |world: &mut World, index, text: &str| {
        world
            .step(|state, step| Ok(state.delta(step, agent, session, &correlation, index, text)))
            .unwrap()
    };
    assert!(delta(&mut world, 0, "Hé"));
    assert!(!delta(&mut world, 2, "x"), "the index is in bytes");
    assert!(delta(&mut world, 3, "llo"));
    world.must(|state, step| state.cancel_turn(step, session, ""));
    let stored = world.cache.message(session, 2).unwrap().clone();
    assert_eq!(stored.content, "Héllo");
    assert_eq!(stored.metadata.as_ref().unwrap().extra["cancelled"], "true");
    assert_eq!(world.delivered.len(), 1, "the assistant is told to stop");
    assert!(!world.answer(agent, session, &correlation, "too late"));
    world.check();
}

#[test]
fn what_came_of_an_answer_that_breaks_off_is_kept_and_marked_and_its_turn_has_failed() {
    let (mut world, session, agent, _) = chatting();
    world.say(session, "hi").unwrap();
    let (_, correlation) = world.offered();
    let begin = |world: &mut World, correlation: &str| {
        let began = world.step(|state, step| Ok(state.delta(step, agent, session, correlation, 0, "Well, ")));
        assert!(began.unwrap());
    };
    begin(&mut world, &correlation);
    let error = "UNAVAILABLE: rack: cuda died";
    world.must(|state, step| {
        state.answer_broke_off(step, agent, session, &correlation, error);
    });
    let question = Message::clone(world.cache.message(session, 1).unwrap());
    let stored = world.cache.message(session, 2).unwrap().clone();
    assert_eq!(stored.content, "Well, ");
    let extra = &stored.metadata.as_ref().unwrap().extra;
    let marks = ["incomplete", "error", "in_reply_to"].map(|name| extra[name].as_str());
    assert_eq!(marks, ["true", error, question.id.as_str()]);
    assert_eq!(last_error(&world), error, "and the turn has failed");
    world.check();

    // The same message may be asked again. An assistant that only went away leaves nothing of its answer.
    let again = |world: &mut World| {
        assert!(
            world
                .step(|state, step| state.retry_turn(step, session, &question))
                .unwrap()
        );
        world.offered().1
    };
    let correlation = again(&mut world);
    begin(&mut world, &correlation);
    world.must(|state, step| {
        state.answer_failed(step, agent, session, &correlation, "UNAVAILABLE: the model daemon");
    });
    assert!(world.cache.message(session, 3).is_none());
    let correlation = again(&mut world);
    assert!(world.answer(agent, session, &correlation, "Well, here it is."));
    world.check();
    world.restart();
    world.check();
}

#[test]
fn cancelling_a_queued_message_leaves_the_first_one_waiting() {
    let rules = Rules {
        turns_per_assistant: 1,
        ..Rules::default()
    };
    let mut world = World::new(rules);
    let (busy, session) = (world.session(), world.session());
    let agent = world.register("assistant");
    world.link(agent);
    world.say(busy, "hi").unwrap();
    let (_, correlation) = world.offered();
    world.say(session, "first").unwrap();
    let second = world.say(session, "second").unwrap();
    let id = world.cache.message(session, second).unwrap().id.clone();
    world.must(|state, step| state.cancel_turn(step, session, &id));
    world.check();
    assert!(world.answer(agent, busy, &correlation, "done"));
    assert_eq!(
        world.offers.len(),
        2,
        "the place that was freed goes to the first message"
    );
}

#[test]
fn who_waits_for_a_place_fails_with_the_last_assistant() {
    let rules = Rules {
        turns_per_assistant: 1,
        ..Rules::default()
    };
    let mut world = World::new(rules);
    let (busy, session) = (world.session(), world.session());
    let agent = world.register("assistant");
    let link = world.link(agent);
    world.say(busy, "hi").unwrap();
    world.say(session, "hi").unwrap();
    world.unlink(agent, link);
    world.check();
    world.pass(5 * SECOND);
    assert_eq!(world.errors.len(), 2);
}

#[test]
fn pieces_of_an_earlier_attempt_are_dropped_and_its_whole_answer_is_not() {
    let (mut world, session, agent, _) = chatting();
    world.say(session, "hi").unwrap();
    let (_, first) = world.offered();
    world.link(agent);
    let late = world
        .step(|state, step| Ok(state.delta(step, agent, session, &first, 0, "old")))
        .unwrap();
    assert!(!late);
    assert!(world.answer(agent, session, &first, "whole"));
}

#[test]
fn a_silent_assistant_is_given_up() {
    let (mut world, session, _, _) = chatting();
    world.say(session, "hi").unwrap();
    world.pass(600 * SECOND);
    assert!(last_error(&world).starts_with("DEADLINE_EXCEEDED"));
    assert_eq!(world.delivered.len(), 1);
    world.check();
}

#[test]
fn closing_or_deleting_a_session_ends_its_turns() {
    let (mut world, session, agent, _) = chatting();
    world.say(session, "one").unwrap();
    world.say(session, "two").unwrap();
    world
        .step(|state, step| state.close_session(step, session, "bye"))
        .unwrap();
    assert_eq!(world.errors.len(), 2);
    assert_eq!(world.state.agents.turns_of(agent), 0);
    assert!(matches!(world.say(session, "three"), Err(Error::SessionClosed { .. })));
    let other = world.session();
    world.say(other, "hi").unwrap();
    world.step(|state, step| state.delete_session(step, other)).unwrap();
    assert_eq!(world.state.agents.turns_of(agent), 0);
    assert!(matches!(world.say(other, "hi"), Err(Error::SessionNotFound(_))));
    world.check();
    world.restart();
    assert!(world.state.sessions.get(other).is_none());
}

#[test]
fn an_empty_message_fails_its_turn_with_a_reason() {
    let (mut world, session, _, _) = chatting();
    world.say(session, "").unwrap();
    assert!(last_error(&world).starts_with("INVALID_ARGUMENT"));
    assert!(world.offers.is_empty());
}

#[test]
fn a_failed_turn_can_be_asked_for_again_and_an_open_one_is_left_alone() {
    let mut world = World::new(Rules::default());
    let session = world.session();
    let n = world.say(session, "hi").unwrap();
    let message = Message::clone(world.cache.message(session, n).unwrap());
    let agent = world.register("assistant");
    world.link(agent);
    assert!(
        world
            .step(|state, step| state.retry_turn(step, session, &message))
            .unwrap()
    );
    assert!(
        !world
            .step(|state, step| state.retry_turn(step, session, &message))
            .unwrap()
    );
    assert_eq!(world.offers.len(), 1);
    world
        .step(|state, step| state.close_session(step, session, ""))
        .unwrap();
    assert!(
        world
            .step(|state, step| state.retry_turn(step, session, &message))
            .is_err()
    );
}
