//! Checks that running daemons are healthy and of this version.

use super::Finding;
use crate::{
    context::Context,
    services::{
        model::{Service, State, Verdict},
        status,
    },
};

pub(super) async fn look(context: &Context) -> Vec<Finding> {
    if context.orchestrator_socket().is_none() {
        return vec![Finding::skip("daemons", "the orchestrator is on another machine")];
    }
    match status::take(context, true).await {
        Ok(snapshot) => snapshot.services.iter().map(one).collect(),
        Err(failure) => vec![Finding::fail(
            "daemons",
            failure.message,
            failure.hint.unwrap_or_default(),
        )],
    }
}

fn one(service: &Service) -> Finding {
    let id = format!("daemons.{}", service.id);
    let own = env!("CARGO_PKG_VERSION");
    let problem = service.problem();
    let told = |otherwise: &str| problem.map_or(otherwise, |(message, _)| message).to_owned();
    let fix = |otherwise: &str| problem.and_then(|(_, fix)| fix).unwrap_or(otherwise).to_owned();
    match service.state {
        State::Stopped => Finding::skip(id, "does not run"),
        // It serves, and nobody would start it again: that is a choice.
        State::Degraded if service.checks.iter().all(|check| check.status != Verdict::Fail) => {
            Finding::warn(id, told("is degraded"), fix("nexus services status"))
        }
        State::WaitingForCredential => Finding::warn(id, told("waits for a secret"), fix("nexus credential verify")),
        State::Ready => match service.version.as_deref().filter(|version| !version.is_empty()) {
            Some(version) if version != own => {
                let message = format!("runs version {version}, and this is {own}");
                Finding::warn(id, message, format!("nexus services restart {}", service.id))
            }
            Some(version) => Finding::pass(id, format!("ready, version {version}")),
            None => Finding::pass(id, "ready"),
        },
        State::Starting | State::Stopping => {
            Finding::warn(id, told("is not ready yet"), fix("nexus services status --watch"))
        }
        _ => {
            let logs = format!("nexus services logs {}", service.id);
            Finding::fail(id, told("does not work"), fix(&logs))
        }
    }
}
