//! Whole answers, of both families, through the socket.

mod support;

use nexus_proto::llm::v1::{self as wire, FinishReason, block::Kind};
use support::{KEYS, ask, world};

#[tokio::test]
async fn tokens_stream_and_the_whole_comes_last() {
    let world = world(KEYS, &[]).await;
    for model in ["anthropic/text", "openai/text", "rack/text"] {
        let answer = world.stream(ask("r1", model, "hi")).await;
        assert_eq!(answer.text, "Hello from the fake provider.");
        assert_eq!(answer.chunks.len(), 6, "five words and the end");
        assert!(answer.chunks.iter().all(|chunk| chunk.request_id == "r1"));
        let last: Vec<bool> = answer.chunks.iter().map(|chunk| chunk.is_last).collect();
        assert_eq!(last, [false, false, false, false, false, true]);
        let usage = answer.usage.expect("counted");
        assert_eq!(
            (usage.input_tokens, usage.output_tokens, usage.total_tokens),
            (11, 7, 18)
        );
        let whole = answer.whole();
        assert_eq!(
            (whole.content.as_str(), whole.model.as_str()),
            ("Hello from the fake provider.", model)
        );
        assert_eq!(whole.provider, model.split_once('/').expect("named").0);
        assert_eq!(whole.finish_reason(), FinishReason::Stop);
        assert!(whole.completed_at.is_some());
    }
}

#[tokio::test]
async fn characters_survive_any_cut() {
    let world = world(KEYS, &[]).await;
    for provider in ["anthropic", "openai"] {
        let answer = world.stream(ask("r", &format!("{provider}/bytes"), "hi")).await;
        assert_eq!(answer.text, "Grüße, 世界! 🦀 çok güzel");
    }
    assert_eq!(world.stream(ask("r", "openai/long", "hi")).await.text.len(), 1_000_000);
}

#[tokio::test]
async fn tool_calls_come_in_parts_and_whole() {
    let world = world(KEYS, &[]).await;
    for provider in ["anthropic", "openai"] {
        let answer = world.stream(ask("r", &format!("{provider}/tools"), "hi")).await;
        let part = |id: &str| {
            let parts = answer.tools.iter().filter(|call| call.tool_call_id == id);
            parts.map(|call| call.arguments_delta.as_str()).collect::<String>()
        };
        assert_eq!(
            (part("toolu_1").as_str(), part("toolu_2").as_str()),
            ("{\"path\":\"/tmp\"}", "{}")
        );
        assert!(answer.tools.iter().all(|call| call.name == "list_files"));
        let whole = answer.whole();
        let calls: Vec<_> = whole
            .tool_calls
            .iter()
            .map(|call| (call.id.as_str(), call.arguments.as_str()))
            .collect();
        assert_eq!(calls, [("toolu_1", "{\"path\":\"/tmp\"}"), ("toolu_2", "{}")]);
        assert_eq!(whole.finish_reason(), FinishReason::ToolUses);
    }
}

/// The pieces of a call carry its place, and its end is told once; the whole answer has everything in its order.
#[tokio::test]
async fn blocks_come_in_order_and_each_call_ends_once() {
    let world = world(KEYS, &[]).await;
    for provider in ["anthropic", "openai"] {
        let answer = world.stream(ask("r", &format!("{provider}/tools"), "hi")).await;
        for (index, id) in [(0, "toolu_1"), (1, "toolu_2")] {
            let of_call: Vec<_> = answer.tools.iter().filter(|call| call.tool_call_id == id).collect();
            assert!(of_call.iter().all(|call| call.index == index), "{provider}");
            let done: Vec<bool> = of_call.iter().map(|call| call.done).collect();
            assert_eq!(done.iter().filter(|done| **done).count(), 1, "{provider}");
            assert_eq!(done.last(), Some(&true), "{provider}");
        }
        let text = answer.text.clone();
        let kinds: Vec<_> = answer
            .whole()
            .blocks
            .into_iter()
            .filter_map(|block| block.kind)
            .collect();
        let [Kind::Text(said), Kind::ToolCall(first), Kind::ToolCall(second)] = kinds.as_slice() else {
            panic!("{provider}: {kinds:?}")
        };
        assert_eq!(*said, text);
        assert_eq!((first.id.as_str(), second.id.as_str()), ("toolu_1", "toolu_2"));
        assert_eq!(second.arguments, "{}");
    }
}

/// Blocks of a conversation reach the provider in its own words, a call without a result included.
#[tokio::test]
async fn a_conversation_of_blocks_reaches_the_provider() {
    let world = world(KEYS, &[]).await;
    let block = |kind: Kind| wire::Block { kind: Some(kind) };
    let call = |id: &str| {
        block(Kind::ToolCall(wire::ToolCall {
            id: id.into(),
            name: "look".into(),
            arguments: "{\"at\":1}".into(),
            malformed: false,
        }))
    };
    let picture = || {
        block(Kind::Image(wire::Image {
            media_type: "image/png".into(),
            data: vec![1, 2, 3].into(),
        }))
    };
    let result = block(Kind::ToolResult(wire::ToolResult {
        tool_call_id: "a".into(),
        name: "look".into(),
        content: vec![block(Kind::Text("a cat".into())), picture()],
        is_error: false,
    }));
    let message = |role: &str, blocks: Vec<wire::Block>| wire::LlmMessage {
        role: role.into(),
        blocks,
        ..Default::default()
    };
    let mut request = ask("r", "anthropic/body", "");
    request.messages = vec![
        message("user", vec![block(Kind::Text("what is it?".into())), picture()]),
        message("assistant", vec![call("a"), call("b")]),
        message("tool", vec![result]),
    ];
    request.tools = vec![wire::Tool {
        name: "look".into(),
        input_schema_json: r#"{"type":"object","properties":{"at":{"type":"integer"}}}"#.into(),
        ..Default::default()
    }];
    request.tool_choice = "required".into();
    request.parallel_tool_calls = Some(false);
    let whole = world.complete(request.clone()).await.expect("answered");
    let sent: serde_json::Value = serde_json::from_str(&whole.content).expect("JSON");
    assert_eq!(sent["messages"][0]["content"][1]["source"]["data"], "AQID");
    assert_eq!(sent["messages"][1]["content"][1]["id"], "b");
    let results = &sent["messages"][2]["content"];
    assert_eq!(
        (&results[0]["tool_use_id"], &results[0]["content"][1]["type"]),
        (&"a".into(), &"image".into())
    );
    assert_eq!(
        (&results[1]["tool_use_id"], &results[1]["is_error"]),
        (&"b".into(), &true.into())
    );
    assert_eq!(
        sent["tool_choice"],
        serde_json::json!({"type": "any", "disable_parallel_tool_use": true})
    );
    request.model = "rack/body".into();
    let whole = world.complete(request).await.expect("answered");
    let sent: serde_json::Value = serde_json::from_str(&whole.content).expect("JSON");
    assert_eq!(sent["messages"][2]["tool_call_id"], "a");
    assert_eq!(sent["messages"][3]["tool_call_id"], "b");
    let url = &sent["messages"][4]["content"][1]["image_url"]["url"];
    assert_eq!(url, "data:image/png;base64,AQID", "a tool's message takes no image");
    assert_eq!(
        (&sent["tool_choice"], &sent["parallel_tool_calls"]),
        (&"required".into(), &false.into())
    );
}

/// What no provider could take is refused before anything is sent, and the place is named.
#[tokio::test]
async fn blocks_that_cannot_be_are_refused_by_their_place() {
    let world = world(KEYS, &[]).await;
    let refused = async |kind: Option<Kind>, role: &str| {
        let mut request = ask("r", "anthropic/text", "hi");
        request.messages.push(wire::LlmMessage {
            role: role.into(),
            blocks: vec![wire::Block { kind }],
            ..Default::default()
        });
        world.complete(request).await.expect_err("refused").message().to_owned()
    };
    let call = Kind::ToolCall(wire::ToolCall::default());
    assert!(
        refused(None, "user")
            .await
            .starts_with("messages[1]: blocks[0]: is empty")
    );
    assert_eq!(
        refused(Some(call), "user").await,
        "messages[1]: role user cannot hold a tool call"
    );
    let picture = Kind::Image(wire::Image {
        media_type: "image/tiff".into(),
        data: vec![1].into(),
    });
    assert!(
        refused(Some(picture), "user")
            .await
            .contains("media type \"image/tiff\"")
    );
    let result = Kind::ToolResult(wire::ToolResult::default());
    assert!(refused(Some(result), "tool").await.contains("tool_call_id"));
}

#[tokio::test]
async fn every_end_has_its_reason() {
    let world = world(KEYS, &[]).await;
    for provider in ["anthropic", "openai"] {
        for (model, reason) in [("length", FinishReason::Length), ("filter", FinishReason::Filter)] {
            let whole = world
                .complete(ask("r", &format!("{provider}/{model}"), "hi"))
                .await
                .expect("answered");
            assert_eq!(whole.finish_reason(), reason);
        }
    }
    let uncounted = world
        .complete(ask("r", "openai/uncounted", "hi"))
        .await
        .expect("answered");
    assert!(uncounted.usage.expect("guessed").output_tokens > 0);
}

#[tokio::test]
async fn what_the_caller_says_reaches_the_provider() {
    let world = world(KEYS, &[]).await;
    let mut request = ask("r", "anthropic/body", "hi");
    request.messages.insert(
        0,
        wire::LlmMessage {
            role: "system".into(),
            content: "be kind".into(),
            ..Default::default()
        },
    );
    request.parameters = Some(wire::LlmParameters {
        max_tokens: 77,
        temperature: 0.7,
        ..Default::default()
    });
    request.tools = vec![wire::Tool {
        name: "delegate".into(),
        ..Default::default()
    }];
    request.metadata = Some(wire::LlmMetadata {
        correlation_id: "c-1".into(),
        ..Default::default()
    });
    let whole = world.complete(request).await.expect("answered");
    let sent: serde_json::Value = serde_json::from_str(&whole.content).expect("JSON");
    assert_eq!(
        (&sent["model"], &sent["max_tokens"], &sent["system"][0]["text"]),
        (&"body".into(), &77.into(), &"be kind".into())
    );
    assert_eq!(
        (&sent["temperature"], &sent["tools"][0]["name"]),
        (&0.7.into(), &"delegate".into())
    );
    assert_eq!(whole.metadata.expect("echoed").correlation_id, "c-1");
}

#[tokio::test]
async fn without_a_key_the_offline_model_answers_and_says_so() {
    let world = world(&[], &[]).await;
    let whole = world.complete(ask("r", "", "hello there")).await.expect("answered");
    assert_eq!(
        (whole.provider.as_str(), whole.model.as_str()),
        ("offline", "offline/nexus-offline-1")
    );
    assert!(whole.content.contains("no language model") && whole.content.contains("\"hello there\""));
    // Local endpoints need none.
    let local = world
        .complete(ask("r", "rack/echo", "you there?"))
        .await
        .expect("answered");
    assert_eq!(local.content, "you there?");
}

#[tokio::test]
async fn with_a_key_its_provider_answers_what_names_nobody() {
    let world = world(&[("openai", "sk-x")], &[]).await;
    let whole = world.complete(ask("r", "", "ping")).await.expect("answered");
    assert_eq!(
        (whole.model.as_str(), whole.content.as_str()),
        ("openai/gpt-4o", "ping")
    );
}
