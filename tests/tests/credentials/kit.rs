//! A tree with its model daemon, the `nexus` command beside it, and a provider of models that says which key it got.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nexus_proto::llm::v1::{CompleteLlmRequest, LlmMessage, LlmRequest};
use nexus_tests::{Daemon, PATIENCE, Site, binary};
use tonic::Status;

/// Answers every chat request, and keeps the keys that came with them.
pub struct Provider {
    pub port: u16,
    keys: Arc<Mutex<Vec<String>>>,
}

impl Provider {
    pub fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let keys = Arc::new(Mutex::new(Vec::new()));
        let seen = keys.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for caller in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || answer(caller, &seen));
            }
        });
        Provider { port, keys }
    }

    pub fn keys(&self) -> Vec<String> {
        self.keys.lock().unwrap().clone()
    }
}

/// One request, as OpenAI's chat API has it, then the connection is closed.
fn answer(caller: TcpStream, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(caller.try_clone().unwrap());
    let (mut key, mut length, mut first) = (String::new(), 0, String::new());
    lines.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() <= 2 {
            break;
        }
        let (name, value) = line.split_once(':').unwrap();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => key = value.trim().trim_start_matches("Bearer ").to_owned(),
            "content-length" => length = value.trim().parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).unwrap();
    let (kind, text) = if first.starts_with("POST") {
        seen.lock().unwrap().push(key);
        let pieces = [
            r#"{"choices":[{"delta":{"content":"fine"}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            "[DONE]",
        ];
        (
            "text/event-stream",
            pieces.map(|piece| format!("data: {piece}\n\n")).concat(),
        )
    } else {
        ("application/json", r#"{"data":[]}"#.to_owned())
    };
    let length = text.len();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    // Who asked may have gone.
    let _gone = (&caller).write_all((head + &text).as_bytes());
}

pub struct World {
    pub site: Site,
    pub provider: Provider,
    env: BTreeMap<String, String>,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn ok(self) -> Done {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl World {
    /// `keys` is the value of `[llm] endpoint_keys`; the endpoint is called `rack`.
    pub fn new(keys: &str) -> World {
        let provider = Provider::start();
        let site = Site::new().settings(&format!(
            "[llm]\nendpoints = {{ rack = \"http://127.0.0.1:{}/v1\" }}\nendpoint_keys = {{ {keys} }}\n\
             credential_timeout = \"15s\"\n[common]\nlog_level = \"debug\"\n",
            provider.port
        ));
        let mut world = World {
            site,
            provider,
            env: BTreeMap::new(),
        };
        fs::create_dir_all(world.folder().join("bin")).unwrap();
        let path = format!(
            "{}:{}",
            world.folder().join("bin").display(),
            std::env::var("PATH").unwrap()
        );
        world.set("PATH", Some(&path));
        world.set("HOME", Some(&world.folder().display().to_string()));
        world
    }

    pub fn folder(&self) -> PathBuf {
        self.site.folder().path().to_owned()
    }

    pub fn set(&mut self, name: &str, value: Option<&str>) {
        self.site.set(name, value);
        match value {
            Some(value) => self.env.insert(name.into(), value.into()),
            None => self.env.remove(name),
        };
    }

    /// A program in front of all others of that name.
    pub fn shim(&self, name: &str, script: &str) -> PathBuf {
        script_at(&self.folder().join("bin").join(name), script)
    }

    pub fn nexus(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = Command::new(binary("nexus"))
            .args(arguments)
            .env_clear()
            .env("NEXUS_ROOT", self.site.root().path())
            .envs(&self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that asks for nothing may have gone already.
        let _gone = child.stdin.take().unwrap().write_all(input.as_bytes());
        let done = child.wait_with_output().unwrap();
        Done {
            code: done.status.code(),
            out: String::from_utf8(done.stdout).unwrap(),
            err: String::from_utf8(done.stderr).unwrap(),
        }
    }

    /// What `nexus services status` says of one.
    pub fn service(&self, name: &str) -> serde_json::Value {
        let said = self.nexus(&["services", "status", name, "--json"], "");
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap()["services"][0].take()
    }

    pub fn credential(&self, arguments: &[&str], input: &str) -> Done {
        self.nexus(&[&["credential"], arguments].concat(), input)
    }

    /// One question to the model behind `rack`.
    pub async fn ask(&self) -> Result<(), Status> {
        let request = LlmRequest {
            request_id: "r".into(),
            model: "rack/any".into(),
            messages: vec![LlmMessage {
                role: "user".into(),
                content: "hi".into(),
                ..LlmMessage::default()
            }],
            ..LlmRequest::default()
        };
        let connection = self.site.dial(Daemon::Llm).connection();
        let request = CompleteLlmRequest { request: Some(request) };
        connection.llm().complete_llm(request).await.map(|_| ())
    }

    /// Asks until it is answered, as a store comes back by itself.
    pub async fn answered(&self) {
        let begin = Instant::now();
        while let Err(error) = self.ask().await {
            assert!(begin.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What the daemon itself says is wrong.
    pub async fn health(&self) -> i32 {
        let connection = self.site.dial(Daemon::Llm).connection();
        connection.llm().health_check(()).await.unwrap().into_inner().health
    }

    pub fn log(&self) -> String {
        let out = fs::read_to_string(self.folder().join("llm.out")).unwrap_or_default();
        out + &fs::read_to_string(self.site.root().log_dir().join("llm.log")).unwrap_or_default()
    }
}

pub fn script_at(path: &Path, script: &str) -> PathBuf {
    // Renamed over the old one: a program that is being written cannot be run.
    let fresh = path.with_extension("new");
    fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&fresh, path).unwrap();
    path.to_owned()
}

/// Whether a program is there, else the test is told as skipped.
pub fn have(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    for program in programs {
        if !path.split(':').any(|folder| Path::new(folder).join(program).is_file()) {
            nexus_tests::skipped(test, &format!("needs {program} (tests/credentials/setup.sh)"));
            return false;
        }
    }
    true
}
