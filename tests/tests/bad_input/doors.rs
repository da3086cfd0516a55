//! What `llm.v1` and `gateway.v1` refuse, through the front door.

use nexus_proto::{gateway::v1::*, llm::v1 as llm};
use nexus_tests::{Daemon, Site, raw};
use prost::Message;
use tonic::Code;

use crate::{
    UNCLEAR,
    refused::{Asked, NOBODY},
    through_the_door,
};

#[tokio::test]
async fn what_is_behind_the_front_door_refuses_as_clearly() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator, Daemon::Llm, Daemon::Gateway]).await;
    let connection = site.connect();
    through_the_door(&connection).await;
    let asked = Asked {
        connection: &connection,
        service: "llm.v1.LLMService",
    };
    asked
        .refused("CompleteLLM", llm::CompleteLlmRequest::default(), Code::InvalidArgument)
        .await;
    let request = Some(llm::LlmRequest::default());
    asked
        .refused(
            "CompleteLLM",
            llm::CompleteLlmRequest { request },
            Code::InvalidArgument,
        )
        .await;
    asked
        .refused("StreamLLM", llm::StreamLlmRequest::default(), Code::InvalidArgument)
        .await;
    let lost = llm::LlmRequest {
        request_id: "r".into(),
        model: "nobody/has-this".into(),
        messages: vec![llm::LlmMessage {
            role: "user".into(),
            content: "hi".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let path = "/llm.v1.LLMService/CompleteLLM";
    let call = raw::Call::message(&llm::CompleteLlmRequest { request: Some(lost) }.encode_to_vec());
    let answer = raw::call(&connection, path, call).await;
    assert!(
        !UNCLEAR.contains(&answer.code()) && answer.code() != Code::Ok,
        "{:?}",
        answer.status
    );

    let asked = Asked {
        connection: &connection,
        service: "gateway.v1.GatewayService",
    };
    for id in ["", NOBODY, "not an id"] {
        let code = if id.is_empty() {
            Code::InvalidArgument
        } else {
            Code::NotFound
        };
        let id = id.to_owned();
        asked
            .refused(
                "GetGatewaySession",
                GetGatewaySessionRequest { session_id: id.clone() },
                code,
            )
            .await;
        let close = CloseGatewaySessionRequest {
            session_id: id.clone(),
            ..Default::default()
        };
        asked.refused("CloseGatewaySession", close, code).await;
        let message = Some(GatewayMessage {
            content: "x".into(),
            ..Default::default()
        });
        let send = GatewaySendMessageRequest {
            session_id: id.clone(),
            message,
        };
        asked.refused("GatewaySendMessage", send, code).await;
        asked
            .refused(
                "StreamChat",
                StreamChatRequest {
                    session_id: id.clone(),
                    payload: None,
                },
                code,
            )
            .await;
        let stream = StreamResponsesRequest {
            session_id: id,
            ..Default::default()
        };
        asked.refused("StreamResponses", stream, code).await;
    }
}
