//! What tools can be run in: the built-in sandbox, as it finds out itself, and container engines that listen here.

use std::{env, os::unix::net::UnixStream, path::PathBuf};

use super::Finding;
use crate::settings::ask::{Sees, is_program, places, run};

pub const SANDBOX: &str = "nexus-sandbox";

pub(super) async fn look() -> Vec<Finding> {
    let mut findings = vec![sandbox().await];
    findings.push(engine("backends.docker", &docker(), "docker"));
    findings.push(engine("backends.podman", &podman(), "podman"));
    findings
}

async fn sandbox() -> Finding {
    let id = "backends.sandbox";
    let Some(program) = places()
        .into_iter()
        .map(|place| place.join(SANDBOX))
        .find(|path| is_program(path))
    else {
        return Finding::skip(id, format!("{SANDBOX} is not installed here"));
    };
    let ended = match run(&program, ["--probe"], Sees::Everything).await {
        Ok(ended) => ended,
        Err(failure) => {
            return Finding::warn(
                id,
                failure.message,
                "tools that need isolation are refused until it works",
            );
        }
    };
    let Ok(serde_json::Value::Object(facts)) = serde_json::from_slice(&ended.stdout) else {
        let message = format!(
            "{} --probe gave no answer that can be read ({})",
            program.display(),
            ended.status
        );
        return Finding::warn(id, message, "install it and nexus from one release");
    };
    let plain = facts
        .iter()
        .filter(|(name, value)| *name != "failure" && !value.is_null());
    let told: Vec<String> = plain.map(|(name, value)| format!("{name} {}", short(value))).collect();
    match facts.get("failure").filter(|failure| !failure.is_null()) {
        Some(failure) => {
            let reason = failure
                .get("message")
                .or_else(|| failure.get("reason"))
                .unwrap_or(failure);
            Finding::warn(
                id,
                format!("does not work here: {}", short(reason)),
                "tools run only in a container engine then",
            )
        }
        None => Finding::pass(id, told.join(", ")),
    }
}

fn short(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Object(map) => {
            let parts: Vec<String> = map
                .iter()
                .map(|(name, value)| format!("{name}={}", short(value)))
                .collect();
            format!("({})", parts.join(" "))
        }
        other => other.to_string(),
    }
}

/// The container engines that have a socket here.
pub fn engines() -> Vec<&'static str> {
    let there = |sockets: Vec<PathBuf>| sockets.iter().any(|path| path.exists());
    let all = [("docker", there(docker())), ("podman", there(podman()))];
    all.into_iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| name)
        .collect()
}

fn docker() -> Vec<PathBuf> {
    let told = env::var("DOCKER_HOST").ok();
    let told = told.and_then(|told| told.strip_prefix("unix://").map(PathBuf::from));
    told.into_iter()
        .chain(["/var/run/docker.sock".into(), "/run/docker.sock".into()])
        .collect()
}

fn podman() -> Vec<PathBuf> {
    let own = env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("podman/podman.sock"));
    own.into_iter().chain(["/run/podman/podman.sock".into()]).collect()
}

fn engine(id: &str, sockets: &[PathBuf], program: &str) -> Finding {
    let there: Vec<&PathBuf> = sockets.iter().filter(|path| path.exists()).collect();
    if let Some(path) = there.iter().find(|path| UnixStream::connect(path).is_ok()) {
        return Finding::pass(id, format!("listens at {}", path.display()));
    }
    if let Some(path) = there.first() {
        let message = format!("{} is there, and we cannot connect to it", path.display());
        return Finding::warn(
            id,
            message,
            format!("start {program}, or join the group that may use it"),
        );
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|place| is_program(&place.join(program))) {
        return Finding::skip(id, format!("{program} is installed, and no socket of it is here"));
    }
    Finding::skip(id, format!("{program} is not installed"))
}
