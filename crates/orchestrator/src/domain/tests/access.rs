//! What agents of another uid may see and do.

use super::*;

fn registration(name: &str, labels: &[(&str, &str)]) -> RegisterRequest {
    let labels = labels
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    let capabilities = AgentCapabilities {
        supported_tasks: vec!["code-execution".into()],
        ..AgentCapabilities::default()
    };
    RegisterRequest {
        name: name.into(),
        r#type: AgentType::Worker.into(),
        metadata: Some(AgentMetadata {
            labels,
            ..AgentMetadata::default()
        }),
        capabilities: Some(capabilities),
    }
}

fn register(world: &mut World, by: &Caller, name: &str, labels: &[(&str, &str)]) -> Result<u64, Error> {
    let request = registration(name, labels);
    world.step(|state, step| state.register(step, by, request))
}

fn id(world: &World, agent: u64) -> String {
    world.state.agents.get(agent).unwrap().id.to_string()
}

#[test]
fn an_assistant_of_another_uid_is_one_that_the_settings_name() {
    let mut world = World::new(Rules {
        assistants: ["uid:7".to_owned()].into(),
        ..Rules::default()
    });
    let (named, other) = (caller(Role::Agent, 7), caller(Role::Agent, 8));
    for (name, labels) in [
        ("assistant", &[][..]),
        ("ASSISTANT", &[]),
        ("x", &[("role", "Assistant")]),
    ] {
        let refused = register(&mut world, &other, name, labels).unwrap_err().to_string();
        assert!(
            refused.contains("uid:8") && refused.contains("orchestrator.assistants"),
            "{refused}"
        );
        register(&mut world, &named, name, labels).unwrap();
        register(&mut world, &admin(), name, labels).unwrap();
    }
    register(&mut world, &other, "worker", &[]).unwrap();
}

#[test]
fn an_assistant_of_before_the_setting_gets_no_stream() {
    let mut world = World::new(Rules {
        assistants: ["uid:7".to_owned()].into(),
        ..Rules::default()
    });
    let by = caller(Role::Agent, 7);
    let agent = register(&mut world, &by, "assistant", &[]).unwrap();
    let agent = id(&world, agent);
    world.state.linkable(&agent, &by).unwrap();
    world.state.rules.assistants.clear();
    assert!(matches!(world.state.linkable(&agent, &by), Err(Error::NotNamed { .. })));
}

#[test]
fn a_front_door_name_is_served_by_those_that_the_settings_name() {
    let mut world = World::new(Rules {
        front_door: ["uid:7".to_owned()].into(),
        ..Rules::default()
    });
    let labels = [("nexus.socket", "/a"), ("nexus.services", "llm.v1.LLMService")];
    let refused = register(&mut world, &caller(Role::Agent, 8), "llm", &labels).unwrap_err();
    assert!(refused.to_string().contains("orchestrator.front_door"), "{refused}");
    register(&mut world, &caller(Role::Agent, 7), "llm", &labels).unwrap();
    register(&mut world, &admin(), "llm", &labels).unwrap();
}

#[test]
fn an_agent_knows_its_own_tasks_only() {
    let mut world = World::new(Rules::default());
    let (mine, theirs) = (caller(Role::Agent, 7), caller(Role::Agent, 8));
    let own = register(&mut world, &mine, "a", &[]).unwrap();
    let other = register(&mut world, &theirs, "b", &[]).unwrap();
    let task = world.task(Some(own), TaskConfig::default()).unwrap();
    let task = world.state.tasks.get(task).unwrap().wire.clone();
    assert!(world.state.visible_task(&task.id, &mine).is_ok());
    assert!(world.state.visible_task(&task.id, &admin()).is_ok());
    assert!(matches!(
        world.state.visible_task(&task.id, &theirs),
        Err(Error::TaskNotFound)
    ));
    assert!(world.state.shows_ended_task(&task, &mine) && !world.state.shows_ended_task(&task, &theirs));
    let known: Vec<u64> = world.state.agents.visible(&theirs).map(|agent| agent.key).collect();
    assert_eq!(known, [other]);
}

#[test]
fn an_agent_gives_no_task_to_agents_of_others_nor_for_sessions_that_were_not_offered() {
    let mut world = World::new(Rules::default());
    let by = caller(Role::Agent, 7);
    let own = register(&mut world, &by, "a", &[]).unwrap();
    let other = register(&mut world, &admin(), "b", &[]).unwrap();
    let session = world.session();
    let session = world.state.sessions.get(session).unwrap().id.to_string();
    let (own, other) = (id(&world, own), id(&world, other));
    let target = |agent: &str, session: &str| world.state.task_target(&by, agent, session);
    assert!(matches!(target(&other, &session), Err(Error::AgentNotFound)));
    assert!(matches!(target("", &session), Err(Error::Required("agent_id"))));
    assert!(matches!(target(&own, &session), Err(Error::SessionNotFound(_))));
}

#[test]
fn an_agent_reads_a_session_while_it_works_on_a_turn_of_it() {
    let mut world = World::new(Rules {
        assistants: ["uid:7".to_owned()].into(),
        ..Rules::default()
    });
    let by = caller(Role::Agent, 7);
    let agent = register(&mut world, &by, "assistant", &[]).unwrap();
    world.link(agent);
    let (asked, silent) = (world.session(), world.session());
    world.say(asked, "hello").unwrap();
    let id = |world: &World, key| world.state.sessions.get(key).unwrap().id.to_string();
    let (asked_id, silent_id) = (id(&world, asked), id(&world, silent));
    assert!(world.state.reading_view(&asked_id, &by).is_ok());
    assert!(matches!(
        world.state.reading_view(&silent_id, &by),
        Err(Error::SessionNotFound(_))
    ));
    assert!(world.state.reading_view(&asked_id, &caller(Role::Agent, 8)).is_err());
    let (_, correlation) = world.offered();
    assert!(world.answer(agent, asked, &correlation, "hi"));
    assert!(world.state.reading_view(&asked_id, &by).is_err(), "the turn is over");
}

#[test]
fn who_sent_a_message_is_said_by_the_orchestrator() {
    let mut world = World::new(Rules::default());
    let by = caller(Role::Agent, 7);
    let (one, two) = (
        register(&mut world, &by, "a", &[]).unwrap(),
        register(&mut world, &by, "b", &[]).unwrap(),
    );
    let other = register(&mut world, &admin(), "c", &[]).unwrap();
    let (one_id, two_id, other_id) = (id(&world, one), id(&world, two), id(&world, other));
    world.link(two);
    let message = |source: &str, target: &str| AgentMessage {
        source_id: source.into(),
        target_id: target.into(),
        ..AgentMessage::default()
    };
    for (said, told) in [
        ("orchestrator", "uid:7"),
        (&*other_id, "uid:7"),
        ("", "uid:7"),
        (&*one_id, &*one_id),
    ] {
        let message = message(said, "");
        world
            .step(|state, step| state.message_agent(step, &by, &two_id, message))
            .unwrap();
        assert_eq!(world.delivered.last().unwrap().1.source_id, told);
    }
    let relayed = message("orchestrator", &two_id);
    world.step(|state, step| state.relay(step, &by, one, relayed)).unwrap();
    assert_eq!(world.delivered.last().unwrap().1.source_id, one_id);
    let to_another = message("", &other_id);
    let refused = world.step(|state, step| state.relay(step, &by, one, to_another));
    assert!(matches!(refused, Err(Error::AgentNotFound)));
}

#[test]
fn only_administrators_change_the_set_of_images() {
    use super::super::access::may_change_images;
    assert!(may_change_images(&admin(), "pull images").is_ok());
    for role in [Role::User, Role::Agent] {
        let refused = may_change_images(&caller(role, 7), "pull images");
        assert!(matches!(refused, Err(Error::Forbidden(what)) if what == "only an administrator may pull images"));
    }
}
