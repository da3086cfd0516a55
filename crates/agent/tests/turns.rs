//! Turns, as the orchestrator and a model see them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../client/tests/fake/mod.rs"]
mod fake;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod stage;

use nexus_proto::orchestrator::v1::MessageRole::{self, Assistant, System, User};
use stage::{Said, Stage, Told, words};

#[tokio::test]
async fn an_answer_arrives_piece_by_piece_and_then_whole() {
    let (mut stage, agent, mut line) = Stage::play(&[("system_prompt", "Be brief.")]).await;
    stage.session(
        "s",
        words(&[(User, "hi"), (Assistant, "hello"), (User, "how are you?")]),
    );
    line.ask("c1", "s", "how are you?", &[("message_id", "m3")]).await;

    let call = stage.call().await;
    assert_eq!(
        call.shown(),
        [
            ("system", "Be brief."),
            ("user", "hi"),
            ("assistant", "hello"),
            ("user", "how are you?")
        ]
    );
    assert_eq!(call.request.session_id, "s");
    assert_eq!(call.request.metadata.as_ref().unwrap().correlation_id, "c1");
    assert!(!call.request.request_id.is_empty());
    assert_eq!(call.request.model, "", "the model daemon chooses");

    // Each piece arrives while the model still thinks about the next one; indices count bytes.
    let delta = |index, text: &str| Said::Delta {
        turn: "c1".into(),
        index,
        text: text.into(),
    };
    call.say("Gr\u{fc}\u{df} ").await;
    assert_eq!(line.next().await, delta(0, "Gr\u{fc}\u{df} "));
    call.say("dich").await;
    assert_eq!(line.next().await, delta(7, "dich"));
    call.complete().await;
    let Said::Answer { turn, text, headers } = line.next().await else {
        panic!()
    };
    assert_eq!((turn.as_str(), text.as_str()), ("c1", "Gr\u{fc}\u{df} dich"));
    for (name, value) in [
        ("model", "m-1"),
        ("finish_reason", "stop"),
        ("input_tokens", "11"),
        ("output_tokens", "22"),
        ("correlation_id", "c1"),
        ("session_id", "s"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_cancel_ends_the_model_call_at_once_and_nothing_more_is_said() {
    let (mut stage, agent, mut line) = Stage::play(&[]).await;
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[("message_id", "m1")]).await;
    let call = stage.call().await;
    call.say("some").await;
    assert!(matches!(line.next().await, Said::Delta { .. }));
    line.cancel("c1", "s").await;
    call.given_up().await;

    line.ask("c2", "s", "a", &[("message_id", "m1")]).await;
    let call = stage.call().await;
    call.say("fresh").await;
    call.complete().await;
    assert_eq!(
        line.whole("c2").await,
        "fresh",
        "no word of the cancelled turn lies between"
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_cancel_that_names_only_the_session_finds_the_turn() {
    let (mut stage, agent, line) = Stage::play(&[]).await;
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    let call = stage.call().await;
    line.cancel("", "s").await;
    call.given_up().await;
    agent.stop().await;
}

#[tokio::test]
async fn a_lost_stream_ends_its_turns_and_a_new_offer_starts_over() {
    let (mut stage, agent, mut line) = Stage::play(&[]).await;
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    let call = stage.call().await;
    call.say("half an ans").await;
    assert!(matches!(line.next().await, Said::Delta { .. }));
    let id = line.agent_id.clone();
    line.break_off().await;
    call.given_up().await;

    let mut line = stage.line().await;
    assert_eq!(line.agent_id, id, "the same agent, not a new one");
    line.ask("c1b", "s", "a", &[("attempt", "2")]).await;
    let call = stage.call().await;
    call.say("a whole one").await;
    call.complete().await;
    assert_eq!(line.whole("c1b").await, "a whole one");
    agent.stop().await;
}

#[tokio::test]
async fn an_orchestrator_killed_and_back_finds_the_agent_again() {
    let (mut stage, agent, line) = Stage::play(&[]).await;
    let id = line.agent_id.clone();
    stage.kill_orchestrator().await;
    stage.raise_orchestrator();
    assert_eq!(stage.line().await.agent_id, id);

    // One that has forgotten everything gets a new registration.
    stage.kill_orchestrator().await;
    stage.store.lock().unwrap().known.clear();
    stage.raise_orchestrator();
    assert_eq!(stage.line().await.agent_id, "agent-2");
    agent.stop().await;
}

#[tokio::test]
async fn a_heartbeat_that_finds_no_agent_registers_again() {
    let (mut stage, agent, line) = Stage::play(&[("heartbeat_interval", "10ms")]).await;
    let Told::Registered(request) = stage.told().await else {
        panic!()
    };
    assert_eq!(request.name, "assistant");
    let labels = &request.metadata.as_ref().unwrap().labels;
    assert_eq!(labels["role"], "assistant");
    assert_eq!(labels["nexus.protocol"], "1");
    assert!(labels["nexus.socket"].ends_with("agent-assistant.sock"));
    assert_eq!(stage.told().await, Told::Heartbeat(line.agent_id.clone()));
    stage.store.lock().unwrap().known.clear();
    assert_eq!(stage.line().await.agent_id, "agent-2");
    agent.stop().await;
}

#[tokio::test]
async fn what_the_model_daemon_says_went_wrong_reaches_the_user() {
    let (mut stage, agent, mut line) = Stage::play(&[]).await;
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    let call = stage.call().await;
    call.say("so far").await;
    assert!(matches!(line.next().await, Said::Delta { .. }));
    call.fail("OVERLOADED", "anthropic is overloaded", true).await;
    assert_eq!(
        line.next().await,
        Said::Error {
            turn: "c1".into(),
            text: "anthropic is overloaded".into(),
            code: "OVERLOADED".into(),
            retryable: "true".into(),
        }
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_model_daemon_killed_in_an_answer_is_an_error_and_not_half_an_answer() {
    let (mut stage, agent, mut line) = Stage::play(&[]).await;
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    let call = stage.call().await;
    call.say("so far").await;
    assert!(matches!(line.next().await, Said::Delta { .. }));
    stage.kill_llm().await;
    let Said::Error { code, retryable, .. } = line.next().await else {
        panic!()
    };
    assert_eq!((code.as_str(), retryable.as_str()), ("UNAVAILABLE", "true"));
    agent.stop().await;
}

#[tokio::test]
async fn without_a_model_daemon_the_error_says_how_to_start_it() {
    let mut stage = Stage::new();
    stage.raise_orchestrator();
    let agent = stage.agent(&[("llm_grace", "10ms")]).await;
    let mut line = stage.line().await;
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    let Said::Error {
        text, code, retryable, ..
    } = line.next().await
    else {
        panic!()
    };
    assert!(text.contains("llm.sock") && text.contains("nexus up"), "{text}");
    assert_eq!((code.as_str(), retryable.as_str()), ("UNAVAILABLE", "true"));
    agent.stop().await;
}

#[tokio::test]
async fn a_model_daemon_that_is_just_restarting_is_waited_for() {
    let mut stage = Stage::new();
    stage.raise_orchestrator();
    let agent = stage.agent(&[("llm_grace", "20s")]).await;
    let mut line = stage.line().await;
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    // Its history is read only once there is a model, so nothing tells how far it is: raise it whenever.
    stage.raise_llm();
    let call = stage.call().await;
    call.say("here").await;
    call.complete().await;
    assert_eq!(line.whole("c1").await, "here");
    agent.stop().await;
}

#[tokio::test]
async fn a_silent_model_is_given_up() {
    let (mut stage, agent, mut line) = Stage::play(&[("idle_timeout", "30ms")]).await;
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    let call = stage.call().await;
    let Said::Error { text, code, .. } = line.next().await else {
        panic!()
    };
    assert_eq!(code, "DEADLINE_EXCEEDED");
    assert!(text.contains("idle_timeout"), "{text}");
    call.given_up().await;
    agent.stop().await;
}

#[tokio::test]
async fn a_long_conversation_is_cut_to_what_the_model_takes() {
    let (mut stage, agent, line) = Stage::play(&[("answer_tokens", "100")]).await;
    stage.model("small", 1000, true);
    let long: Vec<(MessageRole, String)> = (0..400)
        .map(|n| {
            (
                if n % 2 == 0 { User } else { Assistant },
                format!("message number {n:03}"),
            )
        })
        .collect();
    let mut texts: Vec<(MessageRole, &str)> = long.iter().map(|(role, text)| (*role, text.as_str())).collect();
    texts.push((User, "the question"));
    texts.push((User, "said later, and not asked yet"));
    stage.session("s", words(&texts));
    line.ask("c1", "s", "the question", &[("message_id", "m401")]).await;

    let call = stage.call().await;
    let shown = call.shown();
    assert_eq!(*shown.last().unwrap(), ("user", "the question"));
    assert_eq!(shown[0].0, "user");
    assert!(shown.len() > 40 && shown.len() < 80, "{} messages", shown.len());
    let newest: Vec<&str> = texts[401 - shown.len()..401].iter().map(|(_, text)| *text).collect();
    let content: Vec<&str> = shown.iter().map(|(_, text)| *text).collect();
    assert_eq!(content, newest, "an unbroken end of the conversation");
    assert_eq!(call.request.parameters.as_ref().unwrap().max_tokens, 100);
    assert_eq!(stage.store.lock().unwrap().asked.len(), 1, "a page was enough");
    agent.stop().await;
}

#[tokio::test]
async fn the_window_of_a_model_that_nobody_named_is_learned_from_its_answer() {
    let (mut stage, agent, mut line) = Stage::play(&[]).await;
    // What answers here calls itself m-1.
    stage.model("m-1", 100_000, false);
    let long = "x".repeat(15_000);
    stage.session("s", words(&[(User, &long), (Assistant, &long), (User, "a")]));
    line.ask("c1", "s", "a", &[("message_id", "m3")]).await;
    let call = stage.call().await;
    assert_eq!(call.request.messages.len(), 1, "a careful window at first");
    call.say("b").await;
    call.complete().await;
    line.whole("c1").await;
    line.ask("c2", "s", "a", &[("message_id", "m3")]).await;
    assert_eq!(stage.call().await.request.messages.len(), 3);
    agent.stop().await;
}

#[tokio::test]
async fn a_large_window_is_filled_page_by_page() {
    let (mut stage, agent, line) = Stage::play(&[]).await;
    stage.model("large", 200_000, true);
    let texts: Vec<(MessageRole, &str)> = (0..351)
        .map(|n| (if n % 2 == 0 { User } else { Assistant }, "word"))
        .collect();
    stage.session("s", words(&texts));
    line.ask("c1", "s", "word", &[("message_id", "m351")]).await;
    assert_eq!(stage.call().await.request.messages.len(), 351);
    let asked: Vec<u64> = stage
        .store
        .lock()
        .unwrap()
        .asked
        .iter()
        .map(|request| request.messages_before)
        .collect();
    assert_eq!(asked, [0, 252, 152, 52]);
    agent.stop().await;
}

#[tokio::test]
async fn a_question_no_model_could_take_is_refused_with_the_figures() {
    let (stage, agent, mut line) = Stage::play(&[]).await;
    stage.model("small", 100, true);
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", &"long ".repeat(100), &[]).await;
    let Said::Error {
        text, code, retryable, ..
    } = line.next().await
    else {
        panic!()
    };
    assert_eq!((code.as_str(), retryable.as_str()), ("INVALID_ARGUMENT", "false"));
    assert!(text.contains("175") && text.contains("50"), "{text}");
    agent.stop().await;
}

#[tokio::test]
async fn the_model_the_user_asked_for_is_asked() {
    let (mut stage, agent, line) = Stage::play(&[("model", "configured")]).await;
    stage.session("s", words(&[(System, "pirate"), (User, "a")]));
    line.ask("c1", "s", "a", &[("model", "p/wanted"), ("message_id", "m2")])
        .await;
    let call = stage.call().await;
    assert_eq!(call.request.model, "p/wanted");
    assert_eq!(call.shown(), [("system", "pirate"), ("user", "a")]);
    line.ask("c2", "s", "a", &[]).await;
    assert_eq!(stage.call().await.request.model, "configured");
    agent.stop().await;
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_says_why() {
    let (_stage, agent, mut line) = Stage::play(&[]).await;
    line.ask("c1", "", "a", &[]).await;
    let Said::Error { text, code, .. } = line.next().await else {
        panic!()
    };
    assert_eq!(code, "INVALID_ARGUMENT");
    assert!(text.contains("session"), "{text}");
    line.ask("c2", "nowhere", "a", &[]).await;
    let Said::Error { turn, code, .. } = line.next().await else {
        panic!()
    };
    assert_eq!((turn.as_str(), code.as_str()), ("c2", "NOT_FOUND"));
    agent.stop().await;
}

#[tokio::test]
async fn turns_beyond_the_limits_wait_and_then_are_refused() {
    let (mut stage, agent, mut line) = Stage::play(&[("concurrency", "1"), ("queue", "1")]).await;
    stage.session("s", words(&[(User, "a")]));
    stage.session("t", words(&[(User, "b")]));
    line.ask("c1", "s", "a", &[]).await;
    let first = stage.call().await;
    line.ask("c2", "t", "b", &[]).await;
    line.ask("c3", "t", "b", &[]).await;
    let Said::Error {
        turn, code, retryable, ..
    } = line.next().await
    else {
        panic!()
    };
    assert_eq!(
        (turn.as_str(), code.as_str(), retryable.as_str()),
        ("c3", "RESOURCE_EXHAUSTED", "true")
    );
    assert!(stage.no_call_yet());
    first.say("one").await;
    first.complete().await;
    assert_eq!(line.whole("c1").await, "one");
    let second = stage.call().await;
    second.say("two").await;
    second.complete().await;
    assert_eq!(line.whole("c2").await, "two");
    agent.stop().await;
}

#[tokio::test]
async fn an_orchestrator_that_reads_slowly_gets_every_byte_in_fewer_pieces() {
    let (mut stage, agent, mut line) = Stage::play(&[]).await;
    stage.session("s", words(&[(User, "a")]));
    line.ask("c1", "s", "a", &[]).await;
    let call = stage.call().await;
    let piece = "0123456789".repeat(400);
    // More than the connection takes unread, so that pieces must wait.
    for _ in 0..1_000 {
        call.say(&piece).await;
    }
    call.complete().await;
    let (mut bytes, mut deltas) = (0, 0);
    loop {
        match line.next().await {
            Said::Delta { index, text, .. } => {
                assert_eq!(index, bytes);
                bytes += text.len();
                deltas += 1;
            }
            Said::Answer { text, .. } => {
                assert_eq!((text.len(), bytes), (4_000_000, 4_000_000));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(deltas < 900, "{deltas} pieces");
    agent.stop().await;
}
