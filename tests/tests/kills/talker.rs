//! A client on a stream: one question at a time, the next once it is answered.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nexus_proto::orchestrator::v1::{Message, MessageRole};
use nexus_tests::{Frame, Talk, in_reply_to};

use crate::client::{Client, Moment};

/// No question takes longer, however many kills fall into it.
const LONGEST: Duration = Duration::from_secs(60);

/// What one client said and was told, over all its connections.
#[derive(Debug, Default)]
pub struct Told {
    pub name: String,
    pub session: String,
    /// Its questions, in order.
    pub said: Vec<String>,
    /// Questions that it asked more than once.
    pub repeated: BTreeSet<String>,
    /// Messages beyond the cursor, in the order in which they came.
    pub fresh: Vec<(u64, MessageRole)>,
    /// Questions whose answers came once more.
    pub again: Vec<String>,
    /// Everything up to here has come.
    pub cursor: u64,
}

pub async fn talker(mut client: Client) -> Told {
    let mut told = Told {
        name: client.name.clone(),
        session: client.session.clone(),
        ..Told::default()
    };
    let mut talk = None;
    while !client.is_over() {
        let id = format!("{}-{}", client.name, told.said.len());
        let question = client.question(&id);
        told.said.push(id.clone());
        let until = Instant::now() + LONGEST;
        for attempt in 0.. {
            assert!(
                Instant::now() < until,
                "{id} has no answer after {LONGEST:?} and {attempt} attempts: {told:?}"
            );
            if attempt > 0 {
                told.repeated.insert(id.clone());
            }
            if once(&mut client, &mut talk, &mut told, &id, &question).await {
                break;
            }
            client.pause().await;
        }
    }
    told
}

/// Asks once. True if the answer came.
async fn once(client: &mut Client, open: &mut Option<Talk>, told: &mut Told, id: &str, question: &str) -> bool {
    let mut talk = match open.take() {
        Some(talk) => talk,
        None => match Talk::open(&client.connection, &client.session, Some(told.cursor), true).await {
            Ok(talk) => talk,
            Err(error) => {
                client.try_again(&error).await;
                return false;
            }
        },
    };
    if !talk.say(id, question).await {
        return false;
    }
    client.note(Moment::Received);
    let mut piece: Option<(String, String)> = None;
    loop {
        match talk.next().await {
            Ok(Some(Frame::Ack { message_id, sequence })) => {
                client.record.ack(&client.session, &message_id, sequence);
                client.note(Moment::Stored);
            }
            Ok(Some(Frame::Delta {
                message_id,
                index,
                text,
            })) => {
                client.note(Moment::Routed);
                let mut before = match piece.take() {
                    Some((of, before)) if of == message_id && index > 0 => before,
                    _ => String::new(),
                };
                assert_eq!(
                    before.len(),
                    index,
                    "a piece of {message_id} is missing on one connection"
                );
                before.push_str(&text);
                piece = Some((message_id, before));
            }
            Ok(Some(Frame::Message(message))) => {
                if let Some((_, pieces)) = piece.take_if(|(of, _)| *of == message.id) {
                    assert_eq!(pieces, message.content, "the pieces are not the answer");
                }
                if take(told, &message) == Some(id) {
                    client.note(Moment::Answered);
                    *open = Some(talk);
                    return true;
                }
            }
            Ok(Some(Frame::Failed { message_id, .. })) if message_id == id => {
                *open = Some(talk);
                return false;
            }
            Ok(Some(Frame::Failed { .. } | Frame::Words { .. })) => {}
            Ok(Some(other)) => panic!("{id}: nobody asked for {other:?}"),
            Ok(None) => panic!("{id}: the stream ended with OK, and an answer is owed"),
            Err(error) => {
                client.try_again(&error).await;
                return false;
            }
        }
    }
}

/// Writes a message down; returns what it answers.
fn take<'a>(told: &mut Told, message: &'a Message) -> Option<&'a str> {
    let question = in_reply_to(message);
    if message.sequence > told.cursor {
        told.cursor = message.sequence;
        told.fresh.push((message.sequence, message.role()));
    } else if let Some(question) = question {
        told.again.push(question.into());
    } else {
        panic!("message {} came again", message.sequence);
    }
    question
}
