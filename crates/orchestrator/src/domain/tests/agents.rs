use super::*;
use crate::store::kept_messages;

fn send(world: &mut World, agent: u64) -> Result<String, Error> {
    world.step(|state, step| state.send_to_agent(step, agent, AgentMessage::default()))
}

#[test]
fn a_heartbeat_or_a_stream_keeps_an_agent() {
    let mut world = World::new(Rules::default());
    let (beats, streams) = (world.register("a"), world.register("b"));
    world.link(streams);
    for _ in 0..10 {
        world.pass(89 * SECOND);
        world.heartbeat(beats);
    }
    assert!(world.state.agents.iter().all(|agent| agent.is_alive()));
    world.told();
    world.pass(90 * SECOND);
    assert_eq!(world.told(), ["agent.lost"]);
    world.heartbeat(beats);
    assert_eq!(world.told(), ["agent.recovered"]);
    world.check();
}

#[test]
fn a_closed_stream_is_noticed_at_once_and_told_once() {
    let mut world = World::new(Rules::default());
    let agent = world.register("a");
    let link = world.link(agent);
    world.told();
    world.unlink(agent, link);
    assert_eq!(world.told(), ["agent.lost"]);
    world.pass(90 * SECOND);
    assert!(world.told().is_empty(), "its lease ends too, and that was told");
    assert!(!world.state.agents.get(agent).unwrap().is_alive());
    world.link(agent);
    assert_eq!(world.told(), ["agent.recovered"]);
}

#[test]
fn an_agent_that_goes_on_to_beat_after_its_stream_is_alive() {
    let mut world = World::new(Rules::default());
    let agent = world.register("a");
    let link = world.link(agent);
    world.unlink(agent, link);
    world.heartbeat(agent);
    world.told();
    world.pass(89 * SECOND);
    world.heartbeat(agent);
    world.pass(89 * SECOND);
    assert!(world.told().is_empty());
    assert!(world.state.agents.get(agent).unwrap().is_alive());
}

#[test]
fn an_older_stream_that_ends_late_changes_nothing() {
    let mut world = World::new(Rules::default());
    let agent = world.register("a");
    let older = world.link(agent);
    let newer = world.link(agent);
    world.told();
    world.unlink(agent, older);
    assert!(world.told().is_empty());
    assert_eq!(world.state.agents.get(agent).unwrap().link, Some(newer));
}

#[test]
fn messages_are_kept_in_order_up_to_the_limit_and_until_they_expire() {
    let rules = Rules {
        max_kept_messages: 3,
        kept_message_ttl: 10 * SECOND,
        ..Rules::default()
    };
    let mut world = World::new(rules);
    let agent = world.register("a");
    let first = send(&mut world, agent).unwrap();
    world.pass(5 * SECOND);
    let rest = [send(&mut world, agent).unwrap(), send(&mut world, agent).unwrap()];
    assert!(matches!(send(&mut world, agent), Err(Error::Limit { max: 3, .. })));
    world.restart();
    assert!(
        matches!(send(&mut world, agent), Err(Error::Limit { .. })),
        "they survive a restart"
    );
    world.pass(5 * SECOND);
    let last = send(&mut world, agent).unwrap();
    let (_, kept) = world.step(|state, step| Ok(state.link(step, agent))).unwrap();
    let kept: Vec<String> = kept.into_iter().map(|message| message.id).collect();
    assert_eq!(kept, [rest[0].clone(), rest[1].clone(), last]);
    assert!(!kept.contains(&first));
    assert_eq!(
        kept_messages(&mut world.disk.read),
        0,
        "nothing is left behind, the expired included"
    );
}

#[test]
fn the_longest_lost_agent_makes_room_and_a_live_one_never_does() {
    let mut world = World::new(Rules {
        max_agents: 2,
        ..Rules::default()
    });
    let (lost, alive) = (world.register("a"), world.register("b"));
    let request = || RegisterRequest {
        name: "c".into(),
        ..RegisterRequest::default()
    };
    assert!(
        world
            .step(|state, step| state.register(step, &admin(), request()))
            .is_err()
    );
    world.link(alive);
    world.pass(90 * SECOND);
    let new = world
        .step(|state, step| state.register(step, &admin(), request()))
        .unwrap();
    assert!(world.state.agents.get(lost).is_none());
    assert!(world.state.agents.get(alive).is_some() && world.state.agents.get(new).is_some());
    world.check();
}

#[test]
fn a_daemon_from_the_same_place_gets_its_id_back() {
    let mut world = World::new(Rules::default());
    let request = |socket: &str| RegisterRequest {
        name: "llm".into(),
        metadata: Some(AgentMetadata {
            labels: HashMap::from([("nexus.socket".into(), socket.into())]),
            ..AgentMetadata::default()
        }),
        ..RegisterRequest::default()
    };
    let mut register = |uid, socket| {
        world
            .step(|state, step| state.register(step, &caller(Role::Agent, uid), request(socket)))
            .unwrap()
    };
    let first = register(1, "/a");
    assert_eq!(register(1, "/a"), first);
    assert_ne!(register(1, "/b"), first);
    assert_ne!(register(2, "/a"), first);
}

#[test]
fn another_protocol_is_refused_with_both_versions_named() {
    let mut world = World::new(Rules::default());
    let labels = HashMap::from([("nexus.protocol".into(), "999".into())]);
    let metadata = Some(AgentMetadata {
        labels,
        ..AgentMetadata::default()
    });
    let request = RegisterRequest {
        name: "x".into(),
        metadata,
        ..RegisterRequest::default()
    };
    let refused = world
        .step(|state, step| state.register(step, &admin(), request))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("999") && refused.contains(env!("CARGO_PKG_VERSION")),
        "{refused}"
    );
}

#[test]
fn after_a_wake_everyone_has_time_to_be_heard_of() {
    let mut world = World::new(Rules::default());
    let (alive, dead) = (world.register("alive"), world.register("dead"));
    world.told();
    // What the engine does once the host woke, before it looks at what came due.
    world.now += 3600 * SECOND;
    world.must(|state, step| state.woke(step.now));
    world.pass(0);
    assert!(
        world.told().is_empty(),
        "an hour without a heartbeat, and nobody could send one"
    );
    world.pass(30 * SECOND);
    world.heartbeat(alive);
    world.pass(20 * SECOND);
    assert_eq!(world.told(), ["agent.lost"]);
    assert!(world.state.agents.get(alive).unwrap().is_alive());
    assert!(!world.state.agents.get(dead).unwrap().is_alive());
    world.check();
}
