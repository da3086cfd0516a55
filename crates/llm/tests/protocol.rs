//! The rules of the calls themselves: order of frames, ids, heartbeats, half-close, limits, what is told of providers.

mod support;

use nexus_proto::{
    common::v1::Health,
    llm::v1::{self as wire, stream_llm_request::Payload as In, stream_llm_response::Payload as Out},
};
use support::{KEYS, ask, rest, start, world};
use tonic::Code;

#[tokio::test]
async fn a_wrong_first_frame_ends_the_call_with_the_known_words() {
    let world = world(KEYS, &[]).await;
    let mut talk = world.talk().await;
    talk.send
        .send(wire::StreamLlmRequest { payload: None })
        .await
        .expect("open");
    let status = talk.next().await.expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "first message must contain LLM request")
    );
    for (request, code, text) in [
        (
            ask("", "offline", "hi"),
            Code::InvalidArgument,
            "request_id is required",
        ),
        (
            wire::LlmRequest {
                request_id: "r".into(),
                messages: vec![wire::LlmMessage {
                    role: "robot".into(),
                    ..Default::default()
                }],
                ..Default::default()
            },
            Code::InvalidArgument,
            "messages[0]: role \"robot\" is none of system, user, assistant, tool",
        ),
    ] {
        let mut talk = world.talk().await;
        talk.request(request.clone()).await;
        let status = talk.next().await.expect_err("refused");
        assert_eq!((status.code(), status.message()), (code, text));
        let status = world.complete(request).await.expect_err("refused");
        assert_eq!((status.code(), status.message()), (code, text));
    }
    let status = world
        .llm()
        .complete_llm(wire::CompleteLlmRequest { request: None })
        .await
        .expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "request is required")
    );
}

#[tokio::test]
async fn what_is_wrong_later_is_told_in_the_stream() {
    let world = world(&[], &[]).await;
    let mut talk = world.talk().await;
    talk.request(ask("r1", "anthropic/text", "hi")).await;
    let error = talk.answer().await.failed();
    assert_eq!(
        (error.code.as_str(), error.suggested_provider.as_str()),
        ("FAILED_PRECONDITION", "offline")
    );
    assert!(error.message.contains("nexus models key set anthropic"), "{error:?}");
    for (request, code) in [
        (ask("", "", "hi"), "INVALID_ARGUMENT"),
        (ask("r2", "nobody/x", "hi"), "NOT_FOUND"),
        (ask("r2", "ollama", "hi"), "NOT_FOUND"),
        (
            wire::LlmRequest {
                provider: "ollama".into(),
                ..ask("r2", "", "hi")
            },
            "FAILED_PRECONDITION",
        ),
        (
            wire::LlmRequest {
                messages: vec![],
                ..ask("r2", "", "hi")
            },
            "INVALID_ARGUMENT",
        ),
    ] {
        talk.request(request).await;
        let error = talk.answer().await.failed();
        assert_eq!((error.code.as_str(), error.retryable), (code, false), "{error:?}");
    }
    talk.request(ask("r1", "offline", "hi")).await;
    let error = talk.answer().await.failed();
    assert!(error.message.contains("offline"), "a provider is no model: {error:?}");
    talk.request(ask("r1", "offline/nexus-offline-1", "hi")).await;
    assert_eq!(talk.answer().await.whole().provider, "offline");
}

#[tokio::test]
async fn heartbeats_are_answered_at_any_time() {
    let world = world(KEYS, &[]).await;
    let mut talk = world.talk().await;
    talk.say(In::Heartbeat(())).await;
    assert_eq!(talk.next().await.expect("open"), Some(Out::Heartbeat(())));
    talk.request(ask("r", "openai/slow", "hi")).await;
    assert!(talk.next().await.expect("open").is_some());
    talk.say(In::Heartbeat(())).await;
    let answer = talk.answer_after(1).await;
    assert_eq!(answer.heartbeats, 1, "while an answer runs");
    talk.say(In::Heartbeat(())).await;
    assert_eq!(talk.next().await.expect("open"), Some(Out::Heartbeat(())));
    drop(std::mem::replace(&mut talk.send, tokio::sync::mpsc::channel(1).0));
    assert_eq!(rest(&mut talk).await.expect("OK"), []);
}

#[tokio::test]
async fn a_stream_without_a_request_ends_with_ok() {
    let world = world(KEYS, &[]).await;
    let mut talk = world.talk().await;
    drop(std::mem::replace(&mut talk.send, tokio::sync::mpsc::channel(1).0));
    assert_eq!(rest(&mut talk).await.expect("OK"), []);
}

#[tokio::test]
async fn an_id_is_taken_while_it_is_answered_and_free_after() {
    let world = world(KEYS, &[("max_retries", "0")]).await;
    let mut talk = world.talk().await;
    talk.request(ask("same", "openai/endless", "hi")).await;
    assert!(talk.next().await.expect("open").is_some());
    let mut other = world.talk().await;
    other.request(ask("same", "openai/text", "hi")).await;
    let status = other.next().await.expect_err("taken");
    assert_eq!(
        (status.code(), status.message()),
        (Code::AlreadyExists, "LLM request already exists")
    );
    drop(talk);
    world.fake.saw("gone endless").await;
    assert_eq!(
        world
            .complete(ask("same", "openai/text", "hi"))
            .await
            .expect("free")
            .provider,
        "openai"
    );
    // Free after a failure too.
    for _ in 0..2 {
        assert_eq!(
            world
                .complete(ask("same", "openai/always-500", "x"))
                .await
                .expect_err("fails")
                .code(),
            Code::Unavailable
        );
    }
}

#[tokio::test]
async fn several_requests_share_one_stream() {
    let world = world(KEYS, &[]).await;
    let mut talk = world.talk().await;
    talk.request(ask("slow", "openai/slow", "hi")).await;
    talk.request(ask("quick", "anthropic/text", "hi")).await;
    drop(std::mem::replace(&mut talk.send, tokio::sync::mpsc::channel(1).0));
    let all = rest(&mut talk).await.expect("OK");
    let complete: Vec<_> = all
        .iter()
        .filter_map(|out| {
            if let Out::Complete(complete) = out {
                Some(complete.request_id.as_str())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(complete, ["quick", "slow"], "neither waits for the other");
}

#[tokio::test]
async fn too_many_at_once_are_told_so() {
    let world = world(KEYS, &[("max_concurrent_requests", "1"), ("max_waiting_requests", "0")]).await;
    let mut talk = world.talk().await;
    talk.request(ask("r", "openai/endless", "hi")).await;
    assert!(talk.next().await.expect("open").is_some());
    let error = world.stream(ask("s", "openai/text", "hi")).await.failed();
    assert_eq!((error.code.as_str(), error.retryable), ("RESOURCE_EXHAUSTED", true));
    assert!(error.message.starts_with("too many concurrent requests"));
}

#[tokio::test]
async fn a_budget_survives_a_restart() {
    let world = world(KEYS, &[("daily_token_budget", "30")]).await;
    for _ in 0..2 {
        world
            .complete(ask("r", "openai/text", "hi"))
            .await
            .expect("18 tokens each");
    }
    let error = world
        .complete(ask("r", "openai/text", "hi"))
        .await
        .expect_err("36 of 30");
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("daily budget of 30 tokens"), "{error}");
    assert!(
        world.complete(ask("r", "offline/nexus-offline-1", "hi")).await.is_ok(),
        "it costs nothing"
    );
    let support::World {
        dir,
        fake,
        daemon,
        connection,
    } = world;
    daemon.stop().await;
    let daemon = start(dir.path(), fake.port, &[("daily_token_budget", "30")]).await;
    let world = support::World {
        dir,
        fake,
        daemon,
        connection,
    };
    world.connection.connected().await.expect("back");
    let error = world
        .complete(ask("r", "openai/text", "hi"))
        .await
        .expect_err("still spent");
    assert_eq!(error.code(), Code::ResourceExhausted);
    let all = world
        .llm()
        .get_capabilities(wire::GetCapabilitiesRequest {
            provider: "openai".into(),
        })
        .await;
    let openai = all.expect("known").into_inner().providers.remove(0);
    assert_eq!(
        (
            openai.metadata["tokens_today"].as_str(),
            openai.metadata["requests_total"].as_str()
        ),
        ("36", "2")
    );
}

#[tokio::test]
async fn models_and_providers_are_as_they_are() {
    let world = world(&[("openai", "sk-x")], &[]).await;
    let list = |provider: &str| {
        let (mut llm, provider) = (world.llm(), provider.to_owned());
        async move {
            llm.list_models(wire::ListModelsRequest { provider })
                .await
                .map(|list| list.into_inner().models)
        }
    };
    let all = list("").await.expect("all");
    let find = |id: &str| all.iter().find(|model| model.id == id);
    let claude = find("anthropic/claude-sonnet-4-20250514").expect("in the catalogue without a key");
    assert_eq!(
        (
            claude.metadata["context_window"].as_str(),
            claude.metadata["available"].as_str()
        ),
        ("200000", "false")
    );
    assert_eq!(
        find("rack/text").expect("listed by the endpoint").metadata["context_window"],
        "8192"
    );
    for id in ["openai/gpt-4o", "openai/text", "offline/nexus-offline-1"] {
        assert_eq!(find(id).unwrap_or_else(|| panic!("{id}")).metadata["available"], "true");
    }
    assert!(
        list("rack")
            .await
            .expect("one")
            .iter()
            .all(|model| model.provider == "rack")
    );
    assert_eq!(list("nobody").await.expect_err("unknown").code(), Code::NotFound);

    let health = world.llm().health_check(()).await.expect("health").into_inner();
    assert_eq!(health.health(), Health::Healthy);
    assert_eq!(health.available_providers, ["openai", "offline", "rack"]);
    assert_eq!(
        health.unavailable_providers,
        ["anthropic", "openrouter", "gemini", "ollama", "lmstudio"]
    );
}

#[tokio::test]
async fn counters_are_true() {
    let world = world(KEYS, &[("max_retries", "0")]).await;
    let mut talk = world.talk().await;
    talk.request(ask("r", "openai/endless", "hi")).await;
    assert!(talk.next().await.expect("open").is_some());
    world
        .complete(ask("a", "anthropic/slow", "hi"))
        .await
        .expect("answered");
    world
        .complete(ask("b", "anthropic/always-500", "hi"))
        .await
        .expect_err("fails");
    let status = world.llm().get_status(()).await.expect("status").into_inner();
    assert_eq!(
        (status.active_requests, status.total_requests, status.total_tokens_used),
        (1, 3, 18)
    );
    let (anthropic, openai) = (&status.providers["anthropic"], &status.providers["openai"]);
    assert_eq!((anthropic.active_requests, anthropic.total_requests), (0, 2));
    assert!(anthropic.avg_response_time_ms >= 1000.0, "twenty words 50 ms apart");
    assert_eq!(
        (
            openai.active_requests,
            openai.total_requests,
            openai.avg_response_time_ms
        ),
        (1, 1, 0.0)
    );
    assert!(anthropic.last_request_at.is_some() && status.started_at.is_some());
    assert!(status.uptime.expect("set").seconds >= 1);
}
