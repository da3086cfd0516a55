//! Runs, as the orchestrator and a model see their assistant.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../client/tests/fake/mod.rs"]
mod fake;
#[expect(dead_code, reason = "each test file uses a part of it")]
mod stage;

use std::{collections::HashMap, os::unix::fs::symlink};

use nexus_proto::{
    common::v1::TokenUsage,
    llm::v1::{Block, FinishReason, LlmMessage, LlmRequest, Opaque, Tool, ToolCall, block::Kind},
    orchestrator::v1::{
        FinishStepRequest, MessageMetadata,
        MessageRole::{Assistant, User},
        Run, RunCall, RunStep, StepOffer,
    },
};
use stage::{Line, Said, Stage, words};

const FIRST: [(&str, &str); 5] = [
    ("message_id", "m3"),
    ("run_id", "r1"),
    ("step", "1"),
    ("step_attempt", "1"),
    ("tools_digest", "digest"),
];

fn tool(name: &str) -> Tool {
    Tool {
        name: name.into(),
        description: format!("does {name}"),
        input_schema_json: r#"{"type":"object"}"#.into(),
        ..Tool::default()
    }
}

fn text(text: &str) -> Block {
    Block {
        kind: Some(Kind::Text(text.into())),
    }
}

fn call(id: &str, name: &str, arguments: &str) -> Block {
    Block {
        kind: Some(Kind::ToolCall(ToolCall {
            id: id.into(),
            name: name.into(),
            arguments: arguments.into(),
            malformed: serde_json::from_str::<serde_json::Value>(arguments).is_err(),
        })),
    }
}

/// A session with a question, two tools, and the assistant.
async fn play(overrides: &[(&str, &str)]) -> (Stage, nexus_daemon::Running, Line) {
    let (stage, agent, line) = Stage::play(overrides).await;
    stage.session("s", words(&[(User, "hi"), (Assistant, "hello"), (User, "fix it")]));
    stage.store.lock().unwrap().tools = vec![tool("exec"), tool("read_file")];
    (stage, agent, line)
}

/// The step as the orchestrator keeps it, each call with the result that `result` gives.
fn with_results(finished: &FinishStepRequest, result: impl Fn(&ToolCall) -> (String, &'static str)) -> RunStep {
    let calls = finished.blocks.iter().filter_map(|block| match &block.kind {
        Some(Kind::ToolCall(call)) => Some(call),
        _ => None,
    });
    let calls = calls.enumerate().map(|(place, call)| {
        let (text_of_result, code) = result(call);
        RunCall {
            id: format!("call-{}-{place}", finished.step),
            tool_call_id: call.id.clone(),
            tool: call.name.clone(),
            arguments_json: call.arguments.clone(),
            code: code.into(),
            spill: format!("result:call-{}-{place}", finished.step),
            result: vec![text(&text_of_result)],
            ..RunCall::default()
        }
    });
    RunStep {
        number: finished.step,
        attempt: finished.attempt,
        provider: finished.provider.clone(),
        model: finished.model.clone(),
        finished_at: Some(std::time::SystemTime::now().into()),
        blocks: finished.blocks.clone(),
        usage: finished.usage,
        calls: calls.collect(),
        ..RunStep::default()
    }
}

fn after(previous: RunStep) -> StepOffer {
    StepOffer {
        run_id: "r1".into(),
        session_id: "s".into(),
        step: previous.number + 1,
        attempt: 1,
        previous: Some(previous),
        tools_digest: "digest".into(),
        ..StepOffer::default()
    }
}

fn roles(request: &LlmRequest) -> Vec<&str> {
    request.messages.iter().map(|message| message.role.as_str()).collect()
}

/// The tool results of a message: id, error, text.
fn results(message: &LlmMessage) -> Vec<(String, bool, String)> {
    let result = |block: &Block| match &block.kind {
        Some(Kind::ToolResult(result)) => match result.content.first().and_then(|block| block.kind.clone()) {
            Some(Kind::Text(text)) => Some((result.tool_call_id.clone(), result.is_error, text)),
            other => panic!("{other:?}"),
        },
        _ => None,
    };
    message.blocks.iter().filter_map(result).collect()
}

fn notes(message: &LlmMessage) -> Vec<&str> {
    let note = |block: &'_ Block| matches!(&block.kind, Some(Kind::Text(_)));
    let blocks = message.blocks.iter().filter(|block| note(block));
    blocks
        .map(|block| match &block.kind {
            Some(Kind::Text(text)) => text.as_str(),
            _ => unreachable!("only texts are left"),
        })
        .collect()
}

#[tokio::test]
async fn an_answer_of_text_only_comes_as_it_comes_without_runs() {
    let (mut stage, agent, mut line) = play(&[("system_prompt", "Be brief.")]).await;
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    assert_eq!(roles(&asked.request), ["system", "user", "assistant", "user"]);
    assert!(asked.request.messages[0].content.contains("Be brief."));
    assert_eq!(asked.request.messages[3].content, "fix it");
    let names: Vec<_> = asked.request.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["exec", "read_file"]);
    assert!(!asked.request.tools[0].input_schema_json.is_empty());
    assert!(
        asked.request.scopes.is_empty(),
        "a budget that is not set costs no commit"
    );
    assert_eq!(asked.request.metadata.as_ref().unwrap().agent_id, "assistant");
    asked.say("do").await;
    asked.say("ne").await;
    asked.complete().await;
    assert_eq!(line.whole("c1").await, "done");
    assert!(
        stage.nothing_finished(),
        "the message on the stream is the end of the run"
    );

    // The same tools are asked for once; without a run there are none.
    line.ask("c2", "s", "fix it", &FIRST).await;
    assert_eq!(stage.call().await.request.tools.len(), 2);
    line.ask("c3", "s", "fix it", &[("message_id", "m3")]).await;
    assert_eq!(stage.call().await.request.tools.len(), 0);
    assert_eq!(stage.store.lock().unwrap().tools_asked, 1);
    agent.stop().await;
}

#[tokio::test]
async fn two_calls_at_once_go_out_as_received_and_come_back_in_order() {
    let (mut stage, agent, mut line) = play(&[]).await;
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    let blocks = vec![
        Block {
            kind: Some(Kind::Opaque(Opaque {
                provider: "p".into(),
                model: "m-1".into(),
                data: vec![1, 2, 3].into(),
            })),
        },
        text("I look."),
        call("t1", "exec", r#"{"command":"make"}"#),
        call("t2", "read_file", r#"{"path":"a.rs"}"#),
    ];
    asked.think("hm").await;
    assert!(matches!(line.next().await, Said::Thought { index: 0, text, .. } if text == "hm"));
    asked.say("I look.").await;
    assert!(matches!(line.next().await, Said::Delta { index: 0, text, .. } if text == "I look."));
    asked.complete_with(blocks.clone(), FinishReason::ToolUses).await;
    let finished = stage.finished().await;
    assert_eq!(finished.blocks, blocks);
    assert_eq!(
        (
            finished.agent_id.as_str(),
            finished.run_id.as_str(),
            finished.step,
            finished.attempt
        ),
        (line.agent_id.as_str(), "r1", 1, 1)
    );
    assert_eq!((finished.provider.as_str(), finished.model.as_str()), ("p", "m-1"));
    assert_eq!(finished.stop_reason, "tool_uses");

    let mut previous = with_results(&finished, |call| (format!("result of {}", call.id), ""));
    previous.calls[1].code = "not_found".into();
    previous.notes = vec!["80 % of the budget is used".into()];
    line.offer_step("c1-2", after(previous)).await;
    let second = stage.call().await;
    assert_eq!(
        roles(&second.request),
        ["system", "user", "assistant", "user", "assistant", "tool"]
    );
    assert_eq!(
        second.request.messages[..4],
        asked.request.messages,
        "the front stays, for the provider's cache"
    );
    assert_eq!(second.request.tools, asked.request.tools);
    assert_eq!(second.request.messages[4].blocks, blocks);
    assert_eq!(second.request.messages[4].extra["provider"], "p");
    assert_eq!(
        results(&second.request.messages[5]),
        [
            ("t1".into(), false, "result of t1".into()),
            ("t2".into(), true, "result of t2".into())
        ]
    );
    assert_eq!(
        notes(&second.request.messages[5]),
        ["[note] 80 % of the budget is used"]
    );

    // The text starts over: what stood beside the calls belongs to their step.
    second.say("Fixed.").await;
    let Said::Delta { turn, index, text } = line.next().await else {
        panic!()
    };
    assert_eq!((turn.as_str(), index, text.as_str()), ("c1-2", 0, "Fixed."));
    second.complete().await;
    let finished = stage.finished().await;
    assert_eq!((finished.step, finished.stop_reason.as_str()), (2, "stop"));
    assert_eq!(finished.blocks, [self::text("Fixed.")]);
    assert_eq!(
        finished.usage,
        Some(TokenUsage {
            input_tokens: 11,
            output_tokens: 22,
            total_tokens: 33,
        })
    );
    assert_eq!(
        finished.extra["tool_calls"],
        "exec {\"command\":\"make\"}: done\nread_file {\"path\":\"a.rs\"}: not_found"
    );
    assert_eq!(stage.store.lock().unwrap().runs_asked, 0, "this process knew the run");
    agent.stop().await;
}

#[tokio::test]
async fn arguments_that_are_no_json_are_handed_on_as_they_are() {
    let (mut stage, agent, line) = play(&[]).await;
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    asked
        .complete_with(vec![call("t1", "exec", r#"{"command": "#)], FinishReason::Length)
        .await;
    let finished = stage.finished().await;
    let Some(Kind::ToolCall(sent)) = &finished.blocks[0].kind else {
        panic!()
    };
    assert!(sent.malformed);
    assert_eq!(sent.arguments, r#"{"command": "#);
    assert_eq!(finished.stop_reason, "length");
    let previous = with_results(&finished, |_| {
        ("error invalid_arguments: no JSON".into(), "invalid_arguments")
    });
    line.offer_step("c1-2", after(previous)).await;
    let second = stage.call().await;
    assert_eq!(
        results(&second.request.messages[5]),
        [("t1".into(), true, "error invalid_arguments: no JSON".into())]
    );
    agent.stop().await;
}

/// Asks for one call in the first step, and brings the run to its second.
async fn to_second_step(stage: &mut Stage, line: &mut Line) -> RunStep {
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    asked
        .complete_with(
            vec![call("t1", "exec", r#"{"command":"make"}"#)],
            FinishReason::ToolUses,
        )
        .await;
    let finished = stage.finished().await;
    with_results(&finished, |_| ("made".into(), ""))
}

#[tokio::test]
async fn a_model_that_breaks_off_in_a_later_step_is_asked_again() {
    let (mut stage, agent, mut line) = play(&[]).await;
    let previous = to_second_step(&mut stage, &mut line).await;
    line.offer_step("c1-2", after(previous)).await;
    let second = stage.call().await;
    second.say("Half an ans").await;
    assert!(matches!(line.next().await, Said::Delta { index: 0, .. }));
    let request = second.request.clone();
    drop(second);
    let again = stage.call().await;
    assert_eq!(again.request.messages, request.messages);
    again.say("Whole.").await;
    assert!(matches!(line.next().await, Said::Delta { index: 0, text, .. } if text == "Whole."));
    again.complete().await;
    assert_eq!(stage.finished().await.blocks, [text("Whole.")]);
    agent.stop().await;
}

/// A provider that sends the same run to two assistants would see the same request.
#[tokio::test]
async fn an_assistant_restarted_between_any_two_steps_asks_as_before() {
    for restarted_before in 2..=4 {
        let (mut stage, mut agent, mut line) = play(&[]).await;
        let mut steps = vec![to_second_step(&mut stage, &mut line).await];
        for number in 2..=4 {
            if number == restarted_before {
                agent.stop().await;
                stage.store.lock().unwrap().runs.insert(
                    "r1".into(),
                    Run {
                        id: "r1".into(),
                        message_id: "m3".into(),
                        steps: steps.clone(),
                        ..Run::default()
                    },
                );
                agent = stage.agent(&[]).await;
                line = stage.line().await;
            }
            line.offer_step(&format!("c1-{number}"), after(steps.last().unwrap().clone()))
                .await;
            let asked = stage.call().await;
            let mut expected = vec!["system", "user", "assistant", "user"];
            for _ in 1..number {
                expected.extend(["assistant", "tool"]);
            }
            assert_eq!(roles(&asked.request), expected, "step {number}");
            assert_eq!(asked.request.messages[3].content, "fix it");
            for (step, said) in steps.iter().zip(asked.request.messages[4..].chunks(2)) {
                assert_eq!(said[0].blocks, step.blocks);
                assert_eq!(results(&said[1])[0].2, "made");
            }
            let id = format!("t{number}");
            let command = format!("{{\"command\":\"make {number}\"}}");
            asked
                .complete_with(vec![call(&id, "exec", &command)], FinishReason::ToolUses)
                .await;
            let finished = stage.finished().await;
            assert_eq!(finished.step, number);
            steps.push(with_results(&finished, |_| ("made".into(), "")));
        }
        assert_eq!(stage.store.lock().unwrap().runs_asked, 1, "read once after the restart");
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_cancel_ends_a_step_at_once_and_the_run_can_be_taken_up_again() {
    let (mut stage, agent, mut line) = play(&[]).await;
    let previous = to_second_step(&mut stage, &mut line).await;
    line.offer_step("c1-2", after(previous.clone())).await;
    let second = stage.call().await;
    second.say("some").await;
    assert!(matches!(line.next().await, Said::Delta { .. }));
    line.cancel("c1-2", "s").await;
    second.given_up().await;

    // What was in memory went with the step.
    stage.store.lock().unwrap().runs.insert(
        "r1".into(),
        Run {
            id: "r1".into(),
            message_id: "m3".into(),
            steps: vec![previous.clone()],
            ..Run::default()
        },
    );
    line.offer_step("c1-2b", after(previous)).await;
    let again = stage.call().await;
    again.say("whole").await;
    let Said::Delta { turn, index, text } = line.next().await else {
        panic!()
    };
    assert_eq!((turn.as_str(), index, text.as_str()), ("c1-2b", 0, "whole"));
    agent.stop().await;
}

#[tokio::test]
async fn a_step_that_is_over_is_dropped_without_a_word() {
    let (mut stage, agent, mut line) = play(&[]).await;
    stage.store.lock().unwrap().step_is_over = true;
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    asked
        .complete_with(vec![call("t1", "exec", "{}")], FinishReason::ToolUses)
        .await;
    stage.finished().await;
    line.ask("c2", "s", "fix it", &[("message_id", "m3")]).await;
    let next = stage.call().await;
    next.say("fresh").await;
    next.complete().await;
    assert_eq!(
        line.whole("c2").await,
        "fresh",
        "no word of the other step lies between"
    );
    assert!(stage.nothing_finished(), "it was not tried again");
    agent.stop().await;
}

#[tokio::test]
async fn an_empty_answer_is_asked_for_once_more() {
    let (mut stage, agent, mut line) = play(&[]).await;
    line.ask("c1", "s", "fix it", &FIRST).await;
    stage.call().await.complete().await;
    let again = stage.call().await;
    let question = &again.request.messages[3].content;
    assert!(
        question.starts_with("fix it\n\n[note] Your answer was empty."),
        "{question}"
    );
    again.say("Sorry.").await;
    again.complete().await;
    assert_eq!(line.whole("c1").await, "Sorry.");

    line.ask("c2", "s", "fix it", &FIRST).await;
    stage.call().await.complete().await;
    stage.call().await.complete().await;
    let Said::Error { code, .. } = line.next().await else {
        panic!()
    };
    assert_eq!(code, "EMPTY_ANSWER");
    agent.stop().await;
}

#[tokio::test]
async fn after_two_hundred_steps_the_model_reports_without_tools() {
    let (mut stage, agent, mut line) = play(&[]).await;
    stage.model("m-1", 200_000, true);
    let mut previous = to_second_step(&mut stage, &mut line).await;
    for number in 2..=200 {
        line.offer_step(&format!("c{number}"), after(previous)).await;
        let asked = stage.call().await;
        let command = format!("{{\"command\":\"make {number}\"}}");
        asked
            .complete_with(
                vec![call(&format!("t{number}"), "exec", &command)],
                FinishReason::ToolUses,
            )
            .await;
        previous = with_results(&stage.finished().await, |_| ("made".into(), ""));
    }
    let offer = StepOffer {
        last: true,
        ..after(previous)
    };
    line.offer_step("c201", offer).await;
    let asked = stage.call().await;
    assert!(asked.request.tools.is_empty());
    assert_eq!(asked.request.messages.len(), 4 + 2 * 200);
    let told = notes(asked.request.messages.last().unwrap());
    assert!(told.len() == 1 && told[0].contains("Report now"), "{told:?}");
    // A model that calls all the same ends with what it says.
    asked.say("Half is done.").await;
    asked
        .complete_with(
            vec![text("Half is done."), call("t201", "exec", "{}")],
            FinishReason::ToolUses,
        )
        .await;
    let finished = stage.finished().await;
    assert_eq!((finished.step, finished.blocks), (201, vec![text("Half is done.")]));
    agent.stop().await;
}

#[tokio::test]
async fn a_run_that_outgrows_its_window_is_summed_up_again_and_again() {
    let (mut stage, agent, mut line) = play(&[("answer_tokens", "200")]).await;
    stage.model("m-1", 6_000, true);
    let mut previous = to_second_step(&mut stage, &mut line).await;
    let mut steps = vec![previous.clone()];
    let mut summaries = 0;
    for number in 2..=50 {
        line.offer_step(&format!("c{number}"), after(previous)).await;
        let mut asked = stage.call().await;
        if asked.request.tools.is_empty() {
            summaries += 1;
            assert_eq!(
                roles(&asked.request),
                ["system", "user"],
                "plain text for the model that sums up"
            );
            let told = &asked.request.messages[1].content;
            assert!(told.ends_with("is:\nfix it"), "{told}");
            asked
                .say(&format!("Summary {summaries}: step {number} comes next."))
                .await;
            asked.complete().await;
            asked = stage.call().await;
        }
        let bytes: usize = asked.request.messages.iter().map(prost::Message::encoded_len).sum();
        assert!(bytes < 6_000 * 4, "{bytes}");
        let asking: Vec<_> = asked
            .request
            .messages
            .iter()
            .filter(|message| message.role == "user")
            .collect();
        assert!(
            asking.last().unwrap().content.ends_with("fix it"),
            "the request stays as it was"
        );
        if summaries > 0 {
            let content = &asking[0].content;
            assert!(content.contains(&format!("Summary {summaries}:")), "{content}");
            assert!(content.contains("hi"), "the user's words stay: {content}");
        }
        let id = format!("t{number}");
        let command = format!("{{\"command\":\"make {number}\"}}");
        asked
            .complete_with(vec![call(&id, "exec", &command)], FinishReason::ToolUses)
            .await;
        previous = with_results(&stage.finished().await, |_| ("made ".repeat(300), ""));
        steps.push(previous.clone());
    }
    assert!(summaries >= 3, "{summaries}");
    let compacted = stage.store.lock().unwrap().compacted.clone();
    assert_eq!(compacted.len(), summaries);
    assert!(compacted.iter().map(|one| one.through_step).is_sorted_by(|a, b| a < b));
    let last = compacted.last().unwrap();
    assert_eq!(
        (last.run_id.as_str(), last.session_id.as_str(), last.through_sequence),
        ("r1", "s", 2)
    );
    assert!(last.summary.contains(&format!("Summary {summaries}:")));

    // The next run of the session begins with the summary instead of the messages in it.
    line.ask("next", "s", "fix it", &FIRST).await;
    let next = stage.call().await;
    assert_eq!(roles(&next.request), ["system", "user"]);
    let content = &next.request.messages[1].content;
    assert!(
        content.contains(&format!("Summary {summaries}:")) && content.ends_with("fix it"),
        "{content}"
    );

    // Another process finds it in the log, and asks no model for it again.
    agent.stop().await;
    let run = Run {
        id: "r1".into(),
        message_id: "m3".into(),
        steps,
        ..Run::default()
    };
    stage.store.lock().unwrap().runs.insert("r1".into(), run);
    let agent = stage.agent(&[("answer_tokens", "200")]).await;
    let line = stage.line().await;
    line.offer_step("again", after(previous)).await;
    let asked = stage.call().await;
    assert_eq!(asked.request.tools.len(), 2, "not a request for a summary");
    let content = &asked.request.messages[1].content;
    assert!(
        content.contains(&format!("Summary {summaries}:")) && content.ends_with("fix it"),
        "{content}"
    );
    agent.stop().await;
}

/// What every request of a conversation pays for.
#[tokio::test]
async fn the_first_prompt_with_all_tools_is_small() {
    let (mut stage, agent, line) = play(&[]).await;
    stage.store.lock().unwrap().tools = nexus_tools::builtins()
        .iter()
        .map(|tool| Tool {
            name: tool.name().into(),
            description: tool.description().into(),
            input_schema_json: nexus_tools::canonical::text(tool.schema()),
            ..Tool::default()
        })
        .collect();
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    let tools: usize = asked
        .request
        .tools
        .iter()
        .map(|tool| tool.name.len() + tool.description.len() + tool.input_schema_json.len())
        .sum();
    let texts: usize = asked.shown().iter().map(|(_, text)| text.len()).sum();
    assert!(tools + texts <= 12_000, "{tools} + {texts}");
    agent.stop().await;
}

#[tokio::test]
async fn tools_that_leave_no_room_for_a_conversation_are_left_out() {
    let (mut stage, agent, mut line) = play(&[]).await;
    stage.model("m-1", 1_000, true);
    stage.store.lock().unwrap().tools[0].description = "x".repeat(2_000);
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    assert!(asked.request.tools.is_empty());
    asked.say("no tools").await;
    asked.complete().await;
    assert_eq!(line.whole("c1").await, "no tools");
    agent.stop().await;
}

#[tokio::test]
async fn instruction_files_are_read_beneath_their_directories() {
    let (mut stage, agent, line) = play(&[]).await;
    let root = stage.root.path().to_owned();
    std::fs::write(root.join("AGENTS.md"), "Root says tabs.").unwrap();
    let workspace = root.join("state/workspaces/s");
    std::fs::create_dir_all(&workspace).unwrap();
    std::fs::write(workspace.join("AGENTS.md"), "Workspace says spaces.").unwrap();
    line.ask("c1", "s", "fix it", &FIRST).await;
    let system = stage.call().await.request.messages[0].content.clone();
    let places = ["Root says tabs.", "Workspace says spaces."].map(|part| system.find(part).unwrap());
    assert!(places.is_sorted(), "the workspace speaks last: {system}");

    // The attack: a workspace links its instructions to a file that only the assistant can read.
    std::fs::write(root.join("secret"), "top secret").unwrap();
    std::fs::remove_file(workspace.join("AGENTS.md")).unwrap();
    symlink(root.join("secret"), workspace.join("AGENTS.md")).unwrap();
    line.ask("c2", "s", "fix it", &FIRST).await;
    let system = stage.call().await.request.messages[0].content.clone();
    assert!(
        !system.contains("top secret") && system.contains("Root says tabs."),
        "{system}"
    );
    agent.stop().await;
}

#[tokio::test]
async fn later_turns_are_told_of_the_calls_of_an_answer_in_lines() {
    let (mut stage, agent, line) = play(&[]).await;
    let mut messages = words(&[(User, "build it"), (Assistant, "built"), (User, "fix it")]);
    messages[1].metadata = Some(MessageMetadata {
        extra: HashMap::from([("tool_calls".to_owned(), "exec {\"command\":\"make\"}: done".to_owned())]),
        ..MessageMetadata::default()
    });
    stage.session("s", messages);
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    let shown = asked.shown();
    assert_eq!(shown[2], ("assistant", "built"), "the model's words stay its own");
    assert!(
        shown[3].1.contains("exec {\"command\":\"make\"}: done\n\nfix it"),
        "{}",
        shown[3].1
    );
    agent.stop().await;
}

#[tokio::test]
async fn budgets_that_are_set_go_with_every_request() {
    let overrides = [("run_tokens", "5000"), ("day_dollars", "2.5"), ("session_tokens", "7")];
    let (mut stage, agent, line) = play(&overrides).await;
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    let scopes: Vec<_> = asked
        .request
        .scopes
        .iter()
        .map(|scope| {
            (
                scope.kind.as_str(),
                scope.id.as_str(),
                scope.max_tokens,
                scope.max_cost_micros,
            )
        })
        .collect();
    assert_eq!(
        scopes,
        [
            ("run", "r1", 5000, 0),
            ("session", "s", 7, 0),
            ("day", "", 0, 2_500_000)
        ]
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_role_chooses_prompt_model_and_tools() {
    let (mut stage, agent, line) = play(&[("assistant_role", "researcher")]).await;
    line.ask("c1", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    let names = |request: &LlmRequest| request.tools.iter().map(|tool| tool.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&asked.request), ["read_file"], "no exec for who only reads");
    assert!(asked.request.messages[0].content.starts_with("You are a researcher."));

    // A file takes the place of what is built in, at once.
    let roles = stage.root.state().join("roles");
    std::fs::create_dir_all(&roles).unwrap();
    let file = "model = \"p/own\"\ntools = [\"exec\"]\nprompt = \"Be a pirate.\"\n";
    std::fs::write(roles.join("researcher.toml"), file).unwrap();
    line.ask("c2", "s", "fix it", &FIRST).await;
    let asked = stage.call().await;
    assert_eq!(
        (names(&asked.request), asked.request.model.as_str()),
        (vec!["exec".to_owned()], "p/own")
    );
    assert!(asked.request.messages[0].content.starts_with("Be a pirate."));
    agent.stop().await;
}

#[tokio::test]
async fn a_role_that_cannot_be_read_says_where_and_why() {
    let (stage, agent, mut line) = play(&[("assistant_role", "own")]).await;
    line.ask("c1", "s", "fix it", &FIRST).await;
    let Said::Error { text, code, .. } = line.next().await else {
        panic!()
    };
    assert_eq!(code, "FAILED_PRECONDITION");
    assert!(text.contains("own.toml") && text.contains("researcher"), "{text}");
    let roles = stage.root.state().join("roles");
    std::fs::create_dir_all(&roles).unwrap();
    std::fs::write(roles.join("own.toml"), "tool = 1").unwrap();
    line.ask("c2", "s", "fix it", &FIRST).await;
    let Said::Error { text, .. } = line.next().await else {
        panic!()
    };
    assert!(text.contains("own.toml") && text.contains("unknown field"), "{text}");
    agent.stop().await;
}

#[tokio::test]
async fn skills_are_listed_and_a_broken_one_is_left_out() {
    let (mut stage, agent, line) = play(&[]).await;
    let skills = stage.root.skills();
    for (folder, text) in [
        (
            "pdf",
            "---\nname: pdf\ndescription: Reads PDF files.\n---\nbody of the skill\n",
        ),
        ("broken", "no front\n"),
    ] {
        std::fs::create_dir_all(skills.join(folder)).unwrap();
        std::fs::write(skills.join(folder).join("SKILL.md"), text).unwrap();
    }
    // The attack: a skill that is a link to a file elsewhere.
    let elsewhere = stage.root.path().join("elsewhere.md");
    std::fs::write(&elsewhere, "---\nname: out\ndescription: leads out\n---\n").unwrap();
    std::fs::create_dir_all(skills.join("out")).unwrap();
    symlink(&elsewhere, skills.join("out/SKILL.md")).unwrap();
    line.ask("c1", "s", "fix it", &FIRST).await;
    let system = stage.call().await.request.messages[0].content.clone();
    assert!(system.ends_with("\n- pdf: Reads PDF files."), "{system}");
    assert!(system.contains("skill:<name>/SKILL.md") && !system.contains("body of the skill"));
    assert!(!system.contains("broken") && !system.contains("leads out"));
    agent.stop().await;
}
