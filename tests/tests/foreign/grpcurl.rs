//! grpcurl on every daemon's socket: it needs reflection for all it does.

use std::{path::Path, process::Command, time::Duration};

use nexus_tests::{Daemon, Site};

use crate::kit::{has, made, orchestrator, run, with};

fn ready() -> bool {
    has(&[(made("bin/grpcurl"), "grpcurl")])
}

fn grpcurl(arguments: &[&str], socket: &Path, rest: &[&str]) -> String {
    let mut command = Command::new(made("bin/grpcurl"));
    command
        .args(["-plaintext", "-unix"])
        .args(arguments)
        .arg(socket)
        .args(rest);
    run(&mut command, Duration::from_secs(30))
}

fn on_orchestrator(site: &Site, arguments: &[&str], method: &str) -> String {
    grpcurl(arguments, &site.socket(Daemon::Orchestrator), &[method])
}

#[test]
fn every_daemon_lists_and_describes_itself_and_tells_its_health() {
    if !ready() {
        return;
    }
    let site = with(&[Daemon::Llm, Daemon::Gateway, Daemon::Agent]);
    let served = [
        (
            Daemon::Orchestrator,
            "orchestrator.v1.OrchestratorService",
            "rpc StreamMessages (",
        ),
        (Daemon::Orchestrator, "agent.v1.AgentService", "rpc StreamAgent ("),
        (Daemon::Orchestrator, "tool.v1.ToolService", "rpc ExecuteTool ("),
        (Daemon::Llm, "llm.v1.LLMService", "rpc StreamLLM ("),
        (Daemon::Gateway, "gateway.v1.GatewayService", "rpc StreamChat ("),
        (Daemon::Agent, "agent.v1.AgentService", "rpc GetCapabilities ("),
    ];
    for (daemon, service, rpc) in served {
        let socket = site.socket(daemon);
        let listed = grpcurl(&[], &socket, &["list"]);
        for name in [service, &format!("proto.{service}"), "grpc.health.v1.Health"] {
            assert!(
                listed.lines().any(|line| line == name),
                "{daemon} does not list {name}:\n{listed}"
            );
        }
        let described = grpcurl(&[], &socket, &["describe", service]);
        assert!(
            described.contains(rpc),
            "{daemon} does not describe {rpc}:\n{described}"
        );
        let alias = grpcurl(&[], &socket, &["describe", &format!("proto.{service}")]);
        assert!(
            alias.contains(rpc),
            "{daemon} does not describe the alias of {rpc}:\n{alias}"
        );
        let health = grpcurl(&[], &socket, &["grpc.health.v1.Health/Check"]);
        assert!(health.contains("\"SERVING\""), "{daemon}: {health}");
    }
}

/// The documents' lines, with the flags where grpcurl takes them.
#[test]
fn the_lines_of_the_documents_work_with_the_prefix_and_without() {
    if !ready() {
        return;
    }
    let site = orchestrator();
    for prefix in ["proto.", ""] {
        let method = |name: &str| format!("{prefix}orchestrator.v1.OrchestratorService/{name}");
        let before = on_orchestrator(&site, &["-d", "{}"], &method("ListSessions"));
        let name = format!("test-session-{prefix}end");
        let asked = format!(r#"{{"metadata": {{"name": "{name}"}}}}"#);
        let made = on_orchestrator(&site, &["-d", &asked], &method("CreateSession"));
        assert!(made.contains("SESSION_STATE_ACTIVE"), "{made}");
        let after = on_orchestrator(&site, &["-d", "{}"], &method("ListSessions"));
        assert!(!before.contains(&name) && after.contains(&name), "{after}");
    }
    let health = on_orchestrator(&site, &[], "grpc.health.v1.Health/Check");
    assert!(health.contains("\"SERVING\""), "{health}");
}

#[test]
fn what_sits_behind_the_front_door_is_called_at_the_same_address() {
    if !ready() {
        return;
    }
    let site = with(&[Daemon::Llm, Daemon::Gateway]);
    for prefix in ["proto.", ""] {
        let models = on_orchestrator(&site, &[], &format!("{prefix}llm.v1.LLMService/ListModels"));
        assert!(models.contains("offline"), "{models}");
        let made = on_orchestrator(
            &site,
            &[],
            &format!("{prefix}gateway.v1.GatewayService/CreateGatewaySession"),
        );
        assert!(made.contains("GATEWAY_SESSION_STATE_ACTIVE"), "{made}");
    }
}
