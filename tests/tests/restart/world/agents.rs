//! Agents keep their ids, and what was sent to them while they were away waits for them.

use nexus_client::Connection;
use nexus_proto::agent::v1::{
    Agent, AgentMessage, AgentMetadata, AgentSendMessageRequest, AgentType, DataMessage, HeartbeatRequest,
    ListAgentsRequest, MessageType, RegisterRequest, StreamAgentRequest, agent_message::Payload, stream_agent_response,
};
use nexus_tests::PATIENCE;
use tokio::time::timeout;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

const KEPT: usize = 20;

pub struct Made {
    worker: String,
    sent: Vec<AgentMessage>,
}

pub async fn make(connection: &Connection) -> Made {
    let mut client = connection.agent();
    let mut ids = Vec::new();
    for name in ["worker", "worker", "monitor"] {
        let labels = [("zone".to_owned(), "here".to_owned())].into();
        let request = RegisterRequest {
            name: name.into(),
            r#type: AgentType::Worker.into(),
            metadata: Some(AgentMetadata {
                version: "7".into(),
                labels,
                ..AgentMetadata::default()
            }),
            capabilities: None,
        };
        let answer = client.register(request).await.unwrap().into_inner();
        assert!(!answer.registration_token.is_empty());
        ids.push(answer.agent_id);
    }
    assert_ne!(ids[0], ids[1], "each Register is a new agent");
    let mut sent = Vec::new();
    for number in 0..KEPT {
        let message = AgentMessage {
            id: format!("m{number}"),
            r#type: MessageType::Data.into(),
            source_id: "a test".into(),
            target_id: ids[0].clone(),
            payload: Some(Payload::DataMessage(DataMessage {
                data: format!("for later {number}").into_bytes().into(),
                ..DataMessage::default()
            })),
            ..AgentMessage::default()
        };
        let request = AgentSendMessageRequest {
            agent_id: ids[0].clone(),
            message: Some(message.clone()),
        };
        client.send_message(request).await.unwrap();
        sent.push(message);
    }
    Made {
        worker: ids[0].clone(),
        sent,
    }
}

/// Without the time of the last heartbeat: a restart gives everyone a new lease.
pub async fn look(connection: &Connection) -> Vec<Agent> {
    let mut agents = connection
        .agent()
        .list_agents(ListAgentsRequest {})
        .await
        .unwrap()
        .into_inner()
        .agents;
    assert_eq!(agents.len(), 4, "with the worker of the tasks");
    for agent in &mut agents {
        agent.last_heartbeat = None;
    }
    agents
}

pub async fn go_on(connection: &Connection, made: &Made) {
    let mut client = connection.agent();
    let request = HeartbeatRequest {
        agent_id: made.worker.clone(),
        ..HeartbeatRequest::default()
    };
    client.heartbeat(request).await.expect("the old id is good");

    let (say, said) = tokio::sync::mpsc::channel(1);
    let first = StreamAgentRequest {
        agent_id: made.worker.clone(),
        payload: None,
    };
    say.try_send(first).unwrap();
    let mut stream = client
        .stream_agent(ReceiverStream::new(said))
        .await
        .unwrap()
        .into_inner();
    for wanted in &made.sent {
        let frame = timeout(PATIENCE, stream.next())
            .await
            .expect("it comes")
            .expect("it goes on")
            .unwrap();
        let Some(stream_agent_response::Payload::Message(message)) = frame.payload else {
            panic!("a message was due, not {frame:?}")
        };
        assert_eq!(
            (&message.id, &message.payload),
            (&wanted.id, &wanted.payload),
            "in order"
        );
    }
}
