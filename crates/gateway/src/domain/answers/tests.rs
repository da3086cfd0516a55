use super::*;
use proptest::prelude::*;

fn said(content: &str) -> StoredMessage {
    let extra = BTreeMap::from([("in_reply_to".into(), "q".into())]);
    StoredMessage {
        id: "a".into(),
        sequence: 2,
        content: content.into(),
        extra,
    }
}

fn drain(answers: &mut Answers) -> Vec<Frame> {
    std::iter::from_fn(|| answers.next(9)).collect()
}

/// What a client prints that shows the text of every chunk, and clears the line when told that it starts over.
fn printed(frames: &[Frame]) -> String {
    frames.iter().fold(String::new(), |mut text, frame| {
        match frame {
            Frame::Chunk(chunk) => text.push_str(&chunk.text),
            Frame::Status(status) if status.message.contains("starts over") => text.clear(),
            Frame::Status(_) => {}
        }
        text
    })
}

fn phases(frames: &[Frame]) -> Vec<Phase> {
    let phase = |frame: &Frame| match frame {
        Frame::Status(status) => Some(status.phase),
        Frame::Chunk(_) => None,
    };
    frames.iter().filter_map(phase).collect()
}

#[test]
fn deltas_then_an_empty_end() {
    let mut answers = Answers::new(Cut { deltas: true, size: 0 });
    assert!(answers.delta("a", "q", 0, "Hel", 1));
    let mut frames = drain(&mut answers);
    assert!(!answers.delta("a", "q", 3, "lo", 2));
    answers.finish(said("Hello!"), 3);
    frames.extend(drain(&mut answers));
    assert_eq!(printed(&frames), "Hello!");
    assert_eq!(phases(&frames), [Phase::Active, Phase::Complete]);
    let Frame::Chunk(last) = &frames[frames.len() - 2] else {
        panic!("{frames:?}")
    };
    assert!(last.is_final && !last.is_delta && last.text.is_empty());
    assert_eq!(
        (
            last.total_bytes,
            last.extra["in_reply_to"].as_str(),
            last.extra["sequence"].as_str()
        ),
        (6, "q", "2")
    );
    let Frame::Status(status) = &frames[frames.len() - 1] else {
        panic!("{frames:?}")
    };
    assert_eq!(
        (status.bytes, status.chunks, status.started, status.ended),
        (6, 3, Some(1), Some(9))
    );
}

#[test]
fn what_a_slow_client_did_not_take_grows_together() {
    let mut answers = Answers::new(Cut { deltas: true, size: 0 });
    for index in 0..1000 {
        answers.delta("a", "q", index, "x", 1);
    }
    let frames = drain(&mut answers);
    assert_eq!(frames.len(), 2, "a status and one chunk");
    assert_eq!(printed(&frames).len(), 1000);
}

#[test]
fn the_whole_answer_is_cut_and_its_last_piece_is_final() {
    let mut answers = Answers::new(Cut { deltas: false, size: 4 });
    answers.delta("a", "q", 0, "no", 1);
    answers.finish(said("0123456789"), 2);
    let frames = drain(&mut answers);
    assert_eq!(printed(&frames), "0123456789");
    let chunks: Vec<_> = frames
        .iter()
        .filter_map(|frame| match frame {
            Frame::Chunk(chunk) => Some((chunk.sequence, chunk.text.as_str(), chunk.is_delta, chunk.is_final)),
            Frame::Status(_) => None,
        })
        .collect();
    assert_eq!(
        chunks,
        [
            (0, "0123", false, false),
            (1, "4567", false, false),
            (2, "89", false, true)
        ]
    );
}

#[test]
fn an_empty_answer_still_ends() {
    for deltas in [true, false] {
        let mut answers = Answers::new(Cut { deltas, size: 3 });
        answers.finish(said(""), 2);
        let frames = drain(&mut answers);
        assert_eq!(phases(&frames), [Phase::Active, Phase::Complete]);
        assert!(matches!(&frames[1], Frame::Chunk(chunk) if chunk.is_final));
    }
}

#[test]
fn the_same_again_says_nothing_and_something_else_says_so() {
    let mut answers = Answers::new(Cut { deltas: true, size: 0 });
    answers.delta("a", "q", 0, "one two", 1);
    let mut frames = drain(&mut answers);
    answers.delta("a", "q", 0, "one ", 1);
    answers.delta("a", "q", 4, "two three", 1);
    frames.extend(drain(&mut answers));
    assert_eq!(printed(&frames), "one two three");
    assert_eq!(phases(&frames), [Phase::Active]);

    answers.delta("b", "q", 0, "one", 1);
    answers.delta("b", "q", 3, "self", 1);
    frames.extend(drain(&mut answers));
    assert_eq!(printed(&frames), "oneself");
    assert_eq!(phases(&frames), [Phase::Active, Phase::Active]);
    answers.finish(said("oneself alone"), 3);
    frames.extend(drain(&mut answers));
    assert_eq!(printed(&frames), "oneself alone");
}

#[test]
fn joining_in_the_middle_waits_for_the_whole() {
    let mut answers = Answers::new(Cut { deltas: true, size: 0 });
    answers.delta("a", "q", 5, "later", 1);
    let mut frames = drain(&mut answers);
    assert_eq!(printed(&frames), "");
    answers.finish(said("firstlater"), 3);
    frames.extend(drain(&mut answers));
    assert_eq!(printed(&frames), "firstlater");
}

proptest! {
    /// Whatever is repeated, cut or lost on the way, the client ends with the answer.
    #[test]
    fn the_client_ends_with_the_answer(
        text in "\\PC{0,60}",
        deltas in any::<bool>(),
        size in 0usize..8,
        steps in prop::collection::vec((0usize..60, 1usize..20, any::<bool>()), 0..20),
    ) {
        let mut answers = Answers::new(Cut { deltas, size });
        let mut frames = Vec::new();
        for (from, length, take) in steps {
            let from = text.floor_char_boundary(from);
            let to = text.floor_char_boundary(from + length);
            answers.delta("a", "q", from, &text[from..to], 1);
            if take {
                frames.extend(drain(&mut answers));
            }
        }
        answers.finish(said(&text), 2);
        frames.extend(drain(&mut answers));
        prop_assert_eq!(printed(&frames), text);
        prop_assert!(!phases(&frames).contains(&Phase::Error));
        prop_assert!(answers.is_empty() && answers.queued_bytes == 0);
    }
}
