//! Registration, heartbeats, streams of agents, and mail for them.

use nexus_proto::agent::v1::*;
use tonic::Code;

use super::site::{Linked, Site, refused};

async fn send(site: &Site, agent_id: &str, text: &str) -> Result<String, tonic::Status> {
    let data = DataMessage {
        data: text.as_bytes().to_vec().into(),
        ..DataMessage::default()
    };
    let message = AgentMessage {
        payload: Some(agent_message::Payload::DataMessage(data)),
        ..AgentMessage::default()
    };
    let request = AgentSendMessageRequest {
        agent_id: agent_id.into(),
        message: Some(message),
    };
    site.agent()
        .send_message(request)
        .await
        .map(|sent| sent.into_inner().message_id)
}

async fn mail(linked: &mut Linked) -> String {
    linked.asked().await.1
}

async fn state(site: &Site, id: &str) -> AgentState {
    let agents = site
        .agent()
        .list_agents(ListAgentsRequest {})
        .await
        .unwrap()
        .into_inner()
        .agents;
    agents.iter().find(|agent| agent.id == id).unwrap().state()
}

#[tokio::test]
async fn a_registration_is_idle_and_has_id_and_token() {
    let site = Site::new().await;
    let request = RegisterRequest {
        name: "worker".into(),
        ..RegisterRequest::default()
    };
    let first = site.agent().register(request.clone()).await.unwrap().into_inner();
    assert!(!first.agent_id.is_empty() && !first.registration_token.is_empty());
    assert_eq!(first.agent.unwrap().state(), AgentState::Idle);
    let second = site.agent().register(request).await.unwrap().into_inner();
    assert_ne!(second.agent_id, first.agent_id, "the same name may register again");
    let gone = UnregisterRequest {
        agent_id: first.agent_id.clone(),
        reason: "tired".into(),
    };
    let answer = site.agent().unregister(gone.clone()).await.unwrap().into_inner();
    assert_eq!(
        (answer.success, answer.message.as_str()),
        (true, "Agent unregistered: tired")
    );
    assert_eq!(
        refused(site.agent().unregister(gone).await, Code::NotFound),
        "agent not found"
    );
    let beat = HeartbeatRequest {
        agent_id: first.agent_id,
        ..HeartbeatRequest::default()
    };
    refused(site.agent().heartbeat(beat).await, Code::NotFound);
}

#[tokio::test]
async fn ids_stay_valid_after_a_restart() {
    let mut site = Site::new().await;
    let id = site.register("worker").await;
    site.restart().await;
    let beat = HeartbeatRequest {
        agent_id: id.clone(),
        ..HeartbeatRequest::default()
    };
    site.agent().heartbeat(beat).await.unwrap();
    site.link(&id).await;
}

#[tokio::test]
async fn the_newest_stream_of_an_agent_wins() {
    let site = Site::new().await;
    let mut older = site.assistant().await;
    let mut newer = site.link(&older.id).await;
    refused(older.end().await, Code::Aborted);
    drop(older);
    send(&site, &newer.id.clone(), "for you").await.unwrap();
    assert_eq!(mail(&mut newer).await, "for you");
}

#[tokio::test]
async fn a_stream_ends_with_its_agent_and_an_unknown_one_has_none() {
    let site = Site::new().await;
    let mut linked = site.assistant().await;
    let gone = UnregisterRequest {
        agent_id: linked.id.clone(),
        ..UnregisterRequest::default()
    };
    site.agent().unregister(gone).await.unwrap();
    assert_eq!(refused(linked.end().await, Code::NotFound), "agent not found");
    let mut unknown = site.link_unheard("nobody").await;
    refused(unknown.end().await, Code::NotFound);
    let mut nameless = site.link_unheard("").await;
    assert_eq!(
        refused(nameless.end().await, Code::InvalidArgument),
        "first message must contain agent_id"
    );
}

#[tokio::test]
async fn an_agent_is_shown_as_lost_when_its_stream_ends_until_it_is_heard_of() {
    let site = Site::new().await;
    let linked = site.assistant().await;
    let id = linked.id.clone();
    assert_eq!(state(&site, &id).await, AgentState::Idle);
    let mut events = site.events(Default::default()).await.unwrap();
    drop(linked);
    events.of("agent.lost").await;
    assert_eq!(state(&site, &id).await, AgentState::Terminated);
    let beat = HeartbeatRequest {
        agent_id: id.clone(),
        ..HeartbeatRequest::default()
    };
    site.agent().heartbeat(beat).await.unwrap();
    assert_eq!(state(&site, &id).await, AgentState::Idle);
}

#[tokio::test]
async fn silence_loses_an_agent_and_its_next_heartbeat_brings_it_back() {
    let site = Site::with(&[("agent_ttl", "50ms")]).await;
    let mut events = site.events(Default::default()).await.unwrap();
    let id = site.register("worker").await;
    assert_eq!(events.of("agent.lost").await.data["agent_id"], id);
    let beat = HeartbeatRequest {
        agent_id: id.clone(),
        ..HeartbeatRequest::default()
    };
    site.agent().heartbeat(beat).await.unwrap();
    assert_eq!(events.of("agent.recovered").await.data["agent_id"], id);
}

#[tokio::test]
async fn mail_waits_for_a_stream_in_order_also_over_a_restart() {
    let mut site = Site::with(&[("max_kept_messages", "3")]).await;
    let id = site.register("worker").await;
    for text in ["one", "two", "three"] {
        send(&site, &id, text).await.unwrap();
    }
    let message = refused(send(&site, &id, "four").await, Code::ResourceExhausted);
    assert!(message.contains("max_kept_messages"), "{message}");
    site.restart().await;
    let mut linked = site.link(&id).await;
    for text in ["one", "two", "three"] {
        assert_eq!(mail(&mut linked).await, text);
    }
    send(&site, &id, "four").await.unwrap();
    assert_eq!(mail(&mut linked).await, "four");
    drop(linked);
    let mut linked = site.link(&id).await;
    send(&site, &id, "five").await.unwrap();
    assert_eq!(mail(&mut linked).await, "five", "nothing comes twice");
    refused(send(&site, "nobody", "x").await, Code::NotFound);
}

#[tokio::test]
async fn more_mail_than_a_stream_queues_is_kept_and_not_lost() {
    let site = Site::with(&[("max_kept_messages", "3000")]).await;
    let id = site.register("worker").await;
    for n in 0..1500 {
        send(&site, &id, &format!("{n}")).await.unwrap();
    }
    let mut linked = site.link(&id).await;
    for n in 0..1500 {
        assert_eq!(mail(&mut linked).await, format!("{n}"));
    }
}

#[tokio::test]
async fn agents_write_to_one_another() {
    let site = Site::new().await;
    let (from, mut to) = (site.assistant().await, site.link(&site.register("worker").await).await);
    let data = DataMessage {
        data: b"psst".to_vec().into(),
        ..DataMessage::default()
    };
    let message = AgentMessage {
        r#type: MessageType::Data.into(),
        target_id: to.id.clone(),
        payload: Some(agent_message::Payload::DataMessage(data)),
        ..AgentMessage::default()
    };
    from.put(stream_agent_request::Payload::Message(message)).await;
    assert_eq!(mail(&mut to).await, "psst");
}
