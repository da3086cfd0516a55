//! SIGSTOP for longer than the threshold: each alone, then all at once.

use std::time::{Duration, Instant};

use nexus_tests::{Daemon, Site};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::kit::{QUICK, Question, event, length, log_of, logged, report};

/// The freeze itself: this long, not until something happens.
const FROZEN: Duration = Duration::from_millis(2500);

async fn freeze(site: &mut Site, daemons: &[Daemon]) {
    let connection = site.connect();
    let question = Question::ask(&connection, "are you there?").await;
    let marks: Vec<_> = daemons
        .iter()
        .map(|daemon| {
            let log = log_of(site, *daemon);
            site.process(*daemon).signal(Signal::SIGSTOP);
            (log.clone(), length(&log))
        })
        .collect();
    sleep(FROZEN).await;
    let thawed = Instant::now();
    for daemon in daemons {
        site.process(*daemon).signal(Signal::SIGCONT);
    }
    for (daemon, (log, mark)) in daemons.iter().zip(&marks) {
        logged(log, *mark, "recovered: this process was frozen").await;
        report(&format!(
            "{daemon} frozen with {} others: back {:?} after",
            daemons.len() - 1,
            thawed.elapsed()
        ));
    }
    question.answered(&connection).await;
    report(&format!(
        "the question asked before was answered {:?} after",
        thawed.elapsed()
    ));
    site.answers().await;
}

#[tokio::test]
async fn a_frozen_daemon_says_so_and_the_conversation_goes_on() {
    let mut site = Site::new().settings(QUICK);
    site.up(&Daemon::ALL).await;
    site.answers().await;
    for daemon in Daemon::ALL {
        freeze(&mut site, &[daemon]).await;
    }
    freeze(&mut site, &Daemon::ALL).await;

    let wake = event(&site.connect(), "system.wake").await;
    assert_eq!(wake.data["kind"], "frozen");
    let slept: u64 = wake.data["slept_ms"].parse().expect("a number");
    assert!((1000..60_000).contains(&slept), "{wake:?}");
    assert!(wake.data["recovered_ms"].parse::<u64>().is_ok(), "{wake:?}");
    let made = through_the_gateway(&site).await;
    assert!(!made.is_empty());
    for daemon in Daemon::ALL {
        site.stopped(daemon).await;
    }
}

/// The gateway still reaches the orchestrator.
async fn through_the_gateway(site: &Site) -> String {
    let connection = site.dial(Daemon::Gateway).connection();
    let request = nexus_proto::gateway::v1::CreateGatewaySessionRequest::default();
    let made = connection.gateway().create_gateway_session(request).await;
    made.expect("a session can be made").into_inner().session_id
}
