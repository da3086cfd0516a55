use nexus_proto::llm::v1::block::Kind;
use proptest::prelude::*;

use super::*;
use crate::domain::assistant::{
    conversation::{
        PastMessage, PromptMessage,
        tests::{conversation, message, step},
    },
    window::Entry,
};

fn room(window: u64) -> Room {
    Room {
        window,
        answer: window / 8,
        tools: 50,
    }
}

/// What a test's model writes.
const SUMMARY: &str = "The first request is finished. The current one is half done.";

/// Compacts until the conversation fits; how many summaries that took.
fn settle(it: &mut Conversation, room: &Room) -> Result<usize, Error> {
    for rounds in 0..10 {
        match it.make_room(room)? {
            Fit::Fits => return Ok(rounds),
            Fit::Summarise(cut) => it.summarised(cut, SUMMARY.into(), "mark".into(), room),
        }
    }
    panic!("it never settles");
}

fn words(n: usize) -> String {
    "word ".repeat(n)
}

#[test]
fn a_small_conversation_is_left_alone() {
    let mut it = conversation("q");
    it.add_step(step(1, "grep", "{}", "found"));
    let before = it.clone();
    assert_eq!(it.make_room(&room(10_000)), Ok(Fit::Fits));
    assert_eq!(it, before);
}

#[test]
fn old_results_become_lines_before_anything_is_summed_up() {
    let mut it = conversation("q");
    for n in 1..=10 {
        it.add_step(step(n, "read_file", r#"{"path":"a.rs"}"#, &words(3_000)));
    }
    it.steps[0].calls[0].spill = "result:call-1".into();
    let room = room(50_000);
    assert!(it.estimate(50) > room.comfortable());
    assert_eq!(it.make_room(&room), Ok(Fit::Fits));
    assert!(it.summary.is_none());
    assert!(it.estimate(50) <= room.comfortable());
    assert!(
        it.reduced.contains("call-1") && !it.reduced.contains("call-10"),
        "the oldest first"
    );
    let messages = format!("{:?}", it.messages());
    assert!(
        messages.contains("no longer shown: read result:call-1 if you need it"),
        "{messages}"
    );
}

#[test]
fn a_summary_keeps_the_request_the_last_step_and_the_users_words() {
    let mut it = conversation("and now the third thing");
    it.past = (1..=8)
        .map(|n| {
            let role = if n % 2 == 1 { Role::User } else { Role::Assistant };
            message(n, role, &format!("message {n} {}", words(100)))
        })
        .collect();
    it.add_step(step(1, "edit_file", r#"{"path":"src/a.rs"}"#, &words(400)));
    it.add_step(step(2, "read_file", r#"{"path":"src/b.rs"}"#, &words(400)));
    it.add_step(step(3, "exec", r#"{"command":"make"}"#, &words(300)));
    let room = room(3_000);
    let Ok(Fit::Summarise(cut)) = it.make_room(&room) else {
        panic!()
    };
    assert_eq!((cut.messages, cut.steps), (8, 2));
    it.summarised(cut, SUMMARY.into(), "mark".into(), &room);
    let summary = it.summary.clone().unwrap();
    assert_eq!((summary.through_sequence, summary.through_step), (8, 2));
    assert!(summary.messages.last().unwrap().starts_with("message 7"));
    assert!(summary.files_written.contains("src/a.rs") && summary.files_read.contains("src/b.rs"));

    let messages = it.messages();
    let PromptMessage::Text(Entry { text, .. }) = &messages[1] else {
        panic!("{messages:?}")
    };
    assert!(text.starts_with("[summary]"), "{text}");
    assert!(text.contains("<summary mark>") && text.contains(SUMMARY));
    assert!(
        text.ends_with("and now the third thing"),
        "the latest request comes last: {text}"
    );
    assert_eq!(
        messages.len(),
        4,
        "system, summary with the request, the last step and its result"
    );
    assert_eq!(it.make_room(&room), Ok(Fit::Fits));
}

#[test]
fn a_summary_from_the_log_takes_the_place_of_what_it_covers() {
    let stored = |run_id: &str| StoredSummary {
        run_id: run_id.into(),
        through_sequence: 2,
        through_step: 1,
        text: "as it was stored".into(),
    };
    let mut it = conversation("q");
    it.past = (1..=3).map(|n| message(n, Role::User, &format!("m{n}"))).collect();
    it.add_step(step(1, "grep", "{}", "a"));
    it.add_step(step(2, "grep", "{}", "b"));
    let mut other = it.clone();
    assert!(it.resume(stored("r1"), "r1"));
    assert_eq!((it.past.len(), it.steps.len(), it.last_step()), (1, 1, 2));
    let PromptMessage::Text(Entry { text, .. }) = &it.messages()[1] else {
        panic!()
    };
    assert_eq!(text, "as it was stored\n\nm3\n\nq");
    // Steps of another run are not in it.
    assert!(other.resume(stored("r0"), "r1"));
    assert_eq!((other.past.len(), other.steps.len()), (1, 2));
    assert!(!other.resume(stored("r0"), "r1"), "it covers nothing more");
}

#[test]
fn instructions_in_the_session_stay_when_it_is_summed_up() {
    let mut it = conversation("q");
    it.past = vec![
        message(1, Role::System, "speak like a pirate"),
        message(2, Role::User, &words(2_000)),
    ];
    let mut other = it.clone();
    let room = room(3_000);
    let Ok(Fit::Summarise(cut)) = it.make_room(&room) else {
        panic!()
    };
    it.summarised(cut, SUMMARY.into(), "mark".into(), &room);
    let stored = StoredSummary {
        through_sequence: 2,
        text: SUMMARY.into(),
        ..StoredSummary::default()
    };
    assert!(other.resume(stored, "r1"));
    for it in [it, other] {
        let PromptMessage::Text(Entry { role, text }) = &it.messages()[0] else {
            panic!()
        };
        assert_eq!((*role, text.as_str()), (Role::System, "be kind\n\nspeak like a pirate"));
    }
}

#[test]
fn the_files_of_a_patch_are_remembered() {
    let patch =
        "*** Begin Patch\n*** Update File: a.rs\n*** Move to: b.rs\n@@\n-x\n+y\n*** Add File: c.rs\n+z\n*** End Patch";
    let call = RunCall {
        tool: "apply_patch".into(),
        arguments_json: serde_json::json!({ "patch": patch }).to_string(),
        ..RunCall::default()
    };
    assert_eq!(file_names(&call), ["a.rs", "b.rs", "c.rs"]);
}

#[test]
fn results_too_large_for_any_window_become_lines_when_nothing_else_is_left() {
    let mut it = conversation("q");
    it.add_step(step(1, "exec", "{}", &words(5_000)));
    let room = room(2_000);
    assert_eq!(it.make_room(&room), Ok(Fit::Fits));
    assert!(it.reduced.contains("call-1"));
}

#[test]
fn a_question_larger_than_the_window_is_refused_with_both_figures() {
    let mut it = conversation(&words(2_000));
    let Err(Error::TooLong { needed, room }) = it.make_room(&room(1_000)) else {
        panic!()
    };
    assert!(needed > 3_000 && room == 875, "{needed} {room}");
}

#[test]
fn summaries_that_free_nothing_end_the_run() {
    let mut it = conversation("q");
    let room = room(4_000);
    let mut rounds = 0;
    let error = loop {
        match it.make_room(&room) {
            Ok(Fit::Fits) => it.past.push(message(1, Role::Assistant, &words(250))),
            Ok(Fit::Summarise(cut)) => {
                rounds += 1;
                it.summarised(cut, words(1_500 + 60 * rounds), "mark".into(), &room);
            }
            Err(error) => break error,
        }
        assert!(rounds < 10 && it.past.len() < 100);
    };
    assert!(
        matches!(error, Error::Fruitless { window: 4_000 } | Error::TooLong { .. }),
        "{error}"
    );
    assert!(rounds >= 3);
}

fn past() -> impl Strategy<Value = Vec<PastMessage>> {
    prop::collection::vec((any::<bool>(), 0..300_usize), 0..30).prop_map(|all| {
        let one = |(n, (user, size)): (usize, (bool, usize))| {
            let role = if user { Role::User } else { Role::Assistant };
            message(n as u64 + 1, role, &format!("m{n} {}", words(size)))
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

fn steps() -> impl Strategy<Value = Vec<RunStep>> {
    let call = (0..4_usize, 0..2_000_usize);
    prop::collection::vec(prop::collection::vec(call, 1..4), 0..25).prop_map(|all| {
        let one = |(n, calls): (usize, Vec<(usize, usize)>)| {
            let number = n as i32 + 1;
            let mut whole = step(number, "grep", "{}", "");
            whole.blocks.truncate(1);
            whole.calls.clear();
            for (place, (tool, size)) in calls.into_iter().enumerate() {
                let tool = ["exec", "read_file", "edit_file", "grep"][tool];
                let mut part = step(number, tool, r#"{"path":"x"}"#, &words(size));
                let id = format!("t{number}-{place}");
                if let Some(Kind::ToolCall(call)) = &mut part.blocks[1].kind {
                    call.id.clone_from(&id);
                }
                part.calls[0].id = format!("call-{number}-{place}");
                part.calls[0].tool_call_id = id;
                whole.blocks.push(part.blocks.remove(1));
                whole.calls.push(part.calls.remove(0));
            }
            whole
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

/// Every call is followed at once by its results, each once and in order, and no result is without its call.
fn check_calls(messages: &[PromptMessage]) -> Result<(), TestCaseError> {
    let mut open: Vec<String> = Vec::new();
    for message in messages {
        match message {
            PromptMessage::Text(_) => prop_assert!(open.is_empty()),
            PromptMessage::Said { blocks, .. } => {
                prop_assert!(open.is_empty());
                open.extend(blocks.iter().filter_map(|block| match &block.kind {
                    Some(Kind::ToolCall(call)) => Some(call.id.clone()),
                    _ => None,
                }));
            }
            PromptMessage::Results(blocks) => {
                let results: Vec<String> = blocks
                    .iter()
                    .filter_map(|block| match &block.kind {
                        Some(Kind::ToolResult(result)) => Some(result.tool_call_id.clone()),
                        _ => None,
                    })
                    .collect();
                prop_assert_eq!(&results, &open);
                open.clear();
            }
        }
    }
    prop_assert!(open.is_empty());
    Ok(())
}

proptest! {
    /// Whatever a run has become: it fits afterwards, the request is the last thing the user says, the newest steps are
    /// there in order, and no call stands without its result.
    #[test]
    fn whatever_the_run_it_fits_or_says_why(
        past in past(),
        steps in steps(),
        window in 1_500_u64..60_000,
    ) {
        let room = room(window);
        let mut it = conversation("the request as it was");
        it.past = past;
        let mut previous = 0;
        let numbers: Vec<i32> = steps.iter().map(|step| step.number).collect();
        for step in steps {
            it.add_step(step);
            match settle(&mut it, &room) {
                Ok(_) => {}
                Err(Error::TooLong { needed, room: most }) => {
                    prop_assert!(needed > most);
                    return Ok(());
                }
                Err(Error::Fruitless { .. }) => return Ok(()),
            }
            prop_assert!(it.estimate(room.tools) <= room.input());
            let messages = it.messages();
            check_calls(&messages)?;
            let asked = messages.iter().rev().find_map(|message| match message {
                PromptMessage::Text(entry) => Some(entry.clone()),
                _ => None,
            });
            let asked = asked.unwrap();
            prop_assert!(asked.role == Role::User && asked.text.ends_with("the request as it was"));
            let kept: Vec<i32> = it.steps.iter().map(|step| step.number).collect();
            prop_assert!(!kept.is_empty(), "the last step stays");
            let last = it.last_step() as usize;
            prop_assert_eq!(&numbers[last - kept.len()..last], &kept[..]);
            let through = it.summary.as_ref().map_or(0, |summary| summary.through_step);
            prop_assert!(through >= previous, "a summary never loses steps");
            prop_assert_eq!(through + 1, kept[0]);
            previous = through;
        }
    }
}
