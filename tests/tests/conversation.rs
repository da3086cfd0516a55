//! A conversation over the orchestrator's socket: pieces and the whole, cancel, several at once, nobody to answer, and
//! an assistant that dies while it speaks.

use nexus_proto::orchestrator::v1::{Message, MessageRole};
use nexus_tests::{Daemon, Frame, Site, Talk, ask, in_reply_to};
use tonic::Code;

/// Slow enough that there is a middle of an answer.
const SLOW: (&str, &str) = ("NEXUS_LLM__OFFLINE_PACE", "20ms");

/// The pieces of one answer, as they come.
#[derive(Debug, Default)]
struct Pieces {
    of: String,
    text: String,
    /// How often it began.
    begun: usize,
}

impl Pieces {
    fn take(&mut self, message_id: &str, index: usize, text: &str) {
        if index == 0 {
            self.begun += 1;
            self.text.clear();
            self.of = message_id.into();
        }
        assert_eq!(self.of, message_id, "two answers at once");
        assert_eq!(self.text.len(), index, "a piece is missing");
        self.text.push_str(text);
    }
}

/// Everything up to the next message or error.
async fn listen(talk: &mut Talk, pieces: &mut Pieces) -> Frame {
    loop {
        match talk
            .next()
            .await
            .expect("the stream goes on")
            .expect("the stream goes on")
        {
            Frame::Delta {
                message_id,
                index,
                text,
            } => pieces.take(&message_id, index, &text),
            Frame::Ack { .. } => {}
            whole => return whole,
        }
    }
}

async fn answer(talk: &mut Talk, pieces: &mut Pieces) -> Message {
    match listen(talk, pieces).await {
        Frame::Message(message) => message,
        other => panic!("an answer was due, not {other:?}"),
    }
}

/// Until the answer has begun.
async fn first_piece(talk: &mut Talk, pieces: &mut Pieces) {
    loop {
        match talk
            .next()
            .await
            .expect("the stream goes on")
            .expect("the stream goes on")
        {
            Frame::Delta {
                message_id,
                index,
                text,
            } => return pieces.take(&message_id, index, &text),
            Frame::Ack { .. } => {}
            other => panic!("a piece was due, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn pieces_make_the_answer_and_the_session_keeps_it() {
    let mut site = Site::new().env("NEXUS_LLM__OFFLINE_PACE", "1ms");
    site.up_line().await;
    let connection = site.connect();
    let session = ask::create(&connection, "talk").await;
    let mut talk = Talk::open(&connection, &session, None, true).await.unwrap();

    talk.say("q1", "please count to 40").await;
    let ack = talk.next().await.unwrap();
    assert_eq!(
        ack,
        Some(Frame::Ack {
            message_id: "q1".into(),
            sequence: 1
        }),
        "stored before it is answered"
    );
    let mut pieces = Pieces::default();
    let first = answer(&mut talk, &mut pieces).await;
    assert_eq!(in_reply_to(&first), Some("q1"));
    assert_eq!(first.role(), MessageRole::Assistant);
    assert!(first.content.contains("38 39 40"), "{first:?}");
    assert_eq!(
        (pieces.of, pieces.text, pieces.begun),
        (first.id.clone(), first.content.clone(), 1)
    );

    // The conversation is the session's: the next answer knows the first question.
    talk.say("q2", "and now?").await;
    let mut pieces = Pieces::default();
    let second = answer(&mut talk, &mut pieces).await;
    assert!(
        second.content.contains("it began with \"please count to 40\""),
        "{second:?}"
    );
    assert_eq!(pieces.text, second.content);

    // The same id again is the same message, and its answer comes again.
    talk.say("q1", "please count to 40").await;
    assert_eq!(answer(&mut talk, &mut Pieces::default()).await, first);
    talk.say("q1", "something else").await;
    match talk.next_whole().await.unwrap() {
        Some(Frame::Failed { message_id, error }) => {
            assert_eq!(message_id, "q1");
            assert!(error.starts_with("ALREADY_EXISTS"), "{error}");
        }
        other => panic!("the id is taken, so not {other:?}"),
    }

    // No id, and a model asked for by name.
    let mut named = ask::message("", MessageRole::User, "hello");
    let wanted = named.metadata.get_or_insert_default();
    wanted.extra.insert("model".into(), "offline/nexus-offline-1".into());
    talk.message(named).await;
    let third = answer(&mut talk, &mut Pieces::default()).await;
    let model = third.metadata.as_ref().unwrap().extra.get("model");
    assert!(
        model.is_some_and(|model| model.contains("nexus-offline-1")),
        "{third:?}"
    );
    let messages = ask::messages(&connection, &session).await;
    ask::in_order(&messages);
    assert_eq!(messages.len(), 6);
    assert_eq!(messages[1], first);
    assert_eq!(messages[5], third);
    assert_eq!(in_reply_to(&third), Some(&*messages[4].id));

    // Half-closed with an answer owed: it comes, and then the end.
    talk.say("q4", "the last one").await;
    talk.half_close();
    let last = answer(&mut talk, &mut Pieces::default()).await;
    assert_eq!(in_reply_to(&last), Some("q4"));
    assert_eq!(talk.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_cancel_keeps_what_was_said_and_marks_it() {
    let mut site = Site::new().env(SLOW.0, SLOW.1);
    site.up_line().await;
    let connection = site.connect();
    let session = ask::create(&connection, "cancel").await;
    let mut talk = Talk::open(&connection, &session, None, false).await.unwrap();

    talk.say("long", "count to 5000").await;
    let mut pieces = Pieces::default();
    first_piece(&mut talk, &mut pieces).await;
    talk.cancel("long").await;
    let cut = answer(&mut talk, &mut pieces).await;
    assert_eq!(pieces.text, cut.content, "what was shown is what is kept");
    assert!(!cut.content.contains("5000"));
    let extra = &cut.metadata.as_ref().unwrap().extra;
    assert_eq!(extra.get("cancelled").map(String::as_str), Some("true"), "{extra:?}");
    assert_eq!(in_reply_to(&cut), Some("long"));

    // A turn that waits can be cancelled too: it fails, and the one that runs does not notice.
    talk.say("runs", "count to 60").await;
    first_piece(&mut talk, &mut pieces).await;
    talk.say("waits", "hello").await;
    talk.cancel("waits").await;
    match listen(&mut talk, &mut pieces).await {
        Frame::Failed { message_id, error } => {
            assert_eq!(message_id, "waits");
            assert!(error.starts_with("CANCELED"), "{error}");
        }
        other => panic!("the cancelled turn comes first, not {other:?}"),
    }
    let whole = answer(&mut talk, &mut pieces).await;
    assert!(whole.content.contains("59 60"), "{whole:?}");
    assert_eq!(pieces.text, whole.content);

    let messages = ask::messages(&connection, &session).await;
    ask::in_order(&messages);
    assert_eq!(messages[1], cut);
    // The assistant works on: nothing of a cancelled answer comes later.
    talk.say("waits", "hello").await;
    let again = answer(&mut talk, &mut Pieces::default()).await;
    assert_eq!(in_reply_to(&again), Some("waits"));
}

#[tokio::test]
async fn two_streams_of_one_session_hear_each_other_and_not_themselves() {
    let mut site = Site::new().env("NEXUS_LLM__OFFLINE_PACE", "1ms");
    site.up_line().await;
    let connection = site.connect();
    let session = ask::create(&connection, "two").await;
    let mut one = Talk::open(&connection, &session, None, false).await.unwrap();
    let mut other = Talk::open(&site.connect(), &session, None, false).await.unwrap();
    // Only its sender is answered.
    other.heartbeat().await;
    assert_eq!(other.next().await.unwrap(), Some(Frame::Heartbeat));

    one.say("q", "hello both").await;
    let (mut here, mut there) = (Pieces::default(), Pieces::default());
    let words = Frame::Words {
        message_id: "q".into(),
        content: "hello both".into(),
    };
    assert_eq!(listen(&mut other, &mut there).await, words);
    let heard = answer(&mut other, &mut there).await;
    let answered = answer(&mut one, &mut here).await;
    assert_eq!(answered, heard);
    assert_eq!(here.text, there.text);
    assert_eq!(here.text, answered.content);

    // A unary message reaches both, and its answer too.
    ask::send(
        &connection,
        &session,
        ask::message("u", MessageRole::User, "from elsewhere"),
    )
    .await
    .unwrap();
    let words = Frame::Words {
        message_id: "u".into(),
        content: "from elsewhere".into(),
    };
    for talk in [&mut one, &mut other] {
        assert_eq!(listen(talk, &mut Pieces::default()).await, words);
        assert_eq!(in_reply_to(&answer(talk, &mut Pieces::default()).await), Some("u"));
    }
}

#[tokio::test]
async fn nobody_to_answer_is_said_at_once_and_a_repeat_is_answered_later() {
    let mut site = Site::new();
    site.up(&[Daemon::Orchestrator]).await;
    let connection = site.connect();
    let session = ask::create(&connection, "alone").await;
    let mut talk = Talk::open(&connection, &session, None, true).await.unwrap();
    talk.say("q", "is anybody there?").await;
    let failed = loop {
        match talk.next().await.unwrap().unwrap() {
            Frame::Ack { message_id, sequence } => assert_eq!((&*message_id, sequence), ("q", 1)),
            Frame::Failed { message_id, error } => break (message_id, error),
            other => panic!("an error was due, not {other:?}"),
        }
    };
    assert_eq!(failed, ("q".into(), "NOT_FOUND: assistant agent not found".into()));

    // The failure is durable: nothing answers it by surprise, neither after a kill nor when an assistant comes.
    site.kill(Daemon::Orchestrator);
    site.up(&[Daemon::Orchestrator]).await;
    assert_eq!(talk.end().await.unwrap_err().code(), Code::Unavailable);
    site.up(&[Daemon::Llm, Daemon::Agent]).await;
    site.answers().await;
    let messages = ask::messages(&connection, &session).await;
    assert_eq!(messages.len(), 1, "{messages:?}");

    let mut talk = Talk::open(&connection, &session, Some(1), false).await.unwrap();
    talk.say("q", "is anybody there?").await;
    let late = answer(&mut talk, &mut Pieces::default()).await;
    assert_eq!((in_reply_to(&late), late.sequence), (Some("q"), 2));
}

#[tokio::test]
async fn an_assistant_killed_while_it_speaks_begins_once_more() {
    let mut site = Site::new().env(SLOW.0, SLOW.1);
    site.up_line().await;
    let connection = site.connect();
    let session = ask::create(&connection, "killed").await;
    let mut talk = Talk::open(&connection, &session, None, false).await.unwrap();
    talk.say("q", "count to 100").await;
    let mut pieces = Pieces::default();
    first_piece(&mut talk, &mut pieces).await;

    site.kill(Daemon::Agent);
    site.up(&[Daemon::Agent]).await;
    let whole = answer(&mut talk, &mut pieces).await;
    assert_eq!(pieces.begun, 2, "its pieces begin again, at 0");
    assert_eq!(pieces.text, whole.content);
    assert_eq!(pieces.of, whole.id, "it is the same answer");
    assert!(whole.content.contains("99 100"));

    // A step has three attempts. Killed in all of them the turn fails, and says so.
    talk.say("again", "count to 300").await;
    let mut pieces = Pieces::default();
    for _ in 0..3 {
        let begun = pieces.begun;
        while pieces.begun == begun {
            first_piece(&mut talk, &mut pieces).await;
        }
        site.kill(Daemon::Agent);
        site.up(&[Daemon::Agent]).await;
    }
    match listen(&mut talk, &mut pieces).await {
        Frame::Failed { message_id, error } => {
            assert_eq!(message_id, "again");
            assert!(error.starts_with("UNAVAILABLE"), "{error}");
        }
        other => panic!("the turn is over, so not {other:?}"),
    }
    let messages = ask::messages(&connection, &session).await;
    ask::in_order(&messages);
    let roles: Vec<_> = messages.iter().map(Message::role).collect();
    assert_eq!(roles, [MessageRole::User, MessageRole::Assistant, MessageRole::User]);
}

#[tokio::test]
async fn an_assistant_that_never_comes_back_fails_the_turn_within_the_grace() {
    let mut site = Site::new()
        .env(SLOW.0, SLOW.1)
        .env("NEXUS_ORCHESTRATOR__ASSISTANT_GRACE", "300ms");
    site.up_line().await;
    let connection = site.connect();
    let session = ask::create(&connection, "gone").await;
    let mut talk = Talk::open(&connection, &session, None, false).await.unwrap();
    talk.say("q", "count to 1000").await;
    let mut pieces = Pieces::default();
    first_piece(&mut talk, &mut pieces).await;
    site.kill(Daemon::Agent);
    match listen(&mut talk, &mut pieces).await {
        Frame::Failed { message_id, error } => {
            assert_eq!((&*message_id, &*error), ("q", "NOT_FOUND: assistant agent not found"));
        }
        other => panic!("nobody can answer, so not {other:?}"),
    }
}

#[tokio::test]
async fn a_model_killed_while_it_speaks_fails_the_turn_and_a_repeat_is_answered() {
    let mut site = Site::new().env(SLOW.0, SLOW.1);
    site.up_line().await;
    let connection = site.connect();
    let session = ask::create(&connection, "model").await;
    let mut talk = Talk::open(&connection, &session, None, false).await.unwrap();
    talk.say("q", "count to 100").await;
    let mut pieces = Pieces::default();
    first_piece(&mut talk, &mut pieces).await;
    site.kill(Daemon::Llm);
    match listen(&mut talk, &mut pieces).await {
        Frame::Failed { message_id, error } => {
            assert_eq!(message_id, "q");
            assert!(error.starts_with("UNAVAILABLE"), "{error}");
        }
        other => panic!("half an answer is none, so not {other:?}"),
    }
    site.up(&[Daemon::Llm]).await;
    talk.say("q", "count to 100").await;
    let mut pieces = Pieces::default();
    let whole = answer(&mut talk, &mut pieces).await;
    assert!(whole.content.contains("99 100"));
    assert_eq!(pieces.text, whole.content);
}
