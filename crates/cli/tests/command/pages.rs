//! `docs/AGENTS.md` and `docs/TOOLS.md`: every line of their blocks is run, as one reads it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use nexus_proto::orchestrator::v1::{Approval, ApprovalState, Grant, GrantKind, Run};
use sha2::{Digest, Sha256};

use crate::{
    fake::{Script, start_with, text},
    fake_agents::Agents,
};

fn page(name: &str) -> String {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    fs::read_to_string(checkout.join("docs").join(name)).unwrap()
}

/// The lines of all blocks. There is no block that is not of `sh`.
fn lines(page: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some("sh") if !inside => inside = true,
            Some("") if inside => inside = false,
            Some(other) => panic!("a block that no test runs: {other:?}"),
            None if inside => found.push(line),
            None => {}
        }
    }
    found
}

/// What the pages speak of.
fn known() -> Agents {
    let plan_json = r#"{"arguments":{"command":"git push"}}"#.to_owned();
    Agents {
        approvals: vec![Approval {
            id: "ab12".repeat(8),
            tool: "exec".into(),
            digest: hex::encode(Sha256::digest(plan_json.as_bytes())),
            plan_json,
            state: ApprovalState::Pending.into(),
            offers: vec![Grant {
                kind: GrantKind::Prefix.into(),
                ..Grant::default()
            }],
            ..Approval::default()
        }],
        grants: vec![Grant {
            id: "g1".into(),
            ..Grant::default()
        }],
        runs: vec![Run {
            id: "r1".into(),
            ..Run::default()
        }],
        ..Agents::default()
    }
}

async fn works(name: &str, least: usize) {
    let fake = start_with(Script {
        whole: true,
        agents: known(),
        ..Script::default()
    })
    .await;
    let page = page(name);
    let lines = lines(&page);
    assert!(lines.len() >= least, "{name} has only {} lines", lines.len());
    let place = tempfile::tempdir().unwrap();
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_nexus"));
    let path = format!("{}:{}", ours.parent().unwrap().display(), env::var("PATH").unwrap());
    for line in lines {
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(place.path())
            .env("PATH", &path)
            .env("NEXUS_ROOT", fake.root.path())
            .env("GRPC_SOCKET_PATH", fake.running.socket())
            .stdin(std::process::Stdio::null());
        let done = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        assert!(
            done.status.success(),
            "{name}: {line}\n{}{}",
            text(&done.stdout),
            text(&done.stderr)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_the_page_about_agents_works() {
    works("AGENTS.md", 25).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_the_page_about_tools_works() {
    works("TOOLS.md", 10).await;
}
