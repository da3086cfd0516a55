//! Messages, their answers, and what a client sees of both.

use nexus_proto::agent::v1::{AgentMessage, ControlCommand, MessageType, agent_message};
use nexus_proto::orchestrator::v1::MessageRole;
use tonic::Code;

use super::site::{Shown, Site, refused, system, user};

fn is_cancel(message: &AgentMessage) -> bool {
    matches!(&message.payload, Some(agent_message::Payload::ControlMessage(control))
        if control.command() == ControlCommand::Cancel && message.r#type() == MessageType::Control)
}

#[tokio::test]
async fn an_answer_comes_in_pieces_and_whole_to_all_and_no_words_come_back() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    let (mut asks, mut watches) = (site.chat(&session).await, site.chat(&session).await);
    asks.say(user("Wie geht's?")).await;
    let (request, text) = assistant.asked().await;
    assert_eq!(text, "Wie geht's?");
    assert_eq!(
        (request.source_id.as_str(), &request.target_id),
        ("orchestrator", &assistant.id)
    );
    assert_eq!(request.metadata.as_ref().unwrap().session_id, session);
    assistant.delta(&request, 0, "Sch").await;
    assert_eq!(
        asks.next().await,
        Shown::Piece {
            index: 0,
            text: "Sch".into()
        }
    );
    assistant.delta(&request, 3, "ön").await;
    assert_eq!(
        asks.next().await,
        Shown::Piece {
            index: 3,
            text: "ön".into()
        }
    );
    assistant.answer(&request, "Schön").await;
    assert_eq!(
        asks.next().await,
        Shown::Message(MessageRole::Assistant, "Schön".into())
    );
    assert_eq!(watches.next().await, Shown::User("Wie geht's?".into()));
    let rest = watches.until(|shown| matches!(shown, Shown::Message(..))).await;
    let pieces: String = rest
        .iter()
        .map(|shown| match shown {
            Shown::Piece { text, .. } => text.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pieces, "Schön");
    let stored = site.said(&session).await;
    assert_eq!(
        stored,
        [
            (MessageRole::User, "Wie geht's?".into()),
            (MessageRole::Assistant, "Schön".into())
        ]
    );
}

#[tokio::test]
async fn without_an_assistant_each_message_gets_its_error_and_the_stream_goes_on() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut chat = site.chat(&session).await;
    for text in ["one", "two", "three"] {
        chat.say(user(text)).await;
        assert_eq!(chat.error().await, "NOT_FOUND: assistant agent not found");
    }
    assert_eq!(site.said(&session).await.len(), 3, "stored before they were routed");
    let mut assistant = site.assistant().await;
    chat.say(user("four")).await;
    let (request, text) = assistant.asked().await;
    assert_eq!(text, "four", "what failed is over");
    assistant.answer(&request, "4").await;
    assert_eq!(chat.answer().await, "4");
}

#[tokio::test]
async fn a_unary_message_reaches_the_assistant_and_one_without_a_role_is_the_users() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    let mut chat = site.chat(&session).await;
    site.send(&session, user("by call")).await.unwrap();
    let (request, text) = assistant.asked().await;
    assert_eq!(text, "by call");
    assistant.answer(&request, "heard").await;
    assert_eq!(chat.answer().await, "heard");
    let mut nameless = user("by stream");
    nameless.role = 0;
    chat.say(nameless).await;
    let (request, text) = assistant.asked().await;
    assert_eq!(text, "by stream");
    assistant.answer(&request, "too").await;
    assert_eq!(chat.answer().await, "too");
    chat.say(system("noted")).await;
    assert!(chat.beat().await.is_empty(), "nobody answers what is not the user's");
    assert_eq!(site.said(&session).await[2].0, MessageRole::User);
}

#[tokio::test]
async fn an_error_of_the_assistant_is_told_and_a_reply_without_data_too() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    let mut chat = site.chat(&session).await;
    chat.say(user("one")).await;
    let (request, _) = assistant.asked().await;
    assistant.fail(&request, "out of tokens").await;
    assert_eq!(chat.error().await, "INTERNAL: out of tokens");
    chat.say(user("two")).await;
    let (mut request, _) = assistant.asked().await;
    request.payload = None;
    request.target_id = "orchestrator".into();
    assistant
        .put(nexus_proto::agent::v1::stream_agent_request::Payload::Message(request))
        .await;
    assert_eq!(chat.error().await, "INTERNAL: the answer has no data");
    chat.say(user("")).await;
    assert!(chat.error().await.starts_with("INVALID_ARGUMENT"));
}

#[tokio::test]
async fn cancel_keeps_what_was_said_and_the_next_message_is_answered() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    let mut chat = site.chat(&session).await;
    chat.say(user("long story")).await;
    let (request, _) = assistant.asked().await;
    assistant.delta(&request, 0, "Once upon").await;
    chat.until(|shown| matches!(shown, Shown::Piece { .. })).await;
    chat.say(user("queued")).await;
    chat.cancel("").await;
    assert_eq!(chat.answer().await, "Once upon");
    let cancel = assistant.next().await;
    assert!(is_cancel(&cancel), "{cancel:?}");
    let (next, text) = assistant.asked().await;
    assert_eq!(text, "queued");
    assistant.answer(&request, "Once upon a time").await;
    assistant.answer(&next, "yes").await;
    assert_eq!(chat.answer().await, "yes", "the late answer is not stored");
    let messages = site.get(&session).await.context.unwrap().messages;
    let cut = messages.iter().find(|message| message.content == "Once upon").unwrap();
    assert_eq!(cut.metadata.as_ref().unwrap().extra["cancelled"], "true");
    assert_eq!(cut.metadata.as_ref().unwrap().extra["in_reply_to"], messages[0].id);
}

#[tokio::test]
async fn an_assistant_that_dies_is_replaced_once_and_the_answer_starts_over() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut first = site.assistant().await;
    let mut chat = site.chat(&session).await;
    chat.say(user("hi")).await;
    let (request, _) = first.asked().await;
    first.delta(&request, 0, "Gö").await;
    assert_eq!(
        chat.next().await,
        Shown::Piece {
            index: 0,
            text: "Gö".into()
        }
    );
    drop(first);
    let mut second = site.assistant().await;
    let (request, text) = second.asked().await;
    assert_eq!(text, "hi");
    assert_eq!(request.metadata.as_ref().unwrap().headers["attempt"], "2");
    second.delta(&request, 0, "Hello").await;
    assert_eq!(
        chat.next().await,
        Shown::Piece {
            index: 0,
            text: "Hello".into()
        }
    );
    drop(second);
    assert!(chat.error().await.starts_with("UNAVAILABLE"));
}

#[tokio::test]
async fn a_turn_in_which_a_tool_ran_does_not_run_twice() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    let mut chat = site.chat(&session).await;
    chat.say(user("delete it")).await;
    let (request, _) = assistant.asked().await;
    assistant.tool(&request).await;
    assistant.delta(&request, 0, "x").await;
    chat.until(|shown| matches!(shown, Shown::Piece { .. })).await;
    drop(assistant);
    assert!(chat.error().await.starts_with("UNAVAILABLE"));
}

#[tokio::test]
async fn an_answer_that_starts_over_is_shown_from_its_beginning() {
    let site = Site::new().await;
    let session = site.session().await;
    let mut assistant = site.assistant().await;
    let mut chat = site.chat(&session).await;
    chat.say(user("hi")).await;
    let (request, _) = assistant.asked().await;
    assistant.delta(&request, 0, "abc").await;
    assert_eq!(
        chat.next().await,
        Shown::Piece {
            index: 0,
            text: "abc".into()
        }
    );
    // Byte 3 is in the middle of a letter of the new text, which is longer than the old when it is looked at.
    assistant.delta(&request, 0, "xyéé").await;
    assert_eq!(
        chat.next().await,
        Shown::Piece {
            index: 0,
            text: "xyéé".into()
        }
    );
    assistant.answer(&request, "xyéé").await;
    assert_eq!(chat.answer().await, "xyéé");
}

#[tokio::test]
async fn sessions_that_wait_for_a_place_get_it() {
    let site = Site::with(&[("turns_per_assistant", "1")]).await;
    let mut assistant = site.assistant().await;
    let mut chats = Vec::new();
    for n in 0..5 {
        let chat = site.chat(&site.session().await).await;
        chat.say(user(&format!("{n}"))).await;
        chats.push(chat);
    }
    for _ in 0..5 {
        let (request, text) = assistant.asked().await;
        assistant.answer(&request, &text).await;
    }
    for (n, chat) in chats.iter_mut().enumerate() {
        assert_eq!(chat.answer().await, format!("{n}"));
    }
}

#[tokio::test]
async fn closing_a_session_ends_its_turn_and_its_streams() {
    let site = Site::new().await;
    for delete in [false, true] {
        let session = site.session().await;
        let mut assistant = site.assistant().await;
        let mut chat = site.chat(&session).await;
        chat.say(user("hi")).await;
        assistant.asked().await;
        let session_id = session.clone();
        if delete {
            let request = nexus_proto::orchestrator::v1::DeleteSessionRequest { session_id };
            site.orchestrator().delete_session(request).await.unwrap();
        } else {
            let request = nexus_proto::orchestrator::v1::CloseSessionRequest {
                session_id,
                reason: String::new(),
            };
            site.orchestrator().close_session(request).await.unwrap();
        }
        assert!(is_cancel(&assistant.next().await), "the assistant need not go on");
        chat.error().await;
        let message = refused(chat.end().await, Code::FailedPrecondition);
        assert!(message.contains(&session), "{message}");
    }
}
