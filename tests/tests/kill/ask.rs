//! A client of unary calls: it says what it has to say, and looks into the session for the answers at the end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nexus_proto::orchestrator::v1::MessageRole;
use nexus_tests::{PATIENCE, ask, in_reply_to};
use tokio::time::sleep;

use super::{Client, Moment};

/// Between two questions, at most: a session answers one after the other.
const PAUSE_MS: u64 = 600;

pub async fn asker(mut client: Client) {
    let mut asked = BTreeMap::new();
    while !client.is_over() {
        let id = format!("{}-{}", client.name, asked.len());
        let question = client.question();
        send(&mut client, &id, &question).await;
        asked.insert(id, question);
        sleep(Duration::from_millis(client.random.below(PAUSE_MS))).await;
    }
    // Turns that failed are open again once their question is repeated.
    let until = Instant::now() + PATIENCE;
    loop {
        let messages = ask::messages(&client.connection, &client.session).await;
        for answered in messages.iter().filter_map(in_reply_to) {
            asked.remove(answered);
        }
        if asked.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "no answer to {asked:?}");
        for (id, question) in &asked {
            send(&mut client, id, question).await;
        }
        client.pause().await;
    }
}

/// Until it is acknowledged.
async fn send(client: &mut Client, id: &str, question: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        client.note(Moment::Received);
        let message = ask::message(id, MessageRole::User, question);
        match ask::send(&client.connection, &client.session, message).await {
            Ok(stored) => {
                assert_eq!(stored, id);
                client.record.ack(&client.session, id, 0);
                client.note(Moment::Stored);
                return;
            }
            Err(error) => client.try_again(&error).await,
        }
        assert!(Instant::now() < until, "{id} cannot be sent");
    }
}
