//! What it writes, what else runs in it, what it uses.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use nexus_runtime::{Engine, Error, ExecSpec, LogOptions, Source};

use super::Bench;

pub async fn read(bench: &Bench, id: &str, options: LogOptions) -> (String, String) {
    written(&*bench.engine, id, options).await
}

/// What a container wrote on stdout and on stderr.
pub async fn written(engine: &dyn Engine, id: &str, options: LogOptions) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut chunks = engine.logs(id, options).await.unwrap();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.unwrap();
        match chunk.source {
            Source::Stdout => out.extend_from_slice(&chunk.bytes),
            Source::Stderr => err.extend_from_slice(&chunk.bytes),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Waits until it has written this.
pub async fn wait_for(bench: &Bench, id: &str, words: &str) {
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut chunks = bench.engine.logs(id, options).await.unwrap();
    let mut seen = String::new();
    while !seen.contains(words) {
        let chunk = chunks.next().await.expect("it ended without a word").unwrap();
        seen.push_str(&String::from_utf8_lossy(&chunk.bytes));
    }
}

pub async fn stdout_and_stderr_are_kept_apart(bench: &Bench) {
    let id = bench.start(&bench.shell("echo out; echo err >&2; printf end")).await;
    bench.engine.wait(&id).await.unwrap();
    assert_eq!(
        read(bench, &id, LogOptions::default()).await,
        ("out\nend".into(), "err\n".into())
    );
    bench.engine.remove(&id, true).await.unwrap();
}

pub async fn a_flood_is_complete(bench: &Bench) {
    let script = "seq 1 100000; seq 1 30000 >&2; echo last";
    let id = bench.start(&bench.shell(script)).await;
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    // Once as it comes, and once when it is over.
    for options in [options, LogOptions::default()] {
        let (out, err) = read(bench, &id, options).await;
        bench.engine.wait(&id).await.unwrap();
        let wanted: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
        assert!(out == wanted + "last\n", "{} bytes of stdout", out.len());
        assert!(
            err.lines().count() == 30_000 && err.ends_with("\n30000\n"),
            "{} bytes of stderr",
            err.len()
        );
    }
    bench.engine.remove(&id, true).await.unwrap();
}

pub async fn a_follower_sees_it_come(bench: &Bench) {
    let id = bench
        .start(&bench.shell("echo first; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo second"))
        .await;
    wait_for(bench, &id, "first").await;
    let go = ExecSpec {
        command: ["/bin/touch", "/tmp/go"].map(String::from).into(),
        ..ExecSpec::default()
    };
    assert_eq!(bench.engine.exec(&id, go).await.unwrap().code, 0);
    let options = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let (out, _) = read(bench, &id, options).await;
    assert_eq!(out, "first\nsecond\n");
    bench.engine.remove(&id, true).await.unwrap();
}

pub async fn the_newest_lines_alone(bench: &Bench) {
    let id = bench.start(&bench.shell("seq 1 100")).await;
    bench.engine.wait(&id).await.unwrap();
    let options = LogOptions {
        tail: Some(2),
        ..LogOptions::default()
    };
    assert_eq!(read(bench, &id, options).await.0, "99\n100\n");
    bench.engine.remove(&id, true).await.unwrap();
}

pub async fn one_more_command_runs_inside(bench: &Bench) {
    let id = bench.start(&bench.shell("echo mine > /tmp/mine; sleep 600")).await;
    let shell = |script: &str| ExecSpec {
        command: ["/bin/sh", "-c", script].map(String::from).into(),
        ..ExecSpec::default()
    };
    let mut with = shell("read line; echo \"got $line $X\"; echo oh >&2; id -u; exit 9");
    with.stdin = Some(Bytes::from_static(b"words\n"));
    with.env = [("X".to_owned(), "y".to_owned())].into();
    let done = bench.engine.exec(&id, with).await.unwrap();
    assert_eq!((done.code, done.timed_out, done.truncated), (9, false, false));
    assert_eq!(done.stdout, "got words y\n65534\n");
    assert_eq!(done.stderr, "oh\n");
    let done = bench
        .engine
        .exec(
            &id,
            shell("while [ ! -e /tmp/mine ]; do sleep 0.02; done; cat /tmp/mine"),
        )
        .await
        .unwrap();
    assert_eq!(done.stdout, "mine\n", "it is another place: {done:?}");

    let mut much = shell("seq 1 100000; echo done >&2");
    much.max_output = 1000;
    let done = bench.engine.exec(&id, much).await.unwrap();
    assert!(
        done.truncated && done.stdout.len() + done.stderr.len() == 1000 && done.code == 0,
        "{done:?}"
    );

    let mut long = shell("sleep 600");
    long.timeout = Some(Duration::from_millis(300));
    assert!(bench.engine.exec(&id, long).await.unwrap().timed_out);

    let none = ExecSpec {
        command: vec!["/no/such/program".into()],
        ..ExecSpec::default()
    };
    let told = bench.engine.exec(&id, none).await;
    // Docker says so as a shell does.
    let fine =
        matches!(&told, Err(Error::Invalid(_))) || matches!(&told, Ok(done) if done.code == 126 || done.code == 127);
    assert!(fine, "{told:?}");
    bench.engine.kill(&id, 9).await.unwrap();
    bench.engine.wait(&id).await.unwrap();
    let over = bench.engine.exec(&id, shell("true")).await;
    assert!(matches!(over, Err(Error::State { .. })), "{over:?}");
    bench.engine.remove(&id, true).await.unwrap();
}

/// The attack: a command that leaves a process behind which holds its output, and one that would outlive its time.
pub async fn one_more_command_ends_with_all_of_it(bench: &Bench) {
    let id = bench.start(&bench.shell("sleep 600")).await;
    let shell = |script: &str| ExecSpec {
        command: ["/bin/sh", "-c", script].map(String::from).into(),
        ..ExecSpec::default()
    };
    let begun = std::time::Instant::now();
    let done = bench.engine.exec(&id, shell("sleep 301 & echo out")).await.unwrap();
    assert_eq!((done.code, &*done.stdout), (0, &b"out\n"[..]));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it waited for what was left behind"
    );

    let mut long = shell("sleep 302 & setsid sleep 302 & (sleep 302 & exec sleep 302) & sleep 302");
    long.timeout = Some(Duration::from_millis(500));
    let begun = std::time::Instant::now();
    let done = bench.engine.exec(&id, long).await.unwrap();
    assert!(done.timed_out, "{done:?}");
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    let left = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep '^sleep 30' ; done; true";
    let left = bench.engine.exec(&id, shell(left)).await.unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert_eq!(left.trim(), "sleep 301", "what ran on");
    bench.engine.remove(&id, true).await.unwrap();
}

pub async fn what_it_uses_is_known(bench: &Bench) {
    let mut spec =
        bench.shell("x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ready; i=0; while :; do i=$((i+1)); done");
    spec.limits.memory_bytes = 256 << 20;
    let id = bench.start(&spec).await;
    wait_for(bench, &id, "ready").await;
    let first = bench.engine.stats(&id).await;
    if let Err(Error::Unsupported { what, .. }) = &first {
        println!("    {what}");
        assert!(
            bench.probe.rootless && bench.probe.unenforced.len() == 3,
            "{:?}",
            bench.probe
        );
        bench.engine.remove(&id, true).await.unwrap();
        return;
    }
    let mut used = first.unwrap();
    while used.cpu.is_zero() || used.memory_bytes < 10_000_000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        used = bench.engine.stats(&id).await.unwrap();
    }
    if !bench.probe.unenforced.contains(&nexus_runtime::Limit::Memory) {
        assert_eq!(used.memory_limit, 256 << 20);
    }
    bench.engine.kill(&id, 9).await.unwrap();
    bench.engine.wait(&id).await.unwrap();
    let over = bench.engine.stats(&id).await;
    assert!(matches!(over, Err(Error::State { .. })), "{over:?}");
    bench.engine.remove(&id, true).await.unwrap();
}
