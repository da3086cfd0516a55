//! What the tests of foreign clients share: the real daemons in a directory of their own, and programs of other
//! languages run against them with a deadline. Never installs anything: that is `foreign/setup.sh`.
//!
//! A suite whose language is not there says so and passes; with `CI=true` it fails.

#![expect(dead_code, reason = "each test program uses its part of this module")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use nexus_client::{Address, Connection, Options};
use nexus_proto::agent::v1::AgentState;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(15);

type Lines = Arc<Mutex<String>>;

/// Daemons over a fresh `~/nexus`, ended when dropped.
pub struct Site {
    home: TempDir,
    daemons: Vec<Daemon>,
}

struct Daemon {
    name: &'static str,
    child: Child,
    log: Lines,
}

impl Site {
    /// The orchestrator alone.
    pub fn orchestrator() -> Site {
        let home = tempfile::Builder::new().prefix("nexus").tempdir_in("/tmp").expect("a temporary directory");
        let mut site = Site { home, daemons: Vec::new() };
        let settings = site.root().join("state/nexus");
        fs::create_dir_all(&settings).expect("the settings' directory");
        let text = format!("[orchestrator]\nsocket_path = \"{}\"\n", site.socket().display());
        fs::write(settings.join("config.toml"), text).expect("the settings");
        site.start("orchestrator", &[]);
        site
    }

    /// All four, the model being the built-in offline one, once a message would be answered.
    pub fn whole() -> Site {
        let mut site = Site::orchestrator();
        site.start("llm", &[]);
        site.start("gateway", &[]);
        site.start("agent", &["--role", "assistant"]);
        let agent = site.root().join("state/run/agent-assistant.sock");
        let everything = async {
            site.serving("llm").await;
            site.serving("gateway").await;
            answering(&agent).await;
        };
        let ready = runtime().block_on(async { tokio::time::timeout(START, everything).await });
        assert!(ready.is_ok(), "not everything became ready\n{}", site.logs());
        site
    }

    /// The model daemon joins the orchestrator.
    pub fn with_llm() -> Site {
        let mut site = Site::orchestrator();
        site.start("llm", &[]);
        let ready = runtime().block_on(async { tokio::time::timeout(START, site.serving("llm")).await });
        assert!(ready.is_ok(), "the model daemon did not become ready\n{}", site.logs());
        site
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn root(&self) -> PathBuf {
        self.home.path().join("nexus")
    }

    pub fn socket(&self) -> PathBuf {
        self.home.path().join("o.sock")
    }

    /// Every socket there is, with the service it belongs to.
    pub fn sockets(&self) -> Vec<(String, PathBuf)> {
        let mut sockets = vec![("orchestrator".to_owned(), self.socket())];
        for entry in fs::read_dir(self.root().join("state/run")).expect("the sockets' directory").flatten() {
            if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".sock")) {
                sockets.push((name.to_owned(), entry.path()));
            }
        }
        sockets
    }

    fn start(&mut self, name: &'static str, arguments: &[&str]) {
        let mut child = Command::new(program(&format!("nexus-{name}")))
            .args(arguments)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("failed to start nexus-{name}: {e}"));
        let (tell, ready) = mpsc::channel();
        let log = Lines::default();
        let (lines, stderr) = (log.clone(), child.stderr.take().expect("it is piped"));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains(" ready ") {
                    let _ = tell.send(());
                }
                let mut log = lines.lock().expect("nobody panics with it");
                log.push_str(&line);
                log.push('\n');
            }
        });
        self.daemons.push(Daemon { name, child, log });
        assert!(ready.recv_timeout(START).is_ok(), "nexus-{name} did not become ready\n{}", self.logs());
    }

    async fn serving(&self, name: &str) {
        let request = HealthCheckRequest { service: name.to_owned() };
        let mut states = connection(&self.socket()).health().watch(request).await.expect("a watch").into_inner();
        while let Some(state) = states.message().await.expect("a state") {
            if state.status() == ServingStatus::Serving {
                return;
            }
        }
        panic!("the watch of {name} ended");
    }

    pub fn logs(&self) -> String {
        let one = |daemon: &Daemon| {
            format!("--- nexus-{}\n{}", daemon.name, daemon.log.lock().expect("nobody panics with it"))
        };
        self.daemons.iter().map(one).collect()
    }

    /// Runs a foreign program, and gives what it printed. Its failure, or its deadline, is the test's.
    pub fn run(&self, command: &mut Command, deadline: Duration) -> String {
        match output(command, deadline) {
            Ok(text) => text,
            Err(problem) => panic!("{problem}\n{}", self.logs()),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        while let Some(mut daemon) = self.daemons.pop() {
            let _ = kill(Pid::from_raw(daemon.child.id().cast_signed()), Signal::SIGTERM);
            if waited(&mut daemon.child, STOP).is_none() {
                let _ = daemon.child.kill();
                let _ = daemon.child.wait();
            }
        }
    }
}

async fn answering(agent: &Path) {
    let connection = connection(agent);
    loop {
        let status = connection.agent().get_status(()).await;
        if status.is_ok_and(|status| matches!(status.get_ref().state(), AgentState::Idle | AgentState::Busy)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn connection(socket: &Path) -> Connection {
    Connection::lazy(&Address::Unix(socket.to_path_buf()), &Options::default())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A daemon's program: where `NEXUS_BIN_DIR` says, else in the profile's directory that this test was built into.
pub fn program(name: &str) -> PathBuf {
    let place = env::var_os("NEXUS_BIN_DIR").map_or_else(
        || {
            let own = env::current_exe().expect("a path of our own");
            own.ancestors().nth(2).expect("it is in target/<profile>/deps").to_path_buf()
        },
        PathBuf::from,
    );
    let path = place.join(name);
    assert!(path.is_file(), "{} is not built: cargo xtask test builds it", path.display());
    path
}

/// The directory of the whole workspace.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_path_buf()
}

/// What `foreign/setup.sh` made.
pub fn made(path: &str) -> PathBuf {
    checkout().join("target/foreign").join(path)
}

/// True if all of these exist; otherwise the suite is skipped, by name, and its tests are over.
pub fn has(suite: &str, needs: &[(PathBuf, &str)]) -> bool {
    let Some((_, what)) = needs.iter().find(|(path, _)| !path.exists()) else { return true };
    let line = format!("{suite}: {what} is missing (tests/foreign/setup.sh)");
    assert!(!env::var("CI").is_ok_and(|ci| ci == "true"), "with CI=true nothing may be skipped: {line}");
    println!("skipped: {line}");
    if let Some(file) = env::var_os("NEXUS_TESTS_SKIPPED") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(file).expect("the list of what is skipped");
        writeln!(file, "{line}").expect("a line in the list of what is skipped");
    }
    false
}

/// A program of the system, where `PATH` has it; else a path that does not exist.
pub fn which(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|place| place.join(name)).find(|path| path.is_file()).unwrap_or_else(|| name.into())
}

pub fn output(command: &mut Command, deadline: Duration) -> Result<String, String> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("failed to run {shown}: {e}"))?;
    let text = Lines::default();
    let readers = [
        gather(child.stdout.take().expect("it is piped"), text.clone()),
        gather(child.stderr.take().expect("it is piped"), text.clone()),
    ];
    let status = waited(&mut child, deadline);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    } else {
        for reader in readers {
            let _ = reader.join();
        }
    }
    let text = text.lock().expect("nobody panics with it").clone();
    match status {
        Some(status) if status.success() => Ok(text),
        Some(status) => Err(format!("{shown}: {status}\n{text}")),
        None => Err(format!("{shown}: still running after {deadline:?}\n{text}")),
    }
}

fn gather(mut from: impl Read + Send + 'static, text: Lines) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            text.lock().expect("nobody panics with it").push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    })
}

fn waited(child: &mut Child, deadline: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + deadline;
    while Instant::now() < end {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}
