//! One `NEXUS_ROOT` in a temporary folder, and the daemons that run in it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Arc,
    time::{Duration, Instant},
};

use nexus_client::{Address, Connection, Options, ServerUid};
use nexus_config::Root;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::time::sleep;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{Daemon, Frame, PATIENCE, Process, Talk, binary, process::tail};

/// Between two looks at a daemon that is not ready yet.
const LOOK_AGAIN: Duration = Duration::from_millis(3);
const LINES: usize = 80;

/// Everything in it is gone when it is dropped; after a failure the logs are printed first.
pub struct Site {
    folder: Arc<TempDir>,
    root: Root,
    socket: PathBuf,
    env: BTreeMap<String, String>,
    running: BTreeMap<Daemon, Process>,
}

impl Site {
    pub fn new() -> Site {
        let folder = tempfile::Builder::new()
            .prefix("nexus-")
            .tempdir()
            .expect("a temporary folder can be made");
        let root = folder.path().join("root");
        let socket = folder.path().join("grpc.sock");
        Site::at(Arc::new(folder), &root, &socket)
    }

    /// With a root and an orchestrator's socket that may be another site's.
    pub fn at(folder: Arc<TempDir>, root: &Path, socket: &Path) -> Site {
        Site {
            folder,
            root: Root::at(root),
            socket: socket.into(),
            env: BTreeMap::new(),
            running: BTreeMap::new(),
        }
    }

    /// A variable for every daemon that is started from now on.
    pub fn env(mut self, name: &str, value: &str) -> Site {
        self.env.insert(name.into(), value.into());
        self
    }

    pub fn set(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.env.insert(name.into(), value.into()),
            None => self.env.remove(name),
        };
    }

    /// The settings file, for every daemon that is started from now on.
    pub fn settings(self, toml: &str) -> Site {
        let file = self.root.config_file();
        let parent = file.parent().expect("the file lies in the root");
        std::fs::create_dir_all(parent).expect("the root can be made");
        std::fs::write(&file, toml).expect("the settings can be written");
        self
    }

    pub fn folder(&self) -> &Arc<TempDir> {
        &self.folder
    }

    pub fn root(&self) -> &Root {
        &self.root
    }

    pub fn socket(&self, daemon: Daemon) -> PathBuf {
        match daemon {
            Daemon::Orchestrator => self.socket.clone(),
            other => self.root.socket(other.service()),
        }
    }

    /// As it is started here.
    pub fn command(&self, daemon: Daemon) -> Command {
        let mut command = Command::new(binary(daemon.program()));
        self.dress(&mut command, daemon);
        command
    }

    /// The environment and arguments of a daemon for a command that runs it.
    pub fn dress(&self, command: &mut Command, daemon: Daemon) {
        command.env_clear().current_dir(self.folder.path());
        for kept in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command
            .env("HOME", self.folder.path())
            .env("NEXUS_ROOT", self.root.path())
            .env("NEXUS_COMMON__ORCHESTRATOR", &self.socket)
            // Never what else runs on this host: images of its Docker are not ours to remove.
            .env("NEXUS_ORCHESTRATOR__CONTAINER_BACKEND", "sandbox")
            .envs(&self.env);
        if daemon == Daemon::Orchestrator {
            command.arg("--grpc-socket-path").arg(&self.socket);
        }
        if daemon == Daemon::Agent {
            command.args(["--role", "assistant"]);
        }
        if daemon == Daemon::Worker {
            command.args(["--role", "worker"]);
        }
        if daemon == Daemon::Gateway {
            // Its listeners for browsers are off in these tests, wherever it has them.
            command.env("NEXUS_GATEWAY__TCP_LISTEN", "");
        }
    }

    fn log(&self, daemon: Daemon) -> PathBuf {
        self.folder.path().join(format!("{daemon}.out"))
    }

    /// Starts a daemon without waiting for it.
    pub fn start(&mut self, daemon: Daemon) {
        let mut command = self.command(daemon);
        self.start_with(daemon, &mut command);
    }

    pub fn start_with(&mut self, daemon: Daemon, command: &mut Command) {
        assert!(!self.running.contains_key(&daemon), "{daemon} runs already");
        let process = Process::spawn(command, &self.log(daemon));
        let process = process.unwrap_or_else(|error| panic!("failed to start {daemon}: {error}"));
        self.running.insert(daemon, process);
    }

    /// Waits until it says that it serves.
    pub async fn ready(&mut self, daemon: Daemon) {
        let until = Instant::now() + PATIENCE;
        let address = Address::Unix(self.socket(daemon));
        loop {
            let process = self.running.get_mut(&daemon).expect("it was started");
            if let Some(status) = process.ended() {
                panic!("{daemon} ended before it was ready: {status}\n{}", process.tail(LINES));
            }
            let options = Options {
                own_token: Some(self.root.own_token_file()),
                ..Options::default()
            };
            let connection = Connection::lazy(&address, &options);
            let request = HealthCheckRequest { service: String::new() };
            if let Ok(answer) = connection.health().check(request).await
                && answer.into_inner().status() == ServingStatus::Serving
            {
                return;
            }
            assert!(Instant::now() < until, "{daemon} is not ready after {PATIENCE:?}");
            sleep(LOOK_AGAIN).await;
        }
    }

    pub async fn up(&mut self, daemons: &[Daemon]) {
        for daemon in daemons {
            self.start(*daemon);
        }
        for daemon in daemons {
            self.ready(*daemon).await;
        }
    }

    /// The three that a conversation needs, seen to work.
    pub async fn up_line(&mut self) {
        self.up(&Daemon::LINE).await;
        self.answers().await;
    }

    /// Waits until a question is answered. The session it takes is gone again afterwards.
    pub async fn answers(&mut self) {
        let connection = self.connect();
        let session = crate::ask::create(&connection, "probe").await;
        let mut talk = Talk::open(&connection, &session, None, false)
            .await
            .expect("a stream can be opened");
        let until = Instant::now() + PATIENCE;
        talk.say("probe", "hello").await;
        loop {
            match talk.next().await.expect("the stream goes on") {
                Some(Frame::Message(_)) => break,
                Some(Frame::Failed { error, .. }) => {
                    assert!(Instant::now() < until, "no answer after {PATIENCE:?}: {error}");
                    sleep(LOOK_AGAIN).await;
                    talk.say("probe", "hello").await;
                }
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
        drop(talk);
        crate::ask::delete(&connection, &session).await;
    }

    pub fn process(&mut self, daemon: Daemon) -> &mut Process {
        self.running.get_mut(&daemon).expect("it was started")
    }

    pub fn pid(&self, daemon: Daemon) -> i32 {
        self.running.get(&daemon).expect("it was started").pid()
    }

    /// `kill -9`.
    pub fn kill(&mut self, daemon: Daemon) {
        self.running.remove(&daemon).expect("it was started").kill();
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self, daemon: Daemon) -> ExitStatus {
        let mut process = self.running.remove(&daemon).expect("it was started");
        process.signal(Signal::SIGTERM);
        let ended = process.end(PATIENCE).await;
        ended.unwrap_or_else(|| panic!("{daemon} has not stopped after {PATIENCE:?}\n{}", process.tail(LINES)))
    }

    /// A stop in good order.
    pub async fn stopped(&mut self, daemon: Daemon) {
        let status = self.stop(daemon).await;
        let log = tail(&self.log(daemon), LINES);
        assert!(status.success(), "{daemon} stopped with {status}\n{log}");
    }

    /// A new connection to the orchestrator, as its own user.
    pub fn connect(&self) -> Connection {
        self.dial(Daemon::Orchestrator).connection()
    }

    pub fn dial(&self, daemon: Daemon) -> Dial {
        Dial {
            socket: self.socket(daemon),
            own_token: self.root.own_token_file(),
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Site::new()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        for process in self.running.values_mut() {
            process.kill();
        }
        for directory in ["containers/containers", "worker"] {
            crate::engines::end_sandboxes(&self.root.state().join(directory));
        }
        if !failed {
            return;
        }
        for daemon in Daemon::ALL {
            let log = tail(&self.log(daemon), LINES);
            if !log.is_empty() {
                eprintln!("---- {daemon}, the last {LINES} lines:\n{log}");
            }
        }
    }
}

/// Where a daemon can be reached, for tasks that dial by themselves.
#[derive(Clone, Debug)]
pub struct Dial {
    socket: PathBuf,
    own_token: PathBuf,
}

impl Dial {
    pub fn connection(&self) -> Connection {
        let options = Options {
            reconnect_interval: Duration::from_millis(50),
            rpc_timeout: PATIENCE,
            server_uid: ServerUid::OwnOrRoot,
            own_token: Some(self.own_token.clone()),
            ..Options::default()
        };
        Connection::lazy(&Address::Unix(self.socket.clone()), &options)
    }
}
