//! What the tests of foreign clients share: programs of other languages run against the real daemons, with a deadline.
//! Never installs anything: that is `foreign/setup.sh`. A suite whose language is not there says so by name.

use std::{
    env,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nexus_tests::{Daemon, Site};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

/// Daemons in a fresh `~/nexus` whose home is the site's folder.
fn site() -> Site {
    let folder = tempfile::Builder::new()
        .prefix("nexus-")
        .tempdir()
        .expect("a temporary folder can be made");
    let (root, socket) = (folder.path().join("nexus"), folder.path().join("grpc.sock"));
    Site::at(Arc::new(folder), &root, &socket)
}

/// The orchestrator alone.
pub fn orchestrator() -> Site {
    let mut site = site();
    block_on(site.up(&[Daemon::Orchestrator]));
    site
}

/// These beside the orchestrator, once they are reached through it.
pub fn with(daemons: &[Daemon]) -> Site {
    let mut site = site();
    block_on(async {
        site.up(&[Daemon::Orchestrator]).await;
        site.up(daemons).await;
        for daemon in daemons {
            match daemon {
                Daemon::Agent => site.answers().await,
                Daemon::Llm | Daemon::Gateway => behind_the_front_door(&site, *daemon).await,
                // Nobody calls these through it.
                Daemon::Orchestrator | Daemon::Worker => {}
            }
        }
    });
    site
}

async fn behind_the_front_door(site: &Site, daemon: Daemon) {
    let service = daemon.service().to_owned();
    let connection = site.connect();
    let states = async {
        let watch = connection.health().watch(HealthCheckRequest { service }).await;
        let mut states = watch.expect("health can be watched").into_inner();
        while let Some(state) = states.message().await.expect("the watch goes on") {
            if state.status() == ServingStatus::Serving {
                return;
            }
        }
        panic!("the watch of {daemon} ended");
    };
    let seen = tokio::time::timeout(nexus_tests::PATIENCE, states).await;
    assert!(seen.is_ok(), "{daemon} does not serve behind the front door");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be built").block_on(future)
}

/// The directory of the whole workspace.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the workspace")
        .to_path_buf()
}

/// What `foreign/setup.sh` made.
pub fn made(path: &str) -> PathBuf {
    checkout().join("target/foreign").join(path)
}

/// True if all of these exist; otherwise the test is skipped by name, and over.
pub fn has(needs: &[(PathBuf, &str)]) -> bool {
    let missing = needs.iter().find(|(path, _)| !path.exists());
    if let Some((_, what)) = missing {
        // The test harness names a test's thread after it.
        let test = format!("foreign::{}", thread::current().name().unwrap_or_default());
        nexus_tests::skipped(&test, &format!("{what} is missing; run tests/foreign/setup.sh"));
    }
    missing.is_none()
}

/// A program of the system, where `PATH` has it; else a path that does not exist.
pub fn which(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .map(|place| place.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| Path::new("/nowhere").join(name))
}

/// Runs a foreign program, and gives what it printed. Its failure or its deadline is the test's.
pub fn run(command: &mut Command, deadline: Duration) -> String {
    let shown = format!("{command:?}");
    // A group of its own, so that what it started ends with it.
    let child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|e| panic!("failed to run {shown}: {e}"));
    let text = Arc::new(Mutex::new(String::new()));
    let readers = [
        gather(child.stdout.take().expect("it is piped"), text.clone()),
        gather(child.stderr.take().expect("it is piped"), text.clone()),
    ];
    let status = waited(&mut child, deadline);
    if status.is_some() {
        // All it said; one that was killed may have left children who hold the pipe.
        for reader in readers {
            reader.join().expect("a reader does not panic");
        }
    }
    let text = text.lock().expect("a reader does not panic").clone();
    match status {
        Some(status) if status.success() => text,
        Some(status) => panic!("{shown}: {status}\n{text}"),
        None => panic!("{shown}: still running after {deadline:?}\n{text}"),
    }
}

fn gather(mut from: impl Read + Send + 'static, text: Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            let piece = String::from_utf8_lossy(&piece[..n]);
            text.lock().expect("a reader does not panic").push_str(&piece);
        }
    })
}

fn waited(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + deadline;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().expect("it is our own child") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let group = Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"));
    killpg(group, Signal::SIGKILL).expect("it is our own group");
    child.wait().expect("it is our own child");
    None
}
