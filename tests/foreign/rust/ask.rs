use nexus_client::{Address, Connection, Options};
use nexus_proto::orchestrator::v1::{
    CreateSessionRequest, Message, MessageRole, StreamMessageRequest, stream_message_request,
    stream_message_response::Payload,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let socket = std::env::var("GRPC_SOCKET_PATH").unwrap_or("/tmp/baaaht-grpc.sock".into());
    let connection = Connection::open(&socket.parse::<Address>()?, &Options::default()).await?;
    let mut orchestrator = connection.orchestrator();

    let made = orchestrator.create_session(CreateSessionRequest::default()).await?;
    let question = StreamMessageRequest {
        session_id: made.into_inner().session_id,
        payload: Some(stream_message_request::Payload::Message(Message {
            role: MessageRole::User.into(),
            content: "hello from Rust".into(),
            ..Message::default()
        })),
        ..StreamMessageRequest::default()
    };
    let mut frames = orchestrator
        .stream_messages(tokio_stream::once(question))
        .await?
        .into_inner();
    while let Some(frame) = frames.message().await? {
        match frame.payload {
            Some(Payload::Message(answer)) => println!("the whole answer: {}", answer.content),
            Some(Payload::Event(event)) if event.data.contains_key("error") => anyhow::bail!("{:?}", event.data),
            _ => {}
        }
    }
    Ok(())
}
