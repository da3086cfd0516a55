//! Endpoints as people configure them and as they are: other addresses, refused fields, and long silences.

mod support;

use std::time::{Duration, Instant};

use nexus_proto::llm::v1 as wire;
use serde_json::{Value, json};
use support::{
    KEYS, World, ask,
    server::{Act, Asked, Server, json as document, response, says},
    world,
};
use tonic::Code;

async fn rack(address: &str, more: &[(&str, &str)]) -> World {
    let endpoint = format!("rack={address}");
    let mut settings = vec![
        ("endpoints", endpoint.as_str()),
        ("max_retries", "0"),
        ("breaker_failures", "0"),
    ];
    settings.extend(more);
    world(KEYS, &settings).await
}

/// Answers below one path only, as a server does.
fn below(path: &'static str, asked: &Asked) -> Vec<Act> {
    if asked.path == path {
        return says("here");
    }
    document(404, &json!({"detail": "Not Found"}))
}

#[tokio::test]
async fn an_address_is_taken_with_and_without_its_version_and_path() {
    for (path, given) in [
        ("/v1/chat/completions", ""),
        ("/v1/chat/completions", "/"),
        ("/v1/chat/completions", "/v1"),
        ("/v1/chat/completions", "/v1/"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", ""),
        ("/api/v1/chat/completions", "/api"),
        ("/api/chat/completions", "/api"),
        ("/strange/chat/completions", "/strange/chat/completions"),
    ] {
        let server = Server::start(move |asked, _| below(path, asked)).await;
        let world = rack(&format!("http://127.0.0.1:{}{given}", server.port), &[]).await;
        for time in ["first", "second"] {
            let whole = world.complete(ask("r", "rack/m", "hi")).await;
            assert_eq!(
                whole.expect(path).content,
                "here",
                "{path} given as {given:?}, the {time} time"
            );
        }
        let asked = server.asked();
        assert_eq!(asked.last().expect("asked").path, path);
        assert!(asked.len() <= 3, "what was found is remembered: {:?}", asked.len());
    }
}

#[tokio::test]
async fn an_address_that_is_wrong_is_named() {
    let server = Server::start(|_, _| document(404, &json!({"detail": "Not Found"}))).await;
    let base = format!("http://127.0.0.1:{}", server.port);
    let world = rack(&format!("{base}/api"), &[]).await;
    let error = world
        .complete(ask("r", "rack/m", "hi"))
        .await
        .expect_err("nothing is there");
    assert_eq!(error.code(), Code::NotFound, "{error}");
    for url in [
        format!("{base}/api/chat/completions"),
        format!("{base}/api/v1/chat/completions"),
    ] {
        assert!(error.message().contains(&url), "{url} in {error}");
    }
    // A page for people under a good status is no answer either.
    let server = Server::start(|_, _| response(200, "Content-Type: Text/HTML; charset=utf-8\r\n", "<html>")).await;
    let base = format!("http://127.0.0.1:{}/v1", server.port);
    let error = rack(&base, &[])
        .await
        .complete(ask("r", "rack/m", "hi"))
        .await
        .expect_err("a page");
    assert!(error.message().contains(&format!("{base}/chat/completions")), "{error}");
}

#[tokio::test]
async fn a_redirect_is_followed_within_its_origin_only() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/v1/chat/completions" => response(308, "location: /new/v1/chat/completions\r\n", ""),
        path => below(
            "/new/v1/chat/completions",
            &Asked {
                path: path.into(),
                body: Value::Null,
            },
        ),
    })
    .await;
    let world = rack(&format!("http://127.0.0.1:{}/v1", server.port), &[]).await;
    let whole = world.complete(ask("r", "rack/m", "hi")).await.expect("followed");
    assert_eq!(whole.content, "here");
    assert_eq!(server.asked()[1].body["model"], "m", "the request goes along");

    let server = Server::start(|_, _| response(307, "location: http://127.0.0.1:1/elsewhere?secret=1\r\n", "")).await;
    let base = format!("http://127.0.0.1:{}/v1", server.port);
    let error = rack(&base, &[])
        .await
        .complete(ask("r", "rack/m", "hi"))
        .await
        .expect_err("elsewhere");
    let told = error.message();
    assert!(
        told.contains("http://127.0.0.1:1/elsewhere") && told.contains("not followed"),
        "{error}"
    );
    assert!(told.contains(&base) && !told.contains("secret"), "{error}");

    let server = Server::start(|_, _| response(302, "location: /v1/chat/completions\r\n", "")).await;
    let world = rack(&format!("http://127.0.0.1:{}/v1", server.port), &[]).await;
    let error = world
        .complete(ask("r", "rack/m", "hi"))
        .await
        .expect_err("round and round");
    assert!(error.message().contains("redirects more than"), "{error}");
}

/// Refuses a field with OpenAI's words.
fn refuses(field: &str, asked: &Asked) -> Option<Vec<Act>> {
    asked.body.get(field)?;
    let message = format!("Unsupported parameter: '{field}' is not supported with this model.");
    Some(document(400, &json!({"error": {"message": message, "param": field}})))
}

fn limited(text: &str) -> wire::LlmRequest {
    let mut request = ask("r", "rack/m", text);
    request.parameters = Some(wire::LlmParameters {
        max_tokens: 77,
        temperature: 0.5,
        ..Default::default()
    });
    request
}

#[tokio::test]
async fn a_refused_field_of_ours_is_left_out_once_and_remembered() {
    let server = Server::start(|asked, _| {
        let refused = refuses("stream_options", asked).or_else(|| refuses("max_tokens", asked));
        refused.unwrap_or_else(|| says("here"))
    })
    .await;
    let world = rack(&format!("http://127.0.0.1:{}/v1", server.port), &[]).await;
    assert_eq!(world.complete(limited("hi")).await.expect("answered").content, "here");
    let asked = server.asked();
    assert_eq!(asked.len(), 3, "once for each field");
    let last = &asked[2].body;
    assert_eq!(
        (&last["max_completion_tokens"], &last["temperature"]),
        (&json!(77), &json!(0.5)),
        "the limit stays"
    );
    assert_eq!(world.complete(limited("hi")).await.expect("answered").content, "here");
    assert_eq!(server.asked().len(), 4, "remembered");
}

#[tokio::test]
async fn a_refused_field_of_the_callers_is_an_error_that_says_how_to_leave_it_out() {
    let server = Server::start(|asked, _| refuses("temperature", asked).unwrap_or_else(|| says("here"))).await;
    let base = format!("http://127.0.0.1:{}/v1", server.port);
    let world = rack(&base, &[]).await;
    let error = world.complete(limited("hi")).await.expect_err("the caller's own");
    assert_eq!(
        (error.code(), server.asked().len()),
        (Code::InvalidArgument, 1),
        "{error}"
    );
    assert!(error.message().contains("llm.omit_fields"), "{error}");

    let world = rack(&base, &[("omit_fields", "rack=temperature")]).await;
    assert_eq!(world.complete(limited("hi")).await.expect("answered").content, "here");
    assert_eq!(server.asked().len(), 2, "by hand it is not even tried");
}

#[tokio::test]
async fn a_value_that_is_wrong_is_not_taken_for_a_field_that_is_refused() {
    let wrong = json!({"error": {"message": "max_tokens is too large: 77. This model takes at most 64.", "param": "max_tokens"}});
    let server = Server::start(move |_, _| document(400, &wrong)).await;
    let world = rack(&format!("http://127.0.0.1:{}/v1", server.port), &[]).await;
    let error = world.complete(limited("hi")).await.expect_err("too large");
    assert_eq!(
        (error.code(), server.asked().len()),
        (Code::InvalidArgument, 1),
        "{error}"
    );
    assert!(error.message().contains("at most 64"), "{error}");
}

#[tokio::test]
async fn a_server_that_still_loads_is_waited_for_as_long_as_for_a_first_byte() {
    let loading = || {
        document(
            503,
            &json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
        )
    };
    let server = Server::start(move |_, before| if before < 3 { loading() } else { says("here") }).await;
    let world = rack(&format!("http://127.0.0.1:{}/v1", server.port), &[]).await;
    let answer = world.stream(ask("r", "rack/m", "hi")).await;
    assert!(answer.heartbeats > 0, "and it is told that somebody waits");
    assert_eq!(answer.whole().content, "here");

    let server = Server::start(move |_, _| loading()).await;
    let world = rack(
        &format!("http://127.0.0.1:{}/v1", server.port),
        &[("first_byte_timeout", "700ms")],
    )
    .await;
    let error = world
        .complete(ask("r", "rack/m", "hi"))
        .await
        .expect_err("never loaded");
    assert!(
        error
            .message()
            .contains("Loading model for 0.7 s (llm.first_byte_timeout)"),
        "{error}"
    );
}

#[tokio::test]
async fn whoever_is_silent_is_alive_until_its_own_limit() {
    let think = |word: &str| {
        let delta = json!({"choices": [{"delta": {"reasoning_content": word}}]});
        Act::Send(format!("data: {delta}\n\n").into_bytes())
    };
    let server = Server::start(move |_, _| {
        let mut acts = response(200, "content-type: text/event-stream\r\n", ": loading\n\n");
        for act in [think("a"), Act::Send(b": still there\n\n".to_vec()), think("b")] {
            acts.extend([Act::Wait(Duration::from_millis(1200)), act]);
        }
        let end = json!({"choices": [{"delta": {"content": "here"}, "finish_reason": "stop"}]});
        acts.push(Act::Send(format!("data: {end}\n\ndata: [DONE]\n\n").into_bytes()));
        acts
    })
    .await;
    let base = format!("http://127.0.0.1:{}/v1", server.port);
    // Each piece comes before the limit, all together long after it.
    let world = rack(&base, &[("idle_timeout", "2s"), ("first_byte_timeout", "2s")]).await;
    let began = Instant::now();
    let answer = world.stream(ask("r", "rack/m", "hi")).await;
    assert!(
        began.elapsed() > Duration::from_secs(3) && answer.heartbeats >= 2,
        "{}",
        answer.heartbeats
    );
    let thought: String = answer.chunks.iter().map(|chunk| chunk.thinking.as_str()).collect();
    assert_eq!(thought, "ab");
    assert_eq!(answer.whole().content, "here");
}

#[tokio::test]
async fn every_limit_of_time_is_named_with_its_section() {
    let server = Server::start(|asked, _| {
        let mut acts = match asked.body["model"].as_str() {
            Some("mute") => Vec::new(),
            _ => response(200, "content-type: text/event-stream\r\n", ": there\n\n"),
        };
        acts.push(Act::Wait(Duration::from_secs(20)));
        acts
    })
    .await;
    let base = format!("http://127.0.0.1:{}/v1", server.port);
    for (model, setting) in [
        ("mute", "first_byte_timeout"),
        ("silent", "idle_timeout"),
        ("silent", "request_timeout"),
    ] {
        let world = rack(&base, &[(setting, "300ms")]).await;
        let error = world
            .complete(ask("r", &format!("rack/{model}"), "hi"))
            .await
            .expect_err(setting);
        assert!(error.message().contains("0.3 s"), "{error}");
        assert!(error.message().contains(&format!("(llm.{setting})")), "{error}");
    }
}

#[tokio::test]
async fn a_model_that_the_offline_provider_does_not_have_is_not_found() {
    let world = world(&[], &[]).await;
    let error = world
        .complete(ask("r", "offline/gpt-9", "hi"))
        .await
        .expect_err("there is none");
    assert_eq!(error.code(), Code::NotFound, "{error}");
    assert!(error.message().contains("gpt-9"), "{error}");
}
