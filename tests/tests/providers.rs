//! `nexus chat` and what stands around it, as a user sees them who talks to a provider that misbehaves.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use nexus_proto::gateway::v1::{
    CreateGatewaySessionRequest, GatewayMessage, StreamChatRequest, StreamState, stream_chat_request,
    stream_chat_response,
};
use nexus_tests::{Daemon, Site, binary};
use serde_json::Value;

struct Provider {
    process: Child,
    port: u16,
    _input: ChildStdin,
}

impl Provider {
    fn start() -> Provider {
        let mut process = Command::new(binary("nexus-tests-provider"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built");
        let input = process.stdin.take().expect("piped");
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("it says its port");
        Provider {
            process,
            port: line.trim().parse().expect("a port"),
            _input: input,
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // It may have ended by itself, and nobody else is to be told.
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// The whole line with a provider called `rack`.
async fn site(provider: &Provider, daemons: &[Daemon]) -> Site {
    let settings = format!(
        "[llm]\nretry_pause = \"10ms\"\n[llm.endpoints]\nrack = \"http://127.0.0.1:{}\"\n[agent]\nidle_timeout = \"3s\"\n",
        provider.port
    );
    let mut site = Site::new().settings(&settings);
    site.up(daemons).await;
    site.answers().await;
    site
}

fn nexus(site: &Site, args: &[&str]) -> Output {
    let mut command = Command::new(binary("nexus"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", site.folder().path())
        .env("NEXUS_ROOT", site.root().path())
        .env("NEXUS_COMMON__ORCHESTRATOR", site.socket(Daemon::Orchestrator))
        .args(args)
        .stdin(Stdio::null());
    command.output().expect("it was built")
}

/// Exit code, what it printed, and what it told beside that.
fn chat(site: &Site, model: &str) -> (Option<i32>, String, String) {
    let model = format!("rack/{model}");
    let done = nexus(site, &["chat", "--model", &model, "hello"]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

/// The newest conversation, as `nexus sessions show` prints it.
fn shown(site: &Site) -> String {
    let listed = nexus(site, &["sessions", "list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let newest = listed["sessions"]
        .as_array()
        .and_then(|sessions| sessions.last())
        .expect("one at least");
    let id = newest["id"].as_str().expect("an id");
    String::from_utf8_lossy(&nexus(site, &["sessions", "show", id]).stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_kept_marked_and_told_and_the_exit_code_says_so() {
    let provider = Provider::start();
    let site = site(&provider, &Daemon::LINE).await;
    for (model, why) in [
        ("breaks", "the graphics card fell asleep"),
        ("cut", "before the answer did"),
    ] {
        let (code, said, told) = chat(&site, model);
        assert_eq!(code, Some(1), "{model}: {told}");
        assert_eq!(said, "Well, \n", "{model}: what came is shown");
        assert!(told.contains("incomplete") && told.contains(why), "{model}: {told}");
        let kept = shown(&site);
        assert!(
            kept.contains("Well, ") && kept.contains("(incomplete: ") && kept.contains(why),
            "{model}: {kept}"
        );
    }
    let done = nexus(&site, &["chat", "--json", "--model", "rack/breaks", "hello"]);
    assert_eq!(done.status.code(), Some(1));
    let lines: Vec<Value> = String::from_utf8_lossy(&done.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let kinds: Vec<_> = lines
        .iter()
        .map(|line| line["type"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(kinds, ["delta", "message", "error"]);
    // The conversation goes on.
    let (code, said, told) = chat(&site, "whole");
    assert_eq!((code, said.as_str()), (Some(0), "Yes.\n"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_thinks_or_loads_is_waited_for() {
    let provider = Provider::start();
    let site = site(&provider, &Daemon::LINE).await;
    // Longer than the agent waits for a daemon that is silent.
    for model in ["thinks-5", "loads", "strict", "whole"] {
        let (code, said, told) = chat(&site, model);
        assert_eq!((code, said.as_str()), (Some(0), "Yes.\n"), "{model}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_what_an_answer_was_cut_short_is_said_below_it_with_what_helps() {
    let provider = Provider::start();
    let site = site(&provider, &Daemon::ALL).await;
    for (model, text, why) in [
        ("short", "Once upon", "limit of 4096 tokens; raise agent.answer_tokens"),
        ("filtered", "I will", "content filter"),
    ] {
        let (code, said, told) = chat(&site, model);
        assert_eq!((code, said.trim_end()), (Some(0), text), "{model}: {told}");
        assert!(told.contains("(cut short: ") && told.contains(why), "{model}: {told}");
        let kept = shown(&site);
        assert!(
            kept.contains(&format!("{text}\n(cut short: ")) && kept.contains(why),
            "{model}: {kept}"
        );
        let (state, message) = by_gateway(&site, model).await;
        assert_eq!(state, StreamState::Complete, "{model}: {message}");
        assert!(message.contains(why), "{model}: {message:?}");
    }
    let (code, said, told) = chat(&site, "thought-out");
    assert_eq!((code, said.as_str()), (Some(1), ""), "{told}");
    assert!(told.contains("used up its limit of 4096 tokens by thinking"), "{told}");
    assert!(told.contains("raise agent.answer_tokens"), "{told}");
    let (state, message) = by_gateway(&site, "breaks").await;
    assert_eq!(state, StreamState::Error);
    assert!(message.contains("the graphics card fell asleep"), "{message:?}");
}

/// How the gateway says that an answer ended.
async fn by_gateway(site: &Site, model: &str) -> (StreamState, String) {
    let connection = site.dial(Daemon::Gateway).connection();
    let made = connection
        .gateway()
        .create_gateway_session(CreateGatewaySessionRequest::default())
        .await;
    let session_id = made.expect("a session can be made").into_inner().session_id;
    let metadata = nexus_proto::gateway::v1::GatewayMessageMetadata {
        model: format!("rack/{model}"),
        ..Default::default()
    };
    let message = GatewayMessage {
        content: "hello".into(),
        metadata: Some(metadata),
        ..GatewayMessage::default()
    };
    let asks = StreamChatRequest {
        session_id,
        payload: Some(stream_chat_request::Payload::Message(message)),
    };
    let mut frames = connection
        .gateway()
        .stream_chat(tokio_stream::once(asks))
        .await
        .expect("a stream can be opened")
        .into_inner();
    let mut last = None;
    while let Some(frame) = frames.message().await.expect("the stream goes on") {
        if let Some(stream_chat_response::Payload::Status(status)) = frame.payload {
            last = Some((status.state(), status.message));
        }
    }
    last.expect("a status ends it")
}
