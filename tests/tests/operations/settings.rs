//! Settings that are changed while daemons run with them.

use std::time::Instant;

use nexus_tests::{Daemon, PATIENCE, Site};
use serde_json::Value;

use crate::{ends, read};

#[tokio::test]
async fn a_live_setting_reaches_the_daemon_and_another_says_what_to_do() {
    let mut site = Site::new().settings("# ours\n[llm]\n# how often\n#max_retries = 2\n");
    site.up(&[Daemon::Orchestrator, Daemon::Llm]).await;
    let file = site.root().config_file();
    let pid = site.process(Daemon::Llm).pid();

    let (out, said) = ends(&site, &["config", "set", "llm.max_retries", "1"], 0).await;
    assert!(
        out.contains("llm.max_retries = 1") && out.contains("config.toml:5"),
        "{out}"
    );
    assert!(
        said.contains(&format!("llm (pid {pid}) was told and applies it now")),
        "{said}"
    );
    assert_eq!(
        read(&file),
        "# ours\n[llm]\n# how often\n#max_retries = 2\nmax_retries = 1\n"
    );
    let log = site.root().log_dir().join("llm.log");
    let until = Instant::now() + PATIENCE;
    while !read(&log).contains("settings read again") {
        assert!(Instant::now() < until, "the daemon was not told:\n{}", read(&log));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(read(&log).contains("llm.max_retries"));

    let (_, said) = ends(&site, &["config", "set", "max_agents", "77"], 0).await;
    assert!(
        said.contains("orchestrator") && said.contains("needs a restart"),
        "{said}"
    );
    ends(&site, &["config", "unset", "orchestrator.max_agents"], 0).await;
    for daemon in [Daemon::Llm, Daemon::Orchestrator] {
        site.stopped(daemon).await;
    }
}

#[tokio::test]
async fn what_a_daemon_would_refuse_is_never_written() {
    let site = Site::new().settings("[orchestrator]\nmax_sessions = 5\n");
    let file = site.root().config_file();
    let before = read(&file);
    let (_, said) = ends(&site, &["config", "set", "orchestrator.max_sessions", "0"], 78).await;
    assert!(
        said.contains("must be from 1 to") && said.contains("nexus config explain"),
        "{said}"
    );
    // A rule between two settings, which only the daemon itself knows.
    let (_, said) = ends(&site, &["config", "set", "orchestrator.tls_cert", "/c.pem"], 78).await;
    assert!(said.contains("tls_key"), "{said}");
    let (_, said) = ends(&site, &["config", "set", "orchestrator.max_sesions", "7"], 4).await;
    assert!(said.contains("did you mean orchestrator.max_sessions"), "{said}");
    assert_eq!(read(&file), before);
    assert_eq!(
        std::fs::read_dir(file.parent().unwrap()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[tokio::test]
async fn every_value_says_where_it_came_from() {
    let site = Site::new().settings("[llm]\nmax_retries = 1\n");
    let (out, _) = ends(&site, &["config", "explain", "llm.max_retries", "--json"], 0).await;
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["value"], 1);
    assert_eq!(said["origin"]["from"], "file");
    assert_eq!(said["origin"]["at"]["line"], 2);
    assert_eq!(said["setting"]["default"], "5");
    let (out, _) = ends(&site, &["config", "list", "--changed"], 0).await;
    // The socket of this test is set in its environment.
    assert!(
        out.contains("common.orchestrator") && out.contains("environment GRPC_SOCKET_PATH"),
        "{out}"
    );
    assert!(
        out.contains("llm.max_retries") && !out.contains("llm.max_waiting_requests"),
        "{out}"
    );
    let (out, _) = ends(&site, &["config", "get", "gateway.answer_timeout"], 0).await;
    assert_eq!(out, "1h\n");
    ends(&site, &["config", "check"], 0).await;
    let wrong = Site::new().settings("[llm]\nmax_retrys = 1\n");
    let (out, _) = ends(&wrong, &["config", "check"], 78).await;
    assert!(out.contains("did you mean \"max_retries\""), "{out}");
}
