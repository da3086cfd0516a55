//! Bad input on every call, and limits.

mod fake;

use fake::{
    ask::{at, close, get, subscribe},
    site::{Site, user},
};
use nexus_proto::gateway::v1::*;
use tonic::Code;

#[tokio::test]
async fn limits_are_named() {
    let site = Site::with(&[("max_sessions", "1"), ("max_open_streams", "1")]).await;
    let (session, _) = site.session(None).await;
    let mut client = site.client();
    let status = client
        .create_gateway_session(CreateGatewaySessionRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("limit reached: 1"));
    let _open = subscribe(&site, &session, None).await;
    let request = SubscribeToEventsRequest::default();
    assert_eq!(
        client.subscribe_to_events(request).await.unwrap_err().code(),
        Code::ResourceExhausted
    );
}

#[tokio::test]
async fn bad_input_is_told_clearly() {
    let site = Site::new().await;
    let (session, _) = site.session(None).await;
    let mut client = site.client();
    let invalid = |status: tonic::Status, text: &str| {
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
        assert!(nexus_daemon::status::reason(&status).is_some());
    };
    let config = GatewaySessionConfig {
        idle_timeout_ns: -1,
        ..GatewaySessionConfig::default()
    };
    let request = CreateGatewaySessionRequest {
        metadata: None,
        config: Some(config),
    };
    invalid(
        client.create_gateway_session(request).await.unwrap_err(),
        "idle_timeout_ns must not be negative",
    );
    invalid(
        client.get_gateway_session(get("")).await.unwrap_err(),
        "session_id is required",
    );
    invalid(
        client.close_gateway_session(close("")).await.unwrap_err(),
        "session_id is required",
    );
    let request = GatewaySendMessageRequest {
        session_id: String::new(),
        message: Some(user("", "x")),
    };
    invalid(
        client.gateway_send_message(request).await.unwrap_err(),
        "session_id is required",
    );
    let request = GatewaySendMessageRequest {
        session_id: session.clone(),
        message: None,
    };
    invalid(
        client.gateway_send_message(request).await.unwrap_err(),
        "message is required",
    );
    let message = GatewayMessage {
        role: 77,
        ..user("", "x")
    };
    let request = GatewaySendMessageRequest {
        session_id: session.clone(),
        message: Some(message),
    };
    invalid(
        client.gateway_send_message(request).await.unwrap_err(),
        "message.role has the unknown value 77",
    );
    let request = StreamResponsesRequest::default();
    invalid(
        client.stream_responses(request).await.unwrap_err(),
        "session_id is required",
    );
    let options = Some(StreamOptions {
        chunk_size: -1,
        ..StreamOptions::default()
    });
    let request = StreamResponsesRequest {
        session_id: session.clone(),
        options,
        ..StreamResponsesRequest::default()
    };
    invalid(
        client.stream_responses(request).await.unwrap_err(),
        "chunk_size must not be negative",
    );
    let (start_time, end_time) = (Some(at(20)), Some(at(10)));
    let filter = Some(GatewayEventFilter {
        start_time,
        end_time,
        ..GatewayEventFilter::default()
    });
    let request = SubscribeToEventsRequest {
        session_id: String::new(),
        filter,
    };
    invalid(
        client.subscribe_to_events(request).await.unwrap_err(),
        "end_time is before start_time",
    );
    let filter = Some(GatewayEventFilter {
        r#type: 99,
        ..GatewayEventFilter::default()
    });
    let request = SubscribeToEventsRequest {
        session_id: String::new(),
        filter,
    };
    invalid(
        client.subscribe_to_events(request).await.unwrap_err(),
        "filter.type has the unknown value 99",
    );

    let payload = Some(stream_chat_request::Payload::Message(user("", "x")));
    let nameless = StreamChatRequest {
        session_id: String::new(),
        payload,
    };
    let chat = client.stream_chat(tokio_stream::iter([nameless])).await.unwrap();
    invalid(
        chat.into_inner().message().await.unwrap_err(),
        "first message must contain session_id",
    );
    let chat = client.stream_chat(tokio_stream::iter([])).await.unwrap();
    assert_eq!(
        chat.into_inner().message().await.unwrap(),
        None,
        "nothing said is nothing wrong"
    );

    let code = |status: tonic::Status| status.code();
    assert_eq!(
        code(client.get_gateway_session(get("nope")).await.unwrap_err()),
        Code::NotFound
    );
    let request = StreamResponsesRequest {
        session_id: session.clone(),
        message_id: "nope".into(),
        ..Default::default()
    };
    assert_eq!(
        code(client.stream_responses(request).await.unwrap_err()),
        Code::NotFound
    );
    let config = GatewaySessionConfig {
        max_message_size: 3,
        ..GatewaySessionConfig::default()
    };
    let (small, _) = site.session(Some(config)).await;
    let request = GatewaySendMessageRequest {
        session_id: small,
        message: Some(user("", "1234")),
    };
    let status = client.gateway_send_message(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("max_message_size"));
    let mut long = tonic::Request::new(CreateGatewaySessionRequest::default());
    long.metadata_mut()
        .insert("idempotency-key", "k".repeat(300).parse().unwrap());
    assert_eq!(
        code(client.create_gateway_session(long).await.unwrap_err()),
        Code::InvalidArgument
    );
    assert_eq!(
        client
            .get_gateway_session(get(&session))
            .await
            .unwrap()
            .into_inner()
            .session
            .unwrap()
            .id,
        session
    );
}
