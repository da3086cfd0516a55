//! What is carried over when a commit group failed.

use super::*;

fn chatting() -> (World, u64, u64) {
    let mut world = World::new(Rules::default());
    let session = world.session();
    let agent = world.register("assistant");
    world.link(agent);
    (world, session, agent)
}

#[test]
fn a_running_answer_goes_on_after_a_failed_group() {
    let (mut world, session, agent) = chatting();
    world.say(session, "hello").unwrap();
    let (_, correlation) = world.offered();
    world.failing = true;
    world.say(session, "lost").unwrap();
    world.fail();
    world.check();
    assert_eq!(world.state.sessions.get(session).unwrap().head(), 1);
    assert!(world.answer(agent, session, &correlation, "answer"));
    world.check();
}

#[test]
fn an_answer_that_could_not_be_stored_is_not_asked_for_again() {
    let (mut world, session, agent) = chatting();
    world.say(session, "hello").unwrap();
    let (_, correlation) = world.offered();
    world.failing = true;
    assert!(world.answer(agent, session, &correlation, "answer"));
    world.fail();
    world.check();
    assert_eq!(world.offers.len(), 1);
    let over = world.asked.values().next().unwrap();
    assert!(matches!(over, Some(TurnEnd::Failed { error }) if error.contains("could not be stored")));
}

#[test]
fn an_offer_that_was_never_sent_is_made_again() {
    let (mut world, session, agent) = chatting();
    world.unlink(agent, 1);
    world.say(session, "hello").unwrap();
    assert!(world.offers.is_empty());
    let link = world.state.agents.links + 1;
    // The assistant comes back, and the offer to it is in the group that fails.
    assert_eq!(world.link(agent), link);
    assert_eq!(world.offers.len(), 1);
    let (_, correlation) = world.offered();
    world.state.take_back_offer(session, agent, &correlation);
    world.failing = true;
    world.dispatch(session);
    assert_eq!(world.offers.len(), 1);
    world.fail();
    world.check();
    assert_eq!(world.offers.len(), 2);
}

#[test]
fn streams_of_what_never_came_to_be_end() {
    let (mut world, kept, _) = chatting();
    world.failing = true;
    let session = world.session();
    let agent = world.register("worker");
    world.link(agent);
    world.state.count_stream(session, true).unwrap();
    world.state.count_stream(kept, true).unwrap();
    world.attached.session_streams.extend([session, kept]);
    world.fail();
    world.check();
    assert_eq!(world.attached.session_streams, [kept]);
    assert_eq!(world.state.sessions.get(kept).unwrap().streams(), 1);
    assert!(world.attached.agent_streams.iter().all(|(of, _)| *of != agent));
}
