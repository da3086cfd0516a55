//! What containers can run in: the built-in sandbox, as it finds out itself, container engines that answer here, and which
//! of them the orchestrator takes.

use std::{
    env,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{Finding, Status};
use crate::{
    context::Context,
    settings::ask::{self, Sees, is_program, places, run},
};

pub const SANDBOX: &str = "nexus-sandbox";
const NO_ISOLATION: &str = "host-unsafe";
/// One that answers takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);
const LONGEST_ANSWER: u64 = 256 << 10;

pub(super) async fn look(context: &Context) -> Vec<Finding> {
    let (backend, host) = wanted(context).await;
    let host = host.strip_prefix("unix://").map(PathBuf::from);
    let of = |usual: Vec<PathBuf>| host.clone().map_or(usual, |path| vec![path]);
    let each = vec![
        engine("docker", &of(docker())),
        engine("podman", &of(podman())),
        sandbox().await,
    ];
    let mut findings = vec![chosen(&backend, &each)];
    findings.extend(each);
    findings
}

/// What the settings say of the backend, and of its socket.
async fn wanted(context: &Context) -> (String, String) {
    let (programs, _) = ask::programs().unwrap_or_default();
    let orchestrator: Vec<_> = programs
        .into_iter()
        .filter(|one| one.daemon == "orchestrator")
        .collect();
    let answers = ask::values(&orchestrator, &context.root, None, Sees::Everything, false).await;
    let settings = answers
        .unwrap_or_default()
        .into_iter()
        .flat_map(|answer| answer.settings);
    let (mut backend, mut host) = ("auto".to_owned(), String::new());
    for one in settings {
        let text = one.value.as_str().unwrap_or_default().to_owned();
        match one.key.as_str() {
            "container_backend" => backend = text,
            "container_host" => host = text,
            _ => {}
        }
    }
    (backend, host)
}

fn chosen(wanted: &str, each: &[Finding]) -> Finding {
    let id = "backends.chosen";
    let name = |finding: &Finding| finding.id.trim_start_matches("backends.").to_owned();
    let works = |finding: &&Finding| finding.status == Status::Pass;
    match wanted {
        NO_ISOLATION => Finding::warn(
            id,
            "host-unsafe: containers run on the bare host, and nothing isolates them",
            "nexus config set orchestrator.container_backend auto",
        ),
        "auto" => match each.iter().find(works) {
            Some(first) => Finding::pass(id, format!("{}: the first that works", name(first))),
            None => Finding::warn(
                id,
                "no backend works here: containers are refused",
                "install Docker or Podman, or allow unprivileged user namespaces for the built-in sandbox",
            ),
        },
        named => match each.iter().find(|finding| name(finding) == named) {
            Some(finding) if finding.status == Status::Pass => {
                Finding::pass(id, format!("{named}, as the settings say"))
            }
            _ => Finding::warn(
                id,
                format!("the settings say {named}, and that does not work here"),
                "see below why, or: nexus config set orchestrator.container_backend auto",
            ),
        },
    }
}

async fn sandbox() -> Finding {
    let id = "backends.sandbox";
    let Some(program) = places()
        .into_iter()
        .map(|directory| directory.join(SANDBOX))
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
    let Ok(facts) = serde_json::from_slice::<Value>(&ended.stdout) else {
        let message = format!(
            "{} --probe gave no answer that can be read ({})",
            program.display(),
            ended.status
        );
        return Finding::warn(id, message, "install it and nexus from one release");
    };
    let failure = &facts["failure"];
    if !failure.is_null() {
        let text = |name: &str| failure[name].as_str().unwrap_or_default().to_owned();
        let hint = match text("hint") {
            hint if hint.is_empty() => "containers run only in Docker or Podman then".to_owned(),
            hint => hint,
        };
        return Finding::warn(id, format!("does not work here: {}", text("why")), hint);
    }
    let version = facts["version"].as_str().unwrap_or("unknown");
    let limits = facts["enforced"].as_object().into_iter().flatten();
    let loose: Vec<&str> = limits
        .filter(|(_, holds)| **holds == Value::Bool(false))
        .map(|(name, _)| name.as_str())
        .collect();
    let held = match loose[..] {
        [] => "all limits hold".to_owned(),
        _ => format!("not limited for this user: {}", loose.join(", ")),
    };
    Finding::pass(id, format!("works, version {version}; {held}"))
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

fn engine(program: &str, sockets: &[PathBuf]) -> Finding {
    let id = format!("backends.{program}");
    let there: Vec<&PathBuf> = sockets.iter().filter(|path| path.exists()).collect();
    let mut why = None;
    for path in there {
        match version(path) {
            Ok((name, version)) if name == program => {
                return Finding::pass(id, format!("version {version} at {}", path.display()));
            }
            Ok((name, _)) => {
                why.get_or_insert((format!("{} is a {name}", path.display()), format!("start {program}")));
            }
            Err(error) => {
                let fix = format!("start {program}, or join the group that may use it");
                why.get_or_insert((
                    format!("{} is there, and does not answer: {error}", path.display()),
                    fix,
                ));
            }
        }
    }
    if let Some((message, fix)) = why {
        return Finding::warn(id, message, fix);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|directory| is_program(&directory.join(program))) {
        return Finding::skip(id, format!("{program} is installed, and no socket of it is here"));
    }
    Finding::skip(id, format!("{program} is not installed"))
}

/// Which engine answers there, and its version.
fn version(socket: &Path) -> std::io::Result<(&'static str, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /version HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let body = answer.find('{').zip(answer.rfind('}'));
    let body = body
        .and_then(|(first, last)| answer.get(first..=last))
        .unwrap_or_default();
    let facts: Value = serde_json::from_str(body)?;
    let parts = facts["Components"].as_array().into_iter().flatten();
    let podman = parts
        .filter_map(|part| part["Name"].as_str())
        .any(|name| name.contains("Podman"));
    let name = if podman { "podman" } else { "docker" };
    Ok((name, facts["Version"].as_str().unwrap_or("unknown").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(docker: bool, sandbox: bool) -> Vec<Finding> {
        let one = |id: &str, works| match works {
            true => Finding::pass(id, ""),
            false => Finding::skip(id, ""),
        };
        vec![
            one("backends.docker", docker),
            one("backends.podman", false),
            one("backends.sandbox", sandbox),
        ]
    }

    #[test]
    fn the_one_that_is_taken_is_named_and_no_isolation_is_a_warning() {
        assert!(chosen("auto", &found(true, true)).message.starts_with("docker"));
        assert!(chosen("auto", &found(false, true)).message.starts_with("sandbox"));
        assert_eq!(chosen("auto", &found(false, false)).status, Status::Warn);
        assert_eq!(chosen("sandbox", &found(true, true)).status, Status::Pass);
        assert_eq!(chosen("podman", &found(true, true)).status, Status::Warn);
        let bare = chosen("host-unsafe", &found(true, true));
        assert!(bare.status == Status::Warn && bare.message.contains("nothing isolates"));
    }
}
