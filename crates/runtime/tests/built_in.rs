//! The built-in sandbox through the trait: what only it has. What every backend does alike is in the conformance suite.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use nexus_runtime::{
    Choice, Config, ContainerSpec, Engine, Error, EventKind, ExecSpec, HostUser, LogOptions, Mount, MountKind,
    NetworkMode, PullPolicy, Source, State, sandbox,
};

/// Beside the tests' own directory, built if it is not there.
fn helper() -> &'static Path {
    static HELPER: OnceLock<PathBuf> = OnceLock::new();
    HELPER.get_or_init(|| {
        let tests = std::env::current_exe().unwrap();
        let path = tests.parent().unwrap().parent().unwrap().join("nexus-sandbox");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "nexus-sandbox", "--target-dir"]);
        build.arg(path.parent().unwrap().parent().unwrap());
        if !path.exists() {
            assert!(build.status().unwrap().success());
        }
        path
    })
}

async fn open(dir: &Path) -> Arc<dyn Engine> {
    let config = Config {
        directory: dir.into(),
        helper: Some(helper().into()),
        ..Config::default()
    };
    sandbox::open(&config).await.unwrap()
}

fn shell(name: &str, script: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        entrypoint: vec!["/bin/sh".into(), "-c".into(), script.into()],
        labels: BTreeMap::from([("test".into(), name.into())]),
        ..ContainerSpec::default()
    }
}

async fn logs(engine: &dyn Engine, id: &str, options: LogOptions) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut chunks = engine.logs(id, options).await.unwrap();
    while let Some(chunk) = within(chunks.next()).await {
        let chunk = chunk.unwrap();
        match chunk.source {
            Source::Stdout => out.extend_from_slice(&chunk.bytes),
            Source::Stderr => err.extend_from_slice(&chunk.bytes),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn followed() -> LogOptions {
    LogOptions {
        follow: true,
        ..LogOptions::default()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("in a minute")
}

#[tokio::test]
async fn a_container_lives_and_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let mut events = engine.events().await.unwrap();
    let id = engine
        .create(&shell("life", "echo out; echo err >&2; exit 4"))
        .await
        .unwrap();
    assert_eq!(engine.inspect(&id).await.unwrap().state, State::Created);
    assert!(matches!(
        engine.create(&shell("life", "true")).await,
        Err(Error::Exists(_))
    ));
    engine.start(&id).await.unwrap();
    assert_eq!(within(engine.wait(&id)).await.unwrap().code, 4);
    assert_eq!(logs(&*engine, &id, followed()).await, ("out\n".into(), "err\n".into()));
    let info = engine.inspect(&id).await.unwrap();
    assert_eq!(
        (info.state, info.exit.unwrap().code, info.image.as_str()),
        (State::Exited, 4, "nexus/host")
    );
    assert!(info.created.unwrap() <= info.exited.unwrap());
    let mine = BTreeMap::from([("test".to_string(), "life".to_string())]);
    assert_eq!(engine.list(&mine).await.unwrap().len(), 1);
    let others = BTreeMap::from([("test".to_string(), "other".to_string())]);
    assert!(engine.list(&others).await.unwrap().is_empty());

    // Once more: a new process, and the log goes on.
    engine.start(&id).await.unwrap();
    assert_eq!(within(engine.wait(&id)).await.unwrap().code, 4);
    assert_eq!(logs(&*engine, &id, LogOptions::default()).await.0, "out\nout\n");

    engine.remove(&id, false).await.unwrap();
    assert!(matches!(engine.inspect(&id).await, Err(Error::NotFound(_))));
    engine.remove(&id, true).await.unwrap();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&EventKind::Removed) {
        kinds.push(within(events.next()).await.unwrap().unwrap().kind);
    }
    let ended = EventKind::Exited { code: 4 };
    let expected = [
        EventKind::Created,
        EventKind::Started,
        ended,
        EventKind::Started,
        ended,
        EventKind::Removed,
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn it_survives_its_daemon_and_is_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let data = tempfile::tempdir().unwrap();
    let mut spec = shell(
        "on",
        "echo up; until [ -e /data/end ]; do sleep 0.05; done; echo saw; exit 9",
    );
    let own = rustix::process::geteuid().as_raw();
    spec.owner = Some(HostUser {
        uid: own,
        gid: own,
        groups: Vec::new(),
    });
    spec.mounts = vec![Mount {
        kind: MountKind::Bind(data.path().canonicalize().unwrap()),
        target: "/data".into(),
        read_only: false,
    }];
    let on = engine.create(&spec).await.unwrap();
    engine.start(&on).await.unwrap();
    let mut limited = shell("over", "sleep 600");
    limited.limits.pids = 64;
    let over = engine.create(&limited).await.unwrap();
    engine.start(&over).await.unwrap();
    drop(engine);

    let engine = open(dir.path()).await;
    assert_eq!(engine.inspect(&on).await.unwrap().state, State::Running);
    assert_eq!(engine.inspect(&over).await.unwrap().state, State::Running);
    let mut events = engine.events().await.unwrap();
    fs::write(data.path().join("end"), "").unwrap();
    let event = within(events.next()).await.unwrap().unwrap();
    assert_eq!((event.id, event.kind), (on.clone(), EventKind::Exited { code: 9 }));
    assert_eq!(within(engine.wait(&on)).await.unwrap().code, 9);
    assert_eq!(logs(&*engine, &on, LogOptions::default()).await.0, "up\nsaw\n");

    // Its helper killed while nobody looks: known as killed, and nothing of it runs.
    let status = fs::read(dir.path().join("containers").join(&over).join("status.json")).unwrap();
    let started: nexus_sandbox::Started = serde_json::from_slice(&status).unwrap();
    let pid = rustix::process::Pid::from_raw(started.monitor.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(within(engine.wait(&over)).await.unwrap().code, 137);
    engine.remove(&over, false).await.unwrap();
    gone(&started).await;
}

/// Waits until its control groups are no more.
async fn gone(started: &nexus_sandbox::Started) {
    let any = || started.cgroups.values().any(|dir| Path::new(dir).exists());
    within(async {
        while any() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_bare_host_is_used_only_by_name_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        backend: Choice::HostUnsafe,
        directory: dir.path().into(),
        helper: Some(helper().into()),
        ..Config::default()
    };
    let engine = nexus_runtime::choose(&config).await.unwrap().engine;
    let probe = engine.probe().await.unwrap();
    assert_eq!(
        (engine.name(), probe.engine, probe.isolates),
        ("host-unsafe", "host-unsafe", false)
    );
    let any = Config {
        backend: Choice::Auto,
        ..config.clone()
    };
    let tried = nexus_runtime::try_each(&any, false).await;
    assert!(tried.iter().all(|(name, _)| *name != "host-unsafe"));

    // Numbers that nobody else sleeps for.
    let nap = format!("{}.5", 1_000_000 + std::process::id());
    let mut spec = shell("bare", &format!("(trap '' TERM; sleep {nap}) & echo up; sleep {nap}"));
    spec.limits.pids = 64;
    let id = engine.create(&spec).await.unwrap();
    let sleeps = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let wanted = format!("sleep\0{nap}\0");
        lines.filter(|line| *line == wanted.as_bytes()).count()
    };
    // Ended by a signal, and by the death of its helper.
    for by_helper in [false, true] {
        engine.start(&id).await.unwrap();
        within(async {
            while sleeps() != 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let status = fs::read(dir.path().join("host-unsafe").join(&id).join("status.json")).unwrap();
        let started: nexus_sandbox::Started = serde_json::from_slice(&status).unwrap();
        if by_helper {
            let pid = rustix::process::Pid::from_raw(started.monitor.pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        } else {
            engine.kill(&id, 9).await.unwrap();
        }
        assert_eq!(within(engine.wait(&id)).await.unwrap().code, 137);
        within(async {
            while sleeps() != 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        gone(&started).await;
    }
    engine.remove(&id, false).await.unwrap();
    let image = ContainerSpec {
        image: "tool:1".into(),
        ..shell("image", "true")
    };
    assert!(matches!(engine.create(&image).await, Err(Error::Unsupported { .. })));
    assert_eq!(engine.images().await.unwrap().len(), 1);
}

#[tokio::test]
async fn stop_asks_first_and_then_kills() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    for (name, script, timeout, code) in [
        (
            "polite",
            "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done",
            Duration::from_secs(30),
            5,
        ),
        (
            "deaf",
            "trap '' TERM; echo up; while :; do sleep 0.05; done",
            Duration::from_millis(300),
            137,
        ),
    ] {
        let id = engine.create(&shell(name, script)).await.unwrap();
        engine.start(&id).await.unwrap();
        let mut chunks = engine.logs(&id, followed()).await.unwrap();
        assert_eq!(&within(chunks.next()).await.unwrap().unwrap().bytes[..], b"up\n");
        within(engine.stop(&id, timeout)).await.unwrap();
        assert_eq!(within(engine.wait(&id)).await.unwrap().code, code, "{name}");
        within(engine.stop(&id, timeout)).await.unwrap();
        assert!(matches!(engine.kill(&id, 9).await, Err(Error::State { .. })));
        engine.remove(&id, false).await.unwrap();
    }
}

#[tokio::test]
async fn exec_and_stats_of_a_running_one() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let mut spec = shell("busy", "echo x > /tmp/mark; sleep 600");
    spec.limits.pids = 64;
    let id = engine.create(&spec).await.unwrap();
    assert!(matches!(engine.stats(&id).await, Err(Error::State { .. })));
    engine.start(&id).await.unwrap();
    let exec = |script: &str| ExecSpec {
        command: vec!["sh".into(), "-c".into(), script.into()],
        stdin: Some("given".into()),
        ..ExecSpec::default()
    };
    let script = "until [ -e /tmp/mark ]; do sleep 0.02; done; cat; cat /tmp/mark; echo e >&2; exit 6";
    let done = within(engine.exec(&id, exec(script))).await.unwrap();
    assert_eq!(
        (done.code, &done.stdout[..], &done.stderr[..]),
        (6, &b"givenx\n"[..], &b"e\n"[..])
    );

    let bounded = ExecSpec {
        max_output: 1000,
        ..exec("seq 100000")
    };
    let done = within(engine.exec(&id, bounded)).await.unwrap();
    assert_eq!((done.code, done.stdout.len(), done.truncated), (0, 1000, true));

    let slow = ExecSpec {
        timeout: Some(Duration::from_millis(300)),
        ..exec("sleep 600")
    };
    let done = within(engine.exec(&id, slow)).await.unwrap();
    assert!(done.timed_out);

    let stats = engine.stats(&id).await.unwrap();
    assert!(stats.pids >= 2 && stats.memory_bytes > 0, "{stats:?}");
    let missing = ExecSpec {
        command: vec!["no-such".into()],
        ..ExecSpec::default()
    };
    assert!(matches!(engine.exec(&id, missing).await, Err(Error::Invalid(_))));
    assert!(matches!(engine.remove(&id, false).await, Err(Error::State { .. })));
    within(engine.remove(&id, true)).await.unwrap();
}

#[tokio::test]
async fn the_newest_lines_of_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let id = engine.create(&shell("tail", "seq 50000")).await.unwrap();
    engine.start(&id).await.unwrap();
    within(engine.wait(&id)).await.unwrap();
    let all: String = (1..=50_000).map(|i| format!("{i}\n")).collect();
    assert!(logs(&*engine, &id, followed()).await.0 == all);
    let tail = LogOptions {
        tail: Some(3),
        ..LogOptions::default()
    };
    assert_eq!(logs(&*engine, &id, tail).await.0, "49998\n49999\n50000\n");
    let since = LogOptions {
        since: engine.inspect(&id).await.unwrap().exited,
        ..LogOptions::default()
    };
    assert_eq!(logs(&*engine, &id, since).await.0, "");
}

#[tokio::test]
async fn what_it_cannot_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let network = ContainerSpec {
        network: NetworkMode::Bridge,
        ..shell("net", "true")
    };
    assert!(matches!(engine.create(&network).await, Err(Error::Unsupported { .. })));
    let image = ContainerSpec {
        image: "nosuch:1".into(),
        ..shell("image", "true")
    };
    assert!(matches!(engine.create(&image).await, Err(Error::ImageNotFound { .. })));
    let never = engine.pull("nosuch:1", PullPolicy::Never, None, None).await;
    assert!(matches!(never, Err(Error::ImageNotFound { .. })));
    let id = engine
        .create(&ContainerSpec {
            entrypoint: vec!["/no/such".into()],
            ..shell("cmd", "")
        })
        .await
        .unwrap();
    assert!(matches!(engine.start(&id).await, Err(Error::Invalid(_))));
    assert_eq!(engine.inspect(&id).await.unwrap().state, State::Created);
    assert!(
        !engine
            .pull("nexus/host", PullPolicy::Always, None, None)
            .await
            .unwrap()
            .fetched
    );
    assert_eq!(engine.images().await.unwrap()[0].references, ["nexus/host"]);
}

/// A tar of a root with one program.
fn root_archive() -> Option<Vec<u8>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find_map(|path| fs::read(path).ok())?;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    add("bin/sh", 0o755, &busybox);
    add(
        "etc/passwd",
        0o644,
        b"root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\ntool:x:77:78::/:/bin/sh\n",
    );
    Some(tar.into_inner().unwrap())
}

#[tokio::test]
async fn an_imported_root_is_an_image() {
    let Some(archive) = root_archive() else {
        println!("skipped: busybox (static) is missing");
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "nothing may be skipped here: busybox-static"
        );
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path()).await;
    let file = dir.path().join("root.tar");
    fs::write(&file, archive).unwrap();
    let image = engine.import(&file, "tool:1").await.unwrap();
    assert_eq!(image.references, ["tool:1"]);
    let again = engine.pull("tool:1", PullPolicy::Missing, None, None).await.unwrap();
    assert_eq!((again.fetched, &again.image.id), (false, &image.id));
    // The attack: root inside by another name, where root is not allowed.
    for (user, expected) in [("0", true), ("+0", true), ("toor", true), ("tool", false)] {
        let mut spec = shell("denied", "true");
        (spec.image, spec.user, spec.deny_root) = ("tool:1".into(), user.into(), true);
        let made = engine.create(&spec).await;
        assert_eq!(matches!(made, Err(Error::Denied(_))), expected, "{user}: {made:?}");
        if let Ok(id) = made {
            engine.remove(&id, true).await.unwrap();
        }
    }
    for user in ["4294967295", "1:4294967295"] {
        let mut spec = shell("no-such-number", "true");
        (spec.image, spec.user) = ("tool:1".into(), user.into());
        assert!(matches!(engine.create(&spec).await, Err(Error::Invalid(_))), "{user}");
    }
    for (user, writable, script, expected) in [
        (
            "tool",
            false,
            "echo $(id -u) $(id -g); ls /; touch /x || echo no",
            "77 78\nbin\ndev\netc\nhome\nproc\nroot\nrun\ntmp\nvar\nworkspace\nno\n",
        ),
        (
            "0",
            true,
            "id -u; echo x > /etc/new && cat /etc/new; rm /bin/sh; ls /bin | wc -l",
            "0\nx\n0\n",
        ),
    ] {
        let mut spec = shell(&format!("by-{user}"), script);
        spec.image = "tool:1".into();
        spec.user = user.into();
        spec.writable_rootfs = writable;
        let id = engine.create(&spec).await.unwrap();
        engine.start(&id).await.unwrap();
        within(engine.wait(&id)).await.unwrap();
        assert_eq!(logs(&*engine, &id, LogOptions::default()).await.0, expected, "{user}");
        assert!(matches!(
            engine.remove_image("tool:1", false).await,
            Err(Error::State { .. })
        ));
        engine.remove(&id, false).await.unwrap();
    }
    engine.remove_image("tool:1", false).await.unwrap();
    assert_eq!(engine.images().await.unwrap().len(), 1);
    assert_eq!(
        fs::read_dir(dir.path().join("images")).unwrap().count(),
        1,
        "only the index is left"
    );
}
