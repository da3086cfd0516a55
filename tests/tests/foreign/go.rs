//! grpc-go, dialling as existing Go programs do: the raw path becomes `:authority`. The scenarios are in `foreign/go`.

use std::{process::Command, time::Duration};

use crate::kit::{checkout, has, made, orchestrator, run, which, with};
use nexus_tests::{Daemon, Site};

const FORMS: [&str; 3] = ["dial", "passthrough", "unix"];

/// False if there is no Go here.
fn ready() -> bool {
    let needs = [
        (which("go"), "go"),
        (made("bin/protoc"), "protoc (grpcio-tools has it)"),
        (made("bin/protoc-gen-go-grpc"), "the Go client"),
    ];
    if !has(&needs) {
        return false;
    }
    build();
    true
}

/// The stubs and the client, anew if they are not of these sources.
pub fn build() {
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        let mut build = Command::new(checkout().join("tests/foreign/go/build.sh"));
        run(&mut build, Duration::from_secs(300));
    });
}

/// Every scenario must report itself: a client that does nothing proves nothing.
fn play(site: &Site, form: &str, scenarios: &[&str]) {
    let mut client = Command::new(made("bin/foreign-go"));
    client
        .arg("-socket")
        .arg(site.socket(Daemon::Orchestrator))
        .args(["-form", form])
        .args(scenarios);
    let said = run(&mut client, Duration::from_secs(180));
    for scenario in scenarios {
        assert!(
            said.contains(&format!("ok {scenario} ({form})")),
            "nothing said of {scenario}:\n{said}"
        );
    }
}

#[test]
fn the_path_as_authority_is_answered() {
    if ready() {
        play(&orchestrator(), "dial", &["authority"]);
    }
}

#[test]
fn the_terminal_client_gets_an_answer_to_each_message() {
    if ready() {
        let site = orchestrator();
        for form in FORMS {
            play(&site, form, &["terminal", "heartbeat", "mistakes"]);
        }
    }
}

#[test]
fn agents_register_and_workers_work_with_or_without_a_stream() {
    if ready() {
        let site = orchestrator();
        for form in FORMS {
            play(&site, form, &["register", "worker", "unheard", "health"]);
        }
    }
}

#[test]
fn an_assistant_answers_in_every_form_that_assistants_use() {
    if ready() {
        play(&orchestrator(), "dial", &["assistant"]);
    }
}

#[test]
fn the_model_daemon_and_the_gateway_are_reached_at_the_same_address() {
    if ready() {
        let site = with(&[Daemon::Llm, Daemon::Gateway, Daemon::Agent]);
        for form in FORMS {
            play(&site, form, &["front"]);
        }
    }
}

#[test]
fn large_messages_pass_and_larger_ones_are_refused() {
    if ready() {
        play(&orchestrator(), "dial", &["large"]);
    }
}

#[test]
fn thousands_of_calls_with_changing_headers_stay_in_step() {
    if ready() {
        let site = orchestrator();
        for form in FORMS {
            play(&site, form, &["churn"]);
        }
    }
}
