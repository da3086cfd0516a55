use super::*;
use std::collections::BTreeMap;

const DELTAS: Cut = Cut { deltas: true, size: 0 };

fn message(id: &str) -> Outgoing {
    Outgoing {
        id: id.into(),
        time: None,
        role: Role::User,
        content: "hi".into(),
        extra: BTreeMap::new(),
        traceparent: None,
    }
}

fn answer(sequence: u64, to: &str, content: &str) -> Incoming {
    let extra = BTreeMap::from([("in_reply_to".into(), to.into())]);
    Incoming::Answer(StoredMessage {
        id: format!("to-{to}"),
        sequence,
        content: content.into(),
        extra,
    })
}

fn text(conversation: &mut Conversation) -> String {
    let mut text = String::new();
    while let Some(frame) = conversation.next_frame(0) {
        if let Frame::Chunk(chunk) = frame {
            text.push_str(&chunk.text);
        }
    }
    text
}

#[test]
fn what_is_owed_goes_out_again_and_is_answered_once() {
    let mut chat = Conversation::new(Follow::All, DELTAS, 100, 0);
    chat.heard_up_to(4);
    chat.ask(message("q"), 0);
    assert_eq!(chat.next_message().unwrap().id, "q");
    assert_eq!(chat.next_message(), None);
    assert_eq!(
        chat.take(Incoming::Ack { id: "q".into() }, 1),
        Some(Noted::Stored { id: "q".into() })
    );
    chat.lost();
    chat.resumed();
    assert_eq!(chat.next_message().unwrap().id, "q", "the same id, so stored once");
    assert!(chat.take(answer(6, "q", "yes"), 2).is_some());
    assert!(chat.is_settled());
    assert!(
        chat.take(answer(6, "q", "yes"), 3).is_none(),
        "the stored answer again, for the repeat"
    );
    assert_eq!(text(&mut chat), "yes");
    assert_eq!(chat.cursor(), 6);
}

#[test]
fn an_old_answer_is_given_to_who_asks_again() {
    let mut chat = Conversation::new(Follow::All, DELTAS, 100, 0);
    chat.heard_up_to(10);
    assert!(chat.take(answer(6, "q", "yes"), 2).is_none());
    chat.ask(message("q"), 0);
    assert!(chat.take(answer(6, "q", "yes"), 2).is_some());
    assert_eq!(text(&mut chat), "yes");
}

#[test]
fn silence_ends_at_the_deadline_and_signs_of_life_move_it() {
    let mut chat = Conversation::new(Follow::All, DELTAS, 100, 0);
    chat.ask(message("q"), 0);
    assert_eq!(chat.deadline(), Some(100));
    let piece = Incoming::Delta {
        answer: "a".into(),
        index: 0,
        text: "x".into(),
        in_reply_to: None,
    };
    assert_eq!(
        chat.take(piece, 90),
        Some(Noted::Begun {
            in_reply_to: "q".into()
        })
    );
    assert_eq!(chat.tick(150), []);
    assert!(matches!(&chat.tick(190)[..], [Noted::Failed { message_id, .. }] if message_id == "q"));
    assert!(chat.is_settled());
}

#[test]
fn only_the_answer_that_is_followed() {
    let follow = Follow::One {
        message_id: "q2".into(),
        alone: false,
    };
    let mut one = Conversation::new(follow, DELTAS, 100, 0);
    let piece = |to: Option<&str>| Incoming::Delta {
        answer: "a".into(),
        index: 0,
        text: "x".into(),
        in_reply_to: to.map(Into::into),
    };
    assert_eq!(one.take(piece(None), 0), None);
    assert_eq!(one.take(piece(Some("q1")), 0), None);
    assert_eq!(one.take(answer(2, "q1", "no"), 0), None);
    assert!(!one.is_done());
    assert!(one.take(piece(Some("q2")), 0).is_some());
    assert!(one.take(answer(3, "q2", "xyz"), 0).is_some());
    assert!(one.is_done());
    assert_eq!(text(&mut one), "xyz");
}

#[test]
fn a_message_to_the_record_is_settled_by_its_ack() {
    let mut chat = Conversation::new(Follow::All, DELTAS, 100, 0);
    chat.ask(
        Outgoing {
            role: Role::System,
            ..message("s")
        },
        0,
    );
    assert!(chat.under_way().is_empty());
    chat.take(Incoming::Ack { id: "s".into() }, 1);
    assert!(chat.is_settled());
}

#[test]
fn an_answer_that_breaks_off_is_given_as_far_as_it_came_and_its_error_is_told_once() {
    let mut chat = Conversation::new(Follow::All, DELTAS, 100, 0);
    chat.ask(message("q"), 0);
    chat.next_message();
    let error = "UNAVAILABLE: rack: cuda died";
    let extra = [("in_reply_to", "q"), ("incomplete", "true"), ("error", error)];
    let broken = Incoming::Answer(StoredMessage {
        id: "a".into(),
        sequence: 2,
        content: "Well, ".into(),
        extra: extra.map(|(name, value)| (name.into(), value.into())).into(),
    });
    let noted = chat.take(broken, 1);
    assert!(matches!(noted, Some(Noted::Answered { error: Some(told), .. }) if told == error));
    let failed = Incoming::Failed {
        message_id: Some("q".into()),
        error: error.into(),
    };
    assert_eq!(chat.take(failed, 2), None, "the orchestrator tells it too");
    let frames: Vec<Frame> = std::iter::from_fn(|| chat.next_frame(3)).collect();
    let errors = frames
        .iter()
        .filter(|frame| matches!(frame, Frame::Status(status) if status.phase == Phase::Error));
    let told: Vec<_> = errors.collect();
    assert!(
        matches!(told[..], [Frame::Status(status)] if status.message == error),
        "{frames:?}"
    );
    let text = frames.iter().filter_map(|frame| match frame {
        Frame::Chunk(chunk) => Some(chunk.text.as_str()),
        Frame::Status(_) => None,
    });
    assert_eq!(text.collect::<String>(), "Well, ");
}

#[test]
fn by_what_an_answer_was_cut_short_is_said_with_its_end() {
    for (extra, told) in [
        (vec![("finish_reason", "stop")], ""),
        (vec![("finish_reason", "length")], "agent.answer_tokens"),
        (vec![("finish_reason", "filter")], "content filter"),
        (
            vec![("finish_reason", "length"), ("cut_short", "five tokens")],
            "five tokens",
        ),
    ] {
        let mut chat = Conversation::new(Follow::All, DELTAS, 100, 0);
        let said = StoredMessage {
            id: "a".into(),
            sequence: 2,
            content: "Well, ".into(),
            extra: extra
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        };
        chat.take(Incoming::Answer(said), 1);
        let frames: Vec<Frame> = std::iter::from_fn(|| chat.next_frame(3)).collect();
        let Some(Frame::Status(last)) = frames.last() else {
            panic!("{frames:?}")
        };
        assert_eq!(last.phase, Phase::Complete);
        assert!(
            last.message.contains(told) && told.is_empty() == last.message.is_empty(),
            "{last:?}"
        );
    }
}
