//! From the making to the removal.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nexus_runtime::{Error, EventKind, ExecSpec, State};

use super::Bench;

pub async fn it_lives_and_ends(bench: &Bench) {
    let engine = &bench.engine;
    let id = engine.create(&bench.shell("echo here; exit 3")).await.unwrap();
    let made = engine.inspect(&id).await.unwrap();
    assert_eq!((made.state, made.exit), (State::Created, None));
    assert!(made.name.starts_with("nexus-test-"), "{made:?}");
    engine.start(&id).await.unwrap();
    let exit = engine.wait(&id).await.unwrap();
    assert_eq!((exit.code, exit.oom), (3, false));
    let ended = engine.inspect(&id).await.unwrap();
    assert_eq!(ended.state, State::Exited);
    assert_eq!(ended.exit.unwrap().code, 3);
    assert!(
        ended.created <= ended.started && ended.started <= ended.exited,
        "{ended:?}"
    );
    assert!(ended.started.is_some(), "{ended:?}");
    assert_eq!(ended.labels["nexus.test"], "it_lives_and_ends");
    engine.remove(&id, false).await.unwrap();
    assert!(matches!(engine.inspect(&id).await, Err(Error::NotFound(_))));
}

pub async fn it_runs_again(bench: &Bench) {
    let id = bench.start(&bench.shell("echo again; exit 4")).await;
    assert_eq!(bench.engine.wait(&id).await.unwrap().code, 4);
    bench.engine.start(&id).await.unwrap();
    assert_eq!(bench.engine.wait(&id).await.unwrap().code, 4);
    let (out, _) = super::output::read(bench, &id, Default::default()).await;
    assert_eq!(out, "again\nagain\n");
    bench.engine.remove(&id, false).await.unwrap();
}

pub async fn a_stop_waits_and_then_kills(bench: &Bench) {
    let id = bench
        .start(&bench.shell("trap '' TERM; echo deaf; while :; do sleep 0.1; done"))
        .await;
    super::output::wait_for(bench, &id, "deaf").await;
    let begun = Instant::now();
    bench.engine.stop(&id, Duration::from_secs(1)).await.unwrap();
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "it was not given its time"
    );
    let ended = bench.engine.inspect(&id).await.unwrap();
    assert_eq!((ended.state, ended.exit.unwrap().code), (State::Exited, 137));
    // Stopping what is stopped is no error.
    bench.engine.stop(&id, Duration::from_secs(1)).await.unwrap();
    bench.engine.remove(&id, false).await.unwrap();
}

pub async fn a_stop_lets_it_end_by_itself(bench: &Bench) {
    let script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let id = bench.start(&bench.shell(script)).await;
    super::output::wait_for(bench, &id, "ready").await;
    bench.engine.stop(&id, Duration::from_secs(30)).await.unwrap();
    assert_eq!(bench.engine.wait(&id).await.unwrap().code, 5);
    let (out, _) = super::output::read(bench, &id, Default::default()).await;
    assert_eq!(out, "ready\nbye\n");
    bench.engine.remove(&id, false).await.unwrap();
}

/// However short its time is, it has ended when the stop returns.
pub async fn a_stop_is_over_when_it_returns(bench: &Bench) {
    let tries = if bench.engine.name() == "sandbox" { 30 } else { 2 };
    let id = bench.engine.create(&bench.shell("sleep 600 & wait")).await.unwrap();
    for _ in 0..tries {
        bench.engine.start(&id).await.unwrap();
        bench.engine.stop(&id, Duration::from_nanos(1)).await.unwrap();
        assert_eq!(bench.engine.inspect(&id).await.unwrap().state, State::Exited);
    }
    bench.engine.remove(&id, false).await.unwrap();
}

pub async fn a_signal_reaches_it(bench: &Bench) {
    let script = "trap 'exit 6' USR1; echo ready; while :; do sleep 0.05; done";
    let id = bench.start(&bench.shell(script)).await;
    super::output::wait_for(bench, &id, "ready").await;
    bench.engine.kill(&id, 10).await.unwrap();
    assert_eq!(bench.engine.wait(&id).await.unwrap().code, 6);
    assert!(matches!(bench.engine.kill(&id, 10).await, Err(Error::State { .. })));
    bench.engine.start(&id).await.unwrap();
    bench.engine.kill(&id, 9).await.unwrap();
    assert_eq!(bench.engine.wait(&id).await.unwrap().code, 137);
    bench.engine.remove(&id, false).await.unwrap();
}

pub async fn what_runs_is_removed_only_by_force(bench: &Bench) {
    let id = bench.start(&bench.shell("sleep 600")).await;
    let refused = bench.engine.remove(&id, false).await;
    assert!(matches!(refused, Err(Error::State { .. })), "{refused:?}");
    let twice = bench.engine.create(&bench.shell("sleep 600")).await;
    assert!(matches!(twice, Err(Error::Exists(_))), "{twice:?}");
    bench.engine.remove(&id, true).await.unwrap();
    // With force what is gone is no error, without it is.
    bench.engine.remove(&id, true).await.unwrap();
    assert!(matches!(bench.engine.remove(&id, false).await, Err(Error::NotFound(_))));
}

pub async fn a_command_that_is_not_there_is_told(bench: &Bench) {
    let mut spec = bench.shell("");
    spec.entrypoint = vec!["/no/such/program".into()];
    spec.args.clear();
    let id = bench.engine.create(&spec).await;
    let refused = match &id {
        Ok(id) => bench.engine.start(id).await,
        Err(error) => Err(error.clone()),
    };
    assert!(
        matches!(&refused, Err(Error::Invalid(why)) if why.contains("/no/such/program")),
        "{refused:?}"
    );
    if let Ok(id) = id {
        bench.engine.remove(&id, true).await.unwrap();
    }
}

pub async fn it_is_listed_by_label(bench: &Bench) {
    let mut spec = bench.shell("exit 0");
    spec.labels.insert("of".into(), "one".into());
    let one = bench.engine.create(&spec).await.unwrap();
    spec.name = format!("{}-2", spec.name);
    spec.labels.insert("of".into(), "two".into());
    let two = bench.start(&spec).await;
    let by = |of: &str| {
        [
            ("nexus.test".to_owned(), bench.case.to_owned()),
            ("of".to_owned(), of.to_owned()),
        ]
        .into()
    };
    let listed = bench.engine.list(&by("one")).await.unwrap();
    assert_eq!(listed.iter().map(|info| &info.id).collect::<Vec<_>>(), [&one]);
    assert!(bench.engine.list(&by("three")).await.unwrap().is_empty());
    let both = bench
        .engine
        .list(&[("nexus.test".to_owned(), bench.case.to_owned())].into())
        .await
        .unwrap();
    assert_eq!(both.len(), 2);
    for id in [one, two] {
        bench.engine.remove(&id, true).await.unwrap();
    }
}

pub async fn what_happens_is_told(bench: &Bench) {
    let mut events = bench.engine.events().await.unwrap();
    // The stream is open before anything happens: what is asked for is at the engine once another call was answered.
    bench.engine.probe().await.unwrap();
    let engine = bench.engine.clone();
    let spec = bench.shell("exit 7");
    let deeds = tokio::spawn(async move {
        let id = engine.create(&spec).await.unwrap();
        engine.start(&id).await.unwrap();
        engine.wait(&id).await.unwrap();
        engine.remove(&id, false).await.unwrap();
        id
    });
    let mut seen = Vec::new();
    while !matches!(seen.last(), Some(EventKind::Removed)) {
        let event = events.next().await.expect("the engine is there").unwrap();
        if event.labels.get("nexus.test").is_some_and(|case| case == bench.case) {
            seen.push(event.kind);
        }
    }
    deeds.await.unwrap();
    let wanted = [
        EventKind::Created,
        EventKind::Started,
        EventKind::Exited { code: 7 },
        EventKind::Removed,
    ];
    assert_eq!(seen, wanted);
}

pub async fn what_is_not_there_is_not_found(bench: &Bench) {
    let engine = &bench.engine;
    let none = "0123456789abcdef0123456789abcdef";
    assert!(matches!(engine.inspect(none).await, Err(Error::NotFound(_))));
    assert!(matches!(engine.start(none).await, Err(Error::NotFound(_))));
    assert!(matches!(
        engine.stop(none, Duration::from_secs(1)).await,
        Err(Error::NotFound(_))
    ));
    assert!(matches!(engine.stats(none).await, Err(Error::NotFound(_))));
    assert!(matches!(engine.wait(none).await, Err(Error::NotFound(_))));
    let command = ExecSpec {
        command: vec!["true".into()],
        ..ExecSpec::default()
    };
    assert!(matches!(engine.exec(none, command).await, Err(Error::NotFound(_))));
    assert!(
        engine
            .logs(none, Default::default())
            .await
            .is_err_and(|error| matches!(error, Error::NotFound(_)))
    );
}
