//! A secret that can be searched for, in every place where it must not be.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    time::{Duration, Instant},
};

use nexus_tests::{Daemon, PATIENCE};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};

use crate::kit::World;

const CANARY: &str = "sk-canary-7f3a9d21-0c55";

/// Whatever the system shows of a process and all its descendants.
fn shown(pid: i32, into: &mut Vec<(String, Vec<u8>)>) {
    for what in ["cmdline", "environ"] {
        let path = format!("/proc/{pid}/{what}");
        into.push((path.clone(), fs::read(&path).unwrap_or_default()));
    }
    for thread in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            shown(child.parse().unwrap(), into);
        }
    }
}

fn files(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, into);
        } else if path.is_file() {
            into.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
        }
    }
}

fn holds(bytes: &[u8]) -> bool {
    bytes.windows(9).any(|window| window == b"sk-canary")
}

async fn exists(path: &Path) {
    let begin = Instant::now();
    while !path.exists() {
        assert!(begin.elapsed() < PATIENCE, "never: {}", path.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_secret_is_only_where_it_was_put() {
    let mut world = World::new("rack = \"file:~/.secret\", ollama = \"command:/bin/cat\", lmstudio = \"op://a/b/c\"");
    let secret = world.folder().join(".secret");
    world.credential(&["add", "rack", "--storage", "file"], CANARY).ok();
    let kept = world.site.root().credential_dir().join("rack/default");
    fs::rename(&kept, &secret).unwrap();
    // It stays while we look at what it was given.
    let running = world.folder().join("running");
    world.shim("op", &format!("touch {}; exec sleep 30", running.display()));
    world.set("RUST_LOG", Some("trace"));
    world.set("ANTHROPIC_API_KEY", Some(CANARY));
    world.site.up(&[Daemon::Llm]).await;
    world.ask().await.unwrap();
    assert_eq!(world.provider.keys(), [CANARY]);
    exists(&running).await;
    let daemon = world.site.process(Daemon::Llm).pid();
    let mut seen = Vec::new();
    shown(daemon, &mut seen);
    let own = format!("/proc/{daemon}/environ");
    assert!(
        seen.len() >= 4,
        "op runs and was looked at: {:?}",
        seen.iter().map(|(path, _)| path).collect::<Vec<_>>()
    );
    // What its user put into its environment is there; nothing of it goes on to a child.
    seen.retain(|(path, _)| *path != own);
    files(&world.folder(), &mut seen);
    seen.retain(|(path, _)| Path::new(path) != secret);
    let where_it_is: Vec<&String> = seen
        .iter()
        .filter(|(_, bytes)| holds(bytes))
        .map(|(path, _)| path)
        .collect();
    assert!(where_it_is.is_empty(), "{where_it_is:?}");
    assert!(world.log().contains("key resolved"), "there is a log to search");
}

#[tokio::test]
async fn a_daemon_that_holds_secrets_leaves_no_core() {
    let mut world = World::new("");
    // The system would write one, were it not for us.
    let (_, most) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    setrlimit(Resource::RLIMIT_CORE, most, most).unwrap();
    world.credential(&["add", "rack", "--storage", "file"], CANARY).ok();
    world.site.up(&[Daemon::Llm]).await;
    world.ask().await.unwrap();
    let pid = world.site.process(Daemon::Llm).pid();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let numbers: Vec<&str> = core.split_whitespace().filter(|word| *word == "0").collect();
    assert_eq!(numbers.len(), 2, "{core}");
    // What is not dumpable belongs to root, whoever runs it, and so nobody else of that user attaches to it.
    let process = world.site.process(Daemon::Llm);
    process.signal(Signal::SIGABRT);
    let ended = process.end(PATIENCE).await.unwrap();
    assert!(!ended.core_dumped(), "{ended}");
    let mut seen = Vec::new();
    files(&world.folder(), &mut seen);
    let kept = world.site.root().credential_dir().join("rack/default");
    let held: Vec<&String> = seen
        .iter()
        .filter(|(path, bytes)| holds(bytes) && Path::new(path) != kept)
        .map(|(path, _)| path)
        .collect();
    assert!(held.is_empty(), "{held:?}");
}
