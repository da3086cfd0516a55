//! An assistant in Node beside a user in Node, over grpc-js and proto-loader: `foreign/node`.

use std::{process::Command, time::Duration};

use crate::kit::{checkout, has, run, which, with};
use nexus_tests::Daemon;

#[test]
fn an_assistant_in_node_asks_the_model_and_answers_the_user() {
    let folder = checkout().join("tests/foreign/node");
    let needs = [
        (which("node"), "node"),
        (folder.join("node_modules/@grpc/grpc-js"), "@grpc/grpc-js"),
    ];
    if !has(&needs) {
        return;
    }
    let site = with(&[Daemon::Llm]);
    let address = format!("unix://{}", site.socket(Daemon::Orchestrator).display());
    let mut command = Command::new("node");
    command.arg(folder.join("assistant.js")).arg(address);
    let said = run(&mut command, Duration::from_secs(120));
    for scenario in ["assistant", "churn", "unregister"] {
        assert!(
            said.contains(&format!("ok {scenario}")),
            "nothing said of {scenario}:\n{said}"
        );
    }
}
