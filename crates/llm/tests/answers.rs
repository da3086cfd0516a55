//! Whole answers, of both families, through the socket.

mod support;

use nexus_proto::llm::v1::{self as wire, FinishReason};
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
        (&sent["model"], &sent["max_tokens"], &sent["system"]),
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
