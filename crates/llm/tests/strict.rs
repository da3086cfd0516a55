//! Conversations with tools against a provider that checks each request as strictly as the real ones do.

mod support;

use std::{collections::BTreeMap, collections::HashMap};

use nexus_model_server::{
    Family, Script, Server,
    script::{Act, Turn},
};
use nexus_proto::llm::v1::{self as wire, FinishReason, block::Kind};
use serde_json::json;
use support::{World, ask, world};

const KEYS: &[(&str, &str)] = &[
    ("anthropic", "sk-canary-a"),
    ("openai", "sk-canary-o"),
    ("gemini", "sk-canary-g"),
    ("rack", "sk-canary-r"),
];

/// How each family is asked, and under which name its model is known.
const ASKED: [(Family, &str); 4] = [
    (Family::Anthropic, "anthropic/claude-coder"),
    (Family::Chat, "rack/chat-coder"),
    (Family::Responses, "openai/responses-coder"),
    (Family::Gemini, "gemini/gemini-3-coder"),
];

async fn strict(scripts: impl Fn() -> Script) -> (Server, World) {
    let models = ASKED.map(|(_, asked)| asked.split_once('/').expect("provider/model").1.to_owned());
    let scripts: BTreeMap<String, Script> = models.into_iter().map(|model| (model, scripts())).collect();
    let server = Server::start(scripts).await.expect("a free port");
    let (url, rack) = (server.url(), format!("rack={}/v1", server.url()));
    let settings = [
        ("anthropic_base_url", url.as_str()),
        ("openai_base_url", url.as_str()),
        ("gemini_base_url", url.as_str()),
        ("endpoints", rack.as_str()),
        ("openai_api", "responses"),
        ("max_retries", "3"),
    ];
    let world = world(KEYS, &settings).await;
    (server, world)
}

fn block(kind: Kind) -> wire::Block {
    wire::Block { kind: Some(kind) }
}

fn tool(name: &str) -> wire::Tool {
    wire::Tool {
        name: name.into(),
        description: "Does it.".into(),
        input_schema_json: r#"{"type":"object","properties":{"path":{"type":"string"}}}"#.into(),
        ..Default::default()
    }
}

/// Answers each call of an answer, and puts both behind the conversation.
fn go_on(request: &mut wire::LlmRequest, answer: wire::LlmResponse, result: &str) {
    let results = answer
        .tool_calls
        .iter()
        .map(|call| {
            block(Kind::ToolResult(wire::ToolResult {
                tool_call_id: call.id.clone(),
                name: call.name.clone(),
                content: vec![block(Kind::Text(result.into()))],
                is_error: call.malformed,
            }))
        })
        .collect();
    request.messages.push(wire::LlmMessage {
        role: "assistant".into(),
        blocks: answer.blocks,
        extra: HashMap::from([("provider".into(), answer.provider)]),
        ..Default::default()
    });
    request.messages.push(wire::LlmMessage {
        role: "tool".into(),
        blocks: results,
        ..Default::default()
    });
}

fn loop_of_tools() -> Script {
    Script::of([
        // Asked with another model's conversation.
        Turn::default().when("And now you").text("I see."),
        Turn::default()
            .when("Compare")
            .think("two files, I think")
            .text("I read them. ")
            .call("read_file", json!({"path": "a"}))
            .call("read_file", json!({"path": "b"})),
        Turn::default()
            .when("the file")
            .think("one is missing")
            .call("find", json!({})),
        Turn::default().when("the file").text("Done."),
    ])
}

/// A loop of three rounds with each provider, then its whole conversation with every other: nothing is refused, and what
/// a model thought goes back to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_provider_accepts_its_own_loop_and_those_of_the_others() {
    for (family, asked) in ASKED {
        let (server, world) = strict(loop_of_tools).await;
        let mut request = ask("r", asked, "Compare a and b.");
        request.tools = vec![tool("find"), tool("read_file")];
        request.session_id = "s-1".into();
        request.thinking = Some(wire::Thinking {
            effort: "low".into(),
            ..Default::default()
        });
        for calls in [2, 1, 0] {
            let answer = world
                .complete(request.clone())
                .await
                .unwrap_or_else(|status| panic!("{asked}: {status:?}, refused: {:?}", server.refusals()));
            assert_eq!(answer.tool_calls.len(), calls, "{asked}");
            let finish = if calls == 0 {
                FinishReason::Stop
            } else {
                FinishReason::ToolUses
            };
            assert_eq!(answer.finish_reason(), finish, "{asked}");
            if calls > 0 {
                let sealed = answer
                    .blocks
                    .iter()
                    .any(|block| matches!(block.kind, Some(Kind::Opaque(_))));
                assert!(sealed, "{asked}: {:?}", answer.blocks);
                go_on(&mut request, answer, "the file");
            }
        }
        let last = server.recorded().pop().expect("three requests").body.to_string();
        let mark = match family {
            Family::Anthropic => "\"signature\"",
            Family::Chat => "\"reasoning_content\"",
            Family::Responses => "\"encrypted_content\"",
            Family::Gemini => "\"thoughtSignature\"",
        };
        assert!(last.contains(mark), "{asked}: {last}");
        request.messages.push(wire::LlmMessage {
            role: "user".into(),
            content: "And now you.".into(),
            ..Default::default()
        });
        for (_, other) in ASKED.iter().filter(|(_, other)| *other != asked) {
            request.model = (*other).into();
            // The others have a script of their own, of which only the last turn fits.
            let answer = world
                .complete(request.clone())
                .await
                .unwrap_or_else(|status| panic!("{asked}, then {other}: {status:?}, refused: {:?}", server.refusals()));
            assert_eq!(answer.content, "I see.", "{asked}, then {other}");
            let sent = server.recorded().pop().expect("one more").body.to_string();
            assert!(
                !sent.contains(mark) || sent.contains("skip_thought"),
                "{asked}, then {other}: {sent}"
            );
        }
        assert_eq!(server.refusals(), Vec::<String>::new());
    }
}

/// What fails before its first piece is asked for again; after that it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_before_the_first_piece_are_asked_for_again() {
    let script = || {
        Script::of([
            Turn::default().fail(429, Some(0)),
            Turn::default().fail(500, None),
            Turn::default().act(Act::Cut),
            Turn::default().text("Here."),
            Turn::default().text("Well, ").act(Act::Error("asleep".into())),
            Turn::default().text("Well, ").act(Act::Cut),
        ])
    };
    let (server, world) = strict(script).await;
    for (_, asked) in ASKED {
        let answer = world.stream(ask("r", asked, "hi")).await;
        assert_eq!(answer.whole().content, "Here.", "{asked}");
        for _ in 0..2 {
            let answer = world.stream(ask("r", asked, "hi")).await;
            assert_eq!(answer.text, "Well, ", "{asked}");
            assert!(answer.failed().retryable, "{asked}");
        }
    }
    assert_eq!(server.recorded().len(), ASKED.len() * 6);
}

/// Arguments that are no JSON reach the caller marked, and go back as valid JSON with the text in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_arguments_go_back_as_valid_json() {
    let script = || {
        Script::of([
            Turn::default().call("read_file", json!("{\"path\": \"a")),
            Turn::default().text("Sorry."),
        ])
    };
    let (server, world) = strict(script).await;
    for (_, asked) in ASKED.iter().filter(|(family, _)| *family != Family::Gemini) {
        let mut request = ask("r", asked, "Read a.");
        request.tools = vec![tool("read_file")];
        let answer = world.complete(request.clone()).await.expect("answered");
        assert!(answer.tool_calls[0].malformed, "{asked}");
        assert_eq!(
            answer.tool_calls[0].arguments, "{\"path\": \"a",
            "{asked}: never repaired"
        );
        go_on(&mut request, answer, "error invalid_arguments: not JSON");
        assert_eq!(
            world.complete(request).await.expect("answered").content,
            "Sorry.",
            "{asked}"
        );
        let sent = server.recorded().pop().expect("two requests").body.to_string();
        assert!(sent.contains("malformed_arguments"), "{asked}: {sent}");
    }
    assert_eq!(server.refusals(), Vec::<String>::new());
}

/// A model list comes from the provider where it has one.
#[tokio::test]
async fn models_are_asked_from_each_provider() {
    let (_server, world) = strict(|| Script::says("hi")).await;
    let models = world
        .llm()
        .list_models(wire::ListModelsRequest::default())
        .await
        .expect("listed")
        .into_inner()
        .models;
    for (_, asked) in ASKED {
        assert!(models.iter().any(|model| model.id == asked), "{asked} in {models:?}");
    }
}

/// The offline model says what a script says, so that tools can be shown without a key.
#[tokio::test]
async fn the_offline_model_calls_tools_by_its_script() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("script.toml");
    let text = r#"
        [[step]]
        last = "exit code 0"
        text = "Done."

        [[step]]
        number = 1
        text = "I count. "
        calls = [{ name = "exec", arguments = { command = "ls" } }]
    "#;
    std::fs::write(&path, text).expect("write");
    let world = world(&[], &[("offline_script", path.to_str().expect("UTF-8"))]).await;
    let mut request = ask("r", "offline/script", "Count the files.");
    let answer = world.complete(request.clone()).await.expect("answered");
    assert_eq!(
        (answer.content.as_str(), answer.finish_reason()),
        ("I count. ", FinishReason::ToolUses)
    );
    assert_eq!(answer.tool_calls[0].arguments, "{\"command\":\"ls\"}");
    go_on(&mut request, answer, "3\nexit code 0");
    assert_eq!(
        world.complete(request.clone()).await.expect("answered").content,
        "Done."
    );
    request.messages.truncate(2);
    let told = world.complete(request).await.expect_err("no step").message().to_owned();
    assert!(told.contains("the script has no step for request 2"), "{told}");
}
