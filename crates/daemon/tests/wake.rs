//! Daemons on a clock whose hands the test moves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "frame/probe.rs"]
mod probe;

use std::sync::Arc;
use std::time::Duration;

use nexus_config::Root;
use nexus_daemon::wake::{HandClock, Kind, Signal};
use nexus_daemon::{Running, start_by};
use probe::Probe;
use tokio::sync::{Notify, broadcast};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

async fn started(clock: &HandClock) -> (tempfile::TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(clock.clone());
    let running = start_by::<Probe>(Root::at(dir.path()), &[], Some(clock)).await.unwrap();
    (dir, running)
}

async fn next(signals: &mut broadcast::Receiver<Signal>) -> Signal {
    timeout(SOON, signals.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_daemon_recovers_once_for_each_wake_and_says_so() {
    let clock = HandClock::default();
    let (_dir, running) = started(&clock).await;
    let wake = running.wake().clone();
    let (go, mut signals) = (Arc::new(Notify::new()), wake.signals());
    wake.on_wake("connections", {
        let go = go.clone();
        move |_| go.clone().notified_owned()
    });
    wake.on_wake("quick", |_| std::future::ready(()));
    assert_eq!(wake.last(), None);
    for (move_hands, kind, words) in [
        (
            HandClock::sleep as fn(&HandClock, Duration),
            Kind::Slept,
            "the host slept 1h",
        ),
        (HandClock::freeze, Kind::Frozen, "this process was frozen for "),
        (HandClock::set_forward, Kind::ClockSet, "the wall clock was set by 1h"),
    ] {
        move_hands(&clock, HOUR);
        let Signal::Woke(woke) = next(&mut signals).await else {
            panic!("first it wakes")
        };
        assert_eq!(woke.kind, kind);
        let [(part, why)] = &running.health().degraded()[..] else {
            panic!("it recovers")
        };
        assert_eq!(part, "wake");
        assert!(why.starts_with("recovering: ") && why.contains(words), "{why}");
        go.notify_one();
        let Signal::Recovered(recovered) = next(&mut signals).await else {
            panic!("then it has recovered")
        };
        assert_eq!((recovered.woke, recovered.missing.len()), (woke, 0));
        assert!(recovered.to_string().contains(words), "{recovered}");
        assert!(running.health().degraded().is_empty());
        assert_eq!(wake.last(), Some(recovered));
    }
    running.stop().await;
}

#[tokio::test]
async fn a_wake_in_a_recovery_starts_it_over_and_who_looks_first_hears_of_it() {
    let clock = HandClock::default();
    let (_dir, running) = started(&clock).await;
    let wake = running.wake().clone();
    let mut signals = wake.signals();
    let (heard, go) = (Arc::new(std::sync::Mutex::new(Vec::new())), Arc::new(Notify::new()));
    wake.on_wake("counts", {
        let (heard, go) = (heard.clone(), go.clone());
        move |woke| {
            heard.lock().unwrap().push(woke.away);
            go.clone().notified_owned()
        }
    });
    clock.sleep(HOUR);
    // Whoever looks at a deadline first finds the wake, and every part has begun by then; the task finds nothing new.
    assert_eq!(wake.look().unwrap().away, HOUR);
    assert_eq!(*heard.lock().unwrap(), [HOUR]);
    assert!(matches!(next(&mut signals).await, Signal::Woke(_)));
    clock.sleep(2 * HOUR);
    assert!(matches!(next(&mut signals).await, Signal::Woke(_)));
    assert_eq!(*heard.lock().unwrap(), [HOUR, 2 * HOUR]);
    go.notify_waiters();
    go.notify_one();
    let Signal::Recovered(recovered) = next(&mut signals).await else {
        panic!("one recovery, of the later wake")
    };
    assert_eq!(recovered.woke.away, 2 * HOUR);
    running.stop().await;
}

#[tokio::test]
async fn what_was_short_is_passed_over() {
    let clock = HandClock::default();
    let (_dir, running) = started(&clock).await;
    for _ in 0..10 {
        clock.sleep(Duration::from_secs(9));
        assert_eq!(running.wake().look(), None);
    }
    running.stop().await;
}

#[tokio::test]
async fn before_a_sleep_every_part_flushes() {
    let clock = HandClock::default();
    let (_dir, running) = started(&clock).await;
    let wake = running.wake().clone();
    let (flushed, mut signals) = (Arc::new(Notify::new()), wake.signals());
    wake.before_sleep("store", {
        let flushed = flushed.clone();
        move || {
            flushed.notify_one();
            std::future::ready(())
        }
    });
    timeout(SOON, wake.sleeping()).await.unwrap();
    timeout(SOON, flushed.notified()).await.unwrap();
    assert_eq!(next(&mut signals).await, Signal::Sleeping);
    running.stop().await;
}
