//! A client of unary calls: it says what it has to say, and looks into the session for the answer.

use std::time::{Duration, Instant};

use nexus_proto::orchestrator::v1::{GetSessionRequest, Message, MessageRole};
use nexus_tests::{ask, in_reply_to};
use tonic::Status;

use crate::client::{Client, Moment};

/// No question takes longer, however many kills fall into it.
const LONGEST: Duration = Duration::from_secs(60);
/// Looks at the session until the question is repeated: its turn may have failed.
const LOOKS: usize = 20;
/// Newer than the answer there is at most what the other client of the session and its answers add.
const NEWEST: i32 = 50;

pub async fn asker(mut client: Client) {
    let mut asked = 0;
    while !client.is_over() {
        let id = format!("{}-{asked}", client.name);
        let question = client.question(&id);
        let until = Instant::now() + LONGEST;
        while !once(&mut client, &id, &question).await {
            assert!(Instant::now() < until, "{id} has no answer after {LONGEST:?}");
        }
        asked += 1;
    }
}

/// Asks once. True if there is an answer a while later.
async fn once(client: &mut Client, id: &str, question: &str) -> bool {
    client.note(Moment::Received);
    let message = ask::message(id, MessageRole::User, question);
    match ask::send(&client.connection, &client.session, message).await {
        Ok(stored) => assert_eq!(stored, id),
        Err(error) => {
            client.try_again(&error).await;
            return false;
        }
    }
    client.record.ack(&client.session, id, 0);
    client.note(Moment::Stored);
    for _ in 0..LOOKS {
        match newest(client).await {
            Ok(messages) if messages.iter().any(|message| in_reply_to(message) == Some(id)) => {
                client.note(Moment::Answered);
                return true;
            }
            Ok(_) => client.pause().await,
            Err(error) => client.try_again(&error).await,
        }
    }
    false
}

async fn newest(client: &Client) -> Result<Vec<Message>, Status> {
    let request = GetSessionRequest {
        session_id: client.session.clone(),
        message_limit: NEWEST,
        messages_before: 0,
    };
    let answer = client.connection.orchestrator().get_session(request).await?;
    Ok(answer
        .into_inner()
        .session
        .and_then(|session| session.context)
        .unwrap_or_default()
        .messages)
}
