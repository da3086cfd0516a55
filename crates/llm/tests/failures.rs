//! Providers that fail in every way, and what the caller sees of it.

mod support;

use std::time::{Duration, Instant};

use nexus_proto::llm::v1 as wire;
use support::{KEYS, ask, rest, world};
use tonic::Code;

#[tokio::test]
async fn a_broken_answer_is_told_once_and_never_started_over() {
    let world = world(KEYS, &[]).await;
    for provider in ["anthropic", "openai"] {
        for model in ["error", "cut", "malformed"] {
            let before = world.fake.requests(model);
            let mut request = ask("r", &format!("{provider}/{model}"), "hi");
            request.fallback_providers = vec!["offline".into()];
            let answer = world.stream(request).await;
            assert_eq!(answer.text, "Well, ", "{provider}/{model}: what was sent stays");
            let error = answer.failed();
            assert_eq!(
                (error.code.as_str(), error.retryable),
                ("UNAVAILABLE", true),
                "{error:?}"
            );
            assert!(error.message.starts_with(provider), "{error:?}");
            assert_eq!(world.fake.requests(model) - before, 1, "asked once");
        }
    }
}

#[tokio::test]
async fn an_event_without_end_is_not_collected() {
    let world = world(KEYS, &[("max_retries", "0")]).await;
    let error = world.stream(ask("r", "openai/huge", "hi")).await.failed();
    assert!(error.message.contains("longer than"), "{error:?}");
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let world = world(KEYS, &[]).await;
    for provider in ["anthropic", "openai"] {
        let answer = world.stream(ask("r", &format!("{provider}/once-500"), "hi")).await;
        assert_eq!(answer.text, "Hello from the fake provider.");
        let began = Instant::now();
        let answer = world.stream(ask("r", &format!("{provider}/once-429"), "hi")).await;
        assert_eq!(answer.text, "Hello from the fake provider.");
        assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    }
    assert_eq!(world.fake.requests("once-500"), 4);
}

#[tokio::test]
async fn attempts_are_bounded_and_long_waits_are_not_waited() {
    let world = world(KEYS, &[("max_retries", "2")]).await;
    let error = world
        .complete(ask("r", "openai/always-500", "hi"))
        .await
        .expect_err("fails");
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(world.fake.requests("always-500"), 3);
    let error = world
        .complete(ask("r", "anthropic/always-429", "hi"))
        .await
        .expect_err("fails");
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("wait 3600 s"), "{error}");
    assert_eq!(world.fake.requests("always-429"), 1);
    let error = world.complete(ask("r", "openai/quota", "hi")).await.expect_err("fails");
    assert_eq!(
        (error.code(), world.fake.requests("quota")),
        (Code::FailedPrecondition, 1)
    );
}

#[tokio::test]
async fn only_named_fallbacks_step_in() {
    let world = world(KEYS, &[("max_retries", "0")]).await;
    assert!(world.complete(ask("r", "anthropic/always-500", "hi")).await.is_err());
    let mut request = ask("r", "anthropic/always-500", "hi");
    request.fallback_providers = vec!["ollama/llama3".into(), "rack/echo".into(), "offline".into()];
    let whole = world.complete(request).await.expect("the second fallback answers");
    assert_eq!((whole.provider.as_str(), whole.content.as_str()), ("rack", "hi"));
    // A request that is wrong is wrong everywhere.
    let mut request = ask("r", "anthropic/always-500", "hi");
    request.fallback_providers = vec!["nobody".into()];
    let error = world.complete(request).await.expect_err("unknown");
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test]
async fn a_sick_provider_rests_unless_it_is_named() {
    let world = world(
        KEYS,
        &[
            ("max_retries", "0"),
            ("breaker_failures", "2"),
            ("default_model", "openai/always-500"),
        ],
    )
    .await;
    for _ in 0..2 {
        assert!(world.complete(ask("r", "", "hi")).await.is_err());
    }
    let error = world.complete(ask("r", "", "hi")).await.expect_err("rests");
    assert!(error.message().contains("left alone"), "{error}");
    assert_eq!(world.fake.requests("always-500"), 2, "it is not asked while it rests");
    let status = world.llm().get_status(()).await.expect("status").into_inner();
    assert!(!status.providers["openai"].available && status.providers["anthropic"].available);
    let named = world
        .complete(ask("r", "openai/text", "hi"))
        .await
        .expect("named, so asked");
    assert_eq!(named.provider, "openai");
    let status = world.llm().get_status(()).await.expect("status").into_inner();
    assert!(status.providers["openai"].available, "a success ends the rest");
}

#[tokio::test]
async fn silence_has_an_end() {
    let quick = [
        ("max_retries", "0"),
        ("first_byte_timeout", "200ms"),
        ("idle_timeout", "200ms"),
    ];
    let world = world(KEYS, &quick).await;
    let error = world.stream(ask("r", "anthropic/mute", "hi")).await.failed();
    assert!(
        error.message.contains("no answer within 0.2 s") && error.retryable,
        "{error:?}"
    );
    let answer = world.stream(ask("r", "openai/silent", "hi")).await;
    assert_eq!(answer.text, "Well, ");
    assert!(answer.failed().message.contains("silent for 0.2 s"));
    let mut request = ask("r", "rack/endless", "hi");
    request.metadata = Some(wire::LlmMetadata {
        timeout_ms: 300,
        ..Default::default()
    });
    let error = world.stream(request).await.failed();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("DEADLINE_EXCEEDED", "no answer within 0.3 s")
    );
    world.fake.saw("gone endless").await;
    world.fake.saw("gone mute").await;
}

#[tokio::test]
async fn nobody_there_and_strange_answers() {
    let world = world(KEYS, &[("max_retries", "0")]).await;
    for (model, code, part) in [
        ("ollama/llama3", Code::Unavailable, "no connection"),
        ("openai/moved", Code::Unavailable, "not followed"),
        ("openai/page", Code::Unavailable, "text/html"),
        ("anthropic/no-such-model", Code::NotFound, "no-such-model"),
    ] {
        let error = world.complete(ask("r", model, "hi")).await.expect_err(model);
        assert_eq!(error.code(), code, "{model}: {error}");
        assert!(error.message().contains(part), "{model}: {error}");
    }
}

#[tokio::test]
async fn leaving_ends_the_request_with_the_provider() {
    let world = world(KEYS, &[]).await;
    for provider in ["anthropic", "rack"] {
        let mut talk = world.talk().await;
        talk.request(ask("r", &format!("{provider}/endless"), "hi")).await;
        assert!(talk.next().await.expect("in band").is_some(), "it has begun");
        drop(talk);
        world.fake.saw("gone endless").await;
    }
    // A half-close only ends the asking.
    let mut talk = world.talk().await;
    talk.request(ask("r2", "openai/slow", "hi")).await;
    assert!(talk.next().await.expect("in band").is_some());
    drop(std::mem::replace(&mut talk.send, tokio::sync::mpsc::channel(1).0));
    let all = rest(&mut talk).await.expect("ends with OK");
    assert!(matches!(
        all.last(),
        Some(wire::stream_llm_response::Payload::Complete(_))
    ));
    world.fake.saw("finished slow").await;
}

#[tokio::test]
async fn a_stop_is_not_held_by_an_answer_without_end() {
    let world = world(KEYS, &[("common.stop_budget", "500ms")]).await;
    let mut talk = world.talk().await;
    talk.request(ask("r", "openai/endless", "hi")).await;
    assert!(talk.next().await.expect("in band").is_some());
    let stop = tokio::time::timeout(support::PATIENCE, world.daemon.stop());
    let (stopped, ended) = tokio::join!(stop, rest(&mut talk));
    stopped.expect("stops in time");
    assert_eq!(ended.expect_err("told").code(), Code::Unavailable);
    world.fake.saw("gone endless").await;
}
