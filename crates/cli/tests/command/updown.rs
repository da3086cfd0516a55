//! Starting and stopping, where the daemons are scripts and sockets that misbehave on purpose.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
        process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::fake::{nexus, text};

pub struct Tree {
    dir: tempfile::TempDir,
}

/// No supervisor outlives its tree.
impl Drop for Tree {
    fn drop(&mut self) {
        let _done = self.run(&["down", "--timeout", "1s"]);
    }
}

impl Tree {
    pub fn new() -> Self {
        Tree {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("o.sock")
    }

    fn bin(&self) -> PathBuf {
        self.path().join("bin")
    }

    /// All four daemons are this script.
    pub fn daemons(&self, script: &str) {
        fs::create_dir_all(self.bin()).unwrap();
        for name in ["nexus-orchestrator", "nexus-llm", "nexus-agent", "nexus-gateway"] {
            let path = self.bin().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command: Command = nexus(self.path(), &self.socket());
        command.args(args).env("NEXUS_BIN_DIR", self.bin()).stdin(Stdio::null());
        command
    }
}

#[test]
fn a_daemon_that_does_not_stay_shows_why() {
    let tree = Tree::new();
    tree.daemons("echo \"orchestrator.max_sesions: there is no such setting\" >&2\nexit 78");
    let done = tree.run(&["up"]);
    assert_eq!(done.status.code(), Some(1));
    let said = text(&done.stderr);
    assert!(
        said.contains("orchestrator exited with 78: the config is wrong"),
        "{said}"
    );
    assert!(said.contains("max_sesions"), "{said}");
    assert!(text(&done.stdout).contains("FAILED"));
    let log = tree.path().join("state/logs/orchestrator.err.log");
    assert_eq!(fs::metadata(log).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_daemon_starts_in_a_session_of_its_own_with_its_tree() {
    let tree = Tree::new();
    tree.daemons("echo \"$(ps -o sid= -p $$) $$ $NEXUS_ROOT $*\" >&2; exit 70");
    let done = tree.run(&["up", "--json"]);
    let value: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(value["ready"], false);
    // Nobody waits for the assistant once the orchestrator is gone: it may not have said anything yet.
    let log = tree.path().join("state/logs/agent-assistant.err.log");
    let begin = Instant::now();
    let said = loop {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if let Some((line, _)) = said.split_once('\n') {
            let line: Value = serde_json::from_str(line).unwrap();
            break line["message"].as_str().unwrap().to_owned();
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "it says nothing: {value}");
        thread::sleep(Duration::from_millis(5));
    };
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[0], words[1], "its session is its own: {said}");
    assert_eq!(words[2], tree.path().to_str().unwrap());
    assert_eq!(&words[3..5], ["--role", "assistant"]);
}

#[test]
fn missing_programs_are_named() {
    let tree = Tree::new();
    let done = tree.run(&["up"]);
    assert_eq!(done.status.code(), Some(1));
    let said = text(&done.stderr);
    assert!(
        said.contains("nexus-orchestrator, nexus-llm, nexus-agent, nexus-gateway"),
        "{said}"
    );
    assert!(said.contains("NEXUS_BIN_DIR"));
}

#[test]
fn something_in_the_way_is_refused_before_anything_starts() {
    let tree = Tree::new();
    tree.daemons("echo started >&2; exit 70");
    fs::write(tree.socket(), "precious").unwrap();
    let done = tree.run(&["up"]);
    assert_eq!(done.status.code(), Some(5));
    assert!(text(&done.stderr).contains("is not a socket"));
    assert_eq!(fs::read_to_string(tree.socket()).unwrap(), "precious");
    assert!(!tree.path().join("state/logs/llm.err.log").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn the_daemon_of_another_tree_is_named_and_left_alone() {
    let (tree, other) = (Tree::new(), Tree::new());
    tree.daemons("exit 70");
    let db = other.path().join("state/db");
    fs::create_dir_all(&db).unwrap();
    // This test is the other tree's daemon: it has data open there, and listens.
    let _open = fs::File::create(db.join("orchestrator.db")).unwrap();
    let _listener = UnixListener::bind(tree.socket()).unwrap();
    let done = tree.run(&["up"]);
    assert_eq!(done.status.code(), Some(5));
    let said = text(&done.stderr);
    assert!(
        said.contains("another NEXUS_ROOT") && said.contains(&std::process::id().to_string()),
        "{said}"
    );
    assert!(said.contains("GRPC_SOCKET_PATH"));
    let done = tree.run(&["down"]);
    assert_eq!(done.status.code(), Some(0));
    assert!(
        text(&done.stderr).contains("another NEXUS_ROOT"),
        "{}",
        text(&done.stderr)
    );
}

#[test]
fn down_with_everything_down_is_fine() {
    let tree = Tree::new();
    let done = tree.run(&["down"]);
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(text(&done.stdout), "nothing was running\n");
}

/// The socket that [`plays_a_daemon`] is to listen on, and whether SIGTERM stops it.
const PLAY: &str = "NEXUS_TEST_PLAY";
const OBEYS: &str = "NEXUS_TEST_OBEYS";

/// Not a test of its own: the part of a daemon, played by this program in a process of its own.
#[tokio::test(flavor = "current_thread")]
async fn plays_a_daemon() {
    let Some(socket) = env::var_os(PLAY) else { return };
    let _listener = UnixListener::bind(&socket).unwrap();
    let mut asked = signal(SignalKind::terminate()).unwrap();
    println!("daemon is up");
    asked.recv().await;
    if env::var_os(OBEYS).is_some() {
        fs::remove_file(socket).unwrap();
        std::process::exit(0);
    }
    std::future::pending::<()>().await;
}

/// A process that listens as this service, under this program name.
fn play(tree: &Tree, service: &str, program: &str, obeys: bool) -> Child {
    let program = tree.path().join(program);
    symlink(env::current_exe().unwrap(), &program).unwrap();
    let socket = tree.path().join("state/run").join(format!("{service}.sock"));
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let mut command = Command::new(program);
    command
        .args(["--exact", "updown::plays_a_daemon", "--nocapture"])
        .env(PLAY, socket)
        .stdout(Stdio::piped());
    if obeys {
        command.env(OBEYS, "1");
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("daemon is up")));
    child
}

#[test]
fn down_stops_in_good_order_and_kills_what_does_not() {
    let tree = Tree::new();
    let mut good = play(&tree, "gateway", "nexus-gateway", true);
    let mut bad = play(&tree, "llm", "nexus-llm", false);
    let done = tree.run(&["down", "--timeout", "300ms", "--json"]);
    let value: Value = serde_json::from_slice(&done.stdout).unwrap();
    let (good_end, bad_end) = (good.wait().unwrap(), bad.wait().unwrap());
    let state = |name: &str| {
        let lines = value["services"].as_array().unwrap();
        lines.iter().find(|line| line["service"] == name).unwrap()["state"].clone()
    };
    assert_eq!(state("gateway"), "stopped", "{value}");
    assert_eq!(state("llm"), "killed", "{value}");
    assert_eq!(state("orchestrator"), "not_running");
    assert!(good_end.success());
    assert_eq!(bad_end.signal(), Some(9));
    assert!(
        text(&done.stderr).contains("did not stop within 300ms; killing it"),
        "{}",
        text(&done.stderr)
    );
}

#[test]
fn down_never_signals_a_program_that_is_no_daemon() {
    let tree = Tree::new();
    let mut stranger = play(&tree, "llm", "stranger", true);
    let done = tree.run(&["down"]);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        text(&done.stderr).contains("its socket is held by stranger"),
        "{}",
        text(&done.stderr)
    );
    assert!(stranger.try_wait().unwrap().is_none(), "it was signalled");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
