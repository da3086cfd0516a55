//! The daemon over a real socket, and a provider in a process of its own.

#![expect(dead_code, reason = "each test program uses a part of it")]

pub mod server;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures_util::StreamExt;
use nexus_client::{Address, Channel, Connection, Options};
use nexus_config::Root;
use nexus_daemon::Running;
use nexus_llm::Llm;
use nexus_proto::llm::v1::{
    self as wire, llm_service_client::LlmServiceClient, stream_llm_request::Payload as In,
    stream_llm_response::Payload as Out,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Long enough for a busy machine; reached only when something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Fake {
    pub port: u16,
    lines: watch::Receiver<Vec<String>>,
    _process: Child,
    _input: ChildStdin,
}

impl Fake {
    pub async fn start() -> Self {
        let built = std::env::current_exe().expect("a test is a file");
        let program = built
            .ancestors()
            .nth(2)
            .expect("in target/x/deps")
            .join("examples/fake_provider");
        let mut process = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; cargo build --examples", program.display()));
        let mut output = BufReader::new(process.stdout.take().expect("piped")).lines();
        let input = process.stdin.take().expect("piped");
        let first = output.next_line().await.expect("readable").expect("its port");
        let port = first
            .strip_prefix("port ")
            .and_then(|port| port.parse().ok())
            .expect("a port");
        let (sender, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = output.next_line().await {
                sender.send_modify(|lines| lines.push(line));
            }
        });
        Self {
            port,
            lines,
            _process: process,
            _input: input,
        }
    }

    pub async fn saw(&self, line: &str) {
        let mut lines = self.lines.clone();
        let seen = lines.wait_for(|lines| lines.iter().any(|one| one == line));
        timeout(PATIENCE, seen)
            .await
            .unwrap_or_else(|_| panic!("never saw {line:?}"))
            .expect("it lives");
    }

    pub fn requests(&self, model: &str) -> usize {
        let end = format!(" {model}");
        self.lines
            .borrow()
            .iter()
            .filter(|line| line.starts_with("request ") && line.ends_with(&end))
            .count()
    }
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub fake: Fake,
    pub daemon: Running,
    pub connection: Connection,
}

pub const KEYS: &[(&str, &str)] = &[("anthropic", "sk-canary-a"), ("openai", "sk-canary-o")];

pub async fn world(keys: &[(&str, &str)], overrides: &[(&str, &str)]) -> World {
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = Root::at(dir.path());
    root.create().expect("directories");
    write_keys(&root.key_file(), keys, 0o600);
    let fake = Fake::start().await;
    let daemon = start(dir.path(), fake.port, overrides).await;
    let connection = Connection::lazy(&Address::Unix(daemon.socket().to_owned()), &Options::default());
    World {
        dir,
        fake,
        daemon,
        connection,
    }
}

pub async fn start(root: &Path, port: u16, overrides: &[(&str, &str)]) -> Running {
    let owned = settings(port);
    let mut all: Vec<(&str, &str)> = owned
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    all.extend(overrides);
    nexus_daemon::start::<Llm>(Root::at(root), &all).await.expect("starts")
}

/// Every provider is the fake one; `nowhere` is a port that nobody has.
pub fn settings(port: u16) -> Vec<(String, String)> {
    let base = format!("http://127.0.0.1:{port}");
    let version = format!("{base}/v1");
    let pairs = [
        ("anthropic_base_url", base.clone()),
        ("openai_base_url", version.clone()),
        ("openrouter_base_url", version.clone()),
        ("ollama_base_url", "http://127.0.0.1:9/v1".to_owned()),
        ("lmstudio_base_url", "http://127.0.0.1:9/v1".to_owned()),
        ("endpoints", format!("rack={version}")),
        ("retry_pause", "10ms".to_owned()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).to_vec()
}

pub fn write_keys(path: &Path, keys: &[(&str, &str)], mode: u32) {
    let lines: String = keys.iter().map(|(name, key)| format!("{name} = \"{key}\"\n")).collect();
    fs::create_dir_all(path.parent().expect("in a directory")).expect("directory");
    let fresh: PathBuf = path.with_extension("new");
    fs::write(&fresh, format!("[keys]\n{lines}")).expect("write");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).expect("chmod");
    fs::rename(&fresh, path).expect("rename");
}

pub fn ask(id: &str, model: &str, text: &str) -> wire::LlmRequest {
    wire::LlmRequest {
        request_id: id.into(),
        model: model.into(),
        messages: vec![wire::LlmMessage {
            role: "user".into(),
            content: text.into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub struct Talk {
    pub send: mpsc::Sender<wire::StreamLlmRequest>,
    pub read: Streaming<wire::StreamLlmResponse>,
}

impl Talk {
    pub async fn say(&self, payload: In) {
        self.send
            .send(wire::StreamLlmRequest { payload: Some(payload) })
            .await
            .expect("open");
    }

    pub async fn request(&self, request: wire::LlmRequest) {
        self.say(In::Request(request)).await;
    }

    pub async fn next(&mut self) -> Result<Option<Out>, Status> {
        let next = timeout(PATIENCE, self.read.message())
            .await
            .expect("something comes in time");
        next.map(|frame| frame.map(|frame| frame.payload.expect("never empty")))
    }

    /// Until the answer or the error of one request.
    pub async fn answer(&mut self) -> Answer {
        self.answer_after(0).await
    }

    /// As `answer`, where some chunks were read already.
    pub async fn answer_after(&mut self, read: usize) -> Answer {
        let mut answer = Answer::default();
        loop {
            match self.next().await.expect("in band").expect("more to come") {
                Out::Chunk(chunk) => {
                    assert_eq!(chunk.index as usize, read + answer.chunks.len(), "indices rise by one");
                    answer.text.push_str(&chunk.content);
                    answer.chunks.push(chunk);
                }
                Out::ToolCall(call) => answer.tools.push(call),
                Out::Usage(usage) => answer.usage = usage.usage,
                Out::Complete(complete) => answer.complete = complete.response,
                Out::Error(error) => answer.error = Some(error),
                Out::Heartbeat(()) => answer.heartbeats += 1,
            }
            if answer.complete.is_some() || answer.error.is_some() {
                return answer;
            }
        }
    }
}

#[derive(Debug, Default)]
pub struct Answer {
    pub text: String,
    pub chunks: Vec<wire::StreamChunk>,
    pub tools: Vec<wire::StreamToolCall>,
    pub usage: Option<nexus_proto::common::v1::TokenUsage>,
    pub complete: Option<wire::LlmResponse>,
    pub error: Option<wire::StreamError>,
    pub heartbeats: usize,
}

impl Answer {
    pub fn whole(self) -> wire::LlmResponse {
        match self.complete {
            Some(complete) => complete,
            None => panic!("no answer but {:?}", self.error),
        }
    }

    pub fn failed(self) -> wire::StreamError {
        self.error.unwrap_or_else(|| panic!("no error but {:?}", self.complete))
    }
}

impl World {
    pub fn llm(&self) -> LlmServiceClient<Channel> {
        self.connection.llm()
    }

    pub async fn talk(&self) -> Talk {
        let (send, receive) = mpsc::channel(32);
        let read = self
            .llm()
            .stream_llm(ReceiverStream::new(receive))
            .await
            .expect("opens")
            .into_inner();
        Talk { send, read }
    }

    pub async fn stream(&self, request: wire::LlmRequest) -> Answer {
        let mut talk = self.talk().await;
        talk.request(request).await;
        talk.answer().await
    }

    pub async fn complete(&self, request: wire::LlmRequest) -> Result<wire::LlmResponse, Status> {
        let asked = wire::CompleteLlmRequest { request: Some(request) };
        self.llm()
            .complete_llm(asked)
            .await
            .map(|answer| answer.into_inner().response.expect("always set"))
    }

    pub fn key_file(&self) -> PathBuf {
        Root::at(self.dir.path()).key_file()
    }
}

/// Reads a stream to its end.
pub async fn rest(talk: &mut Talk) -> Result<Vec<Out>, Status> {
    let mut all = Vec::new();
    while let Some(frame) = timeout(PATIENCE, talk.read.next()).await.expect("ends in time") {
        all.push(frame?.payload.expect("never empty"));
    }
    Ok(all)
}
