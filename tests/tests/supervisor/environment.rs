//! Secrets of the shell in which somebody types `nexus up`: who sees them afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::{Command, Output},
};

use nexus_tests::{NOBODY, as_user, binary, skipped};
use nix::sys::signal::Signal;

use crate::world::{SERVICES, World, kill, lives, until};

const NAMED: &str = "canary-named-by-a-setting";
const KEY: &str = "canary-key-of-a-provider";
const FOREIGN: &str = "canary-of-another-tool";
const CANARIES: [&str; 3] = [NAMED, KEY, FOREIGN];

/// By process id, the canaries in the environment of every process of this host.
fn seen() -> BTreeMap<i32, BTreeSet<&'static str>> {
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has ended meanwhile has no environment.
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        let environ = String::from_utf8_lossy(&environ);
        let found: BTreeSet<&str> = CANARIES.into_iter().filter(|canary| environ.contains(canary)).collect();
        if !found.is_empty() {
            seen.insert(pid, found);
        }
    }
    seen
}

fn only_the_model_daemon(world: &World, when: &str) {
    let expected = BTreeMap::from([(world.pid("llm"), BTreeSet::from([NAMED, KEY]))]);
    until("the commands that had the canaries have ended", || {
        // The command that is asked has none of them.
        (seen().len() <= 1).then_some(())
    });
    assert_eq!(seen(), expected, "{when}");
}

/// The attack: read `/proc/*/environ` for the keys that were in the shell of `nexus up`.
#[test]
fn a_secret_of_the_shell_reaches_only_the_daemon_whose_settings_name_it() {
    let world = World::new("");
    let helper = world.root().join("helper");
    let told = world.root().join("helper.environ");
    let script = format!(
        "#!/bin/sh\ncat /proc/$$/environ > '{0}.new'; mv '{0}.new' '{0}'; echo sk-1\n",
        told.display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o700)).unwrap();
    let settings = format!(
        "[cli]\ncrash_limit = 1000\nbackoff_min = \"1ms\"\nbackoff_max = \"1ms\"\n\
         [orchestrator]\ncontainer_backend = \"sandbox\"\n\
         [llm]\nanthropic_key = \"env:WORK_KEY\"\nopenai_key = \"command:{}\"\n",
        helper.display()
    );
    fs::write(world.root().join("state/nexus/config.toml"), settings).unwrap();
    let shell = |args: &[&str]| {
        let mut command = world.command(args);
        command
            .env("WORK_KEY", NAMED)
            .env("OPENROUTER_API_KEY", KEY)
            .env("GITHUB_TOKEN", FOREIGN)
            .env("NEXUS_UNRELATED", FOREIGN);
        command
    };
    let done = shell(&["up"]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    only_the_model_daemon(&world, "after nexus up");

    // A restart has what the first start had.
    let before = world.pid("llm");
    kill(before, Signal::SIGKILL);
    until("the model daemon is started again", || {
        let service = world.service("llm");
        (service["state"] == "ready" && service["pid"] != before).then_some(())
    });
    only_the_model_daemon(&world, "after a restart");

    // The programs that daemons start: what fetches a credential, and what runs in a sandbox with its helper.
    until("the helper ran", || told.exists().then_some(()));
    let told = fs::read_to_string(&told).unwrap();
    assert!(told.contains("PATH="), "{told}");
    assert!(CANARIES.iter().all(|canary| !told.contains(canary)), "{told}");
    let mut contained = world
        .command(&[
            "containers",
            "run",
            "nexus/host",
            "--",
            "sh",
            "-c",
            "env; echo started; sleep 1000",
        ])
        .stdout(fs::File::create(world.root().join("contained")).unwrap())
        .spawn()
        .unwrap();
    let inside = until("the sandbox runs", || {
        let said = fs::read_to_string(world.root().join("contained")).unwrap();
        assert!(contained.try_wait().unwrap().is_none(), "it ended: {said}");
        said.contains("started").then_some(said)
    });
    assert!(CANARIES.iter().all(|canary| !inside.contains(canary)), "{inside}");
    only_the_model_daemon(&world, "while a sandbox runs");
    kill(i32::try_from(contained.id()).unwrap(), Signal::SIGINT);
    contained.wait().unwrap();

    // In the foreground it is no different.
    world.works(&["down"]);
    let mut foreground = shell(&["supervise"]).spawn().unwrap();
    until("it answers", || {
        world.snapshot()["supervisor"].is_object().then_some(())
    });
    world.works(&["up"]);
    assert_eq!(world.supervisor(), i32::try_from(foreground.id()).unwrap());
    only_the_model_daemon(&world, "kept by a supervisor in the foreground");
    world.works(&["down"]);
    foreground.wait().unwrap();
    assert_eq!(seen(), BTreeMap::new());
}

fn bring(to: &Path, program: &str) {
    let there = to.join(program);
    fs::copy(binary(program), &there).unwrap();
    fs::set_permissions(&there, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The attack: as the same user, read the supervisor's memory and environment for the keys it holds.
#[test]
fn another_process_of_the_same_user_cannot_look_into_the_supervisor() {
    let name = "supervisor::another_process_of_the_same_user_cannot_look_into_the_supervisor";
    let folder = tempfile::Builder::new().prefix("nexus-").tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for program in [
        "nexus",
        "nexus-orchestrator",
        "nexus-llm",
        "nexus-agent",
        "nexus-gateway",
        "nexus-sandbox",
    ] {
        bring(folder.path(), program);
    }
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let command = |program: &Path, args: &[&str]| -> Result<Command, String> {
        let mut command = as_user(NOBODY, program)?;
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &own)
            .env("NEXUS_ROOT", own.join("root"))
            .env("GRPC_SOCKET_PATH", own.join("o.sock"))
            .env("NEXUS_BIN_DIR", folder.path())
            .env("NEXUS_GATEWAY__TCP_LISTEN", "")
            .env("GITHUB_TOKEN", "a-secret-of-this-user")
            .current_dir(&own);
        Ok(command)
    };
    let nexus = folder.path().join("nexus");
    let up = match command(&nexus, &["up"]) {
        Ok(mut up) => up.output().unwrap(),
        Err(missing) => return skipped(name, &missing),
    };
    let run = |program: &Path, args: &[&str]| -> Output { command(program, args).unwrap().output().unwrap() };
    let said = |done: &Output| {
        format!(
            "{}{}",
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        )
    };
    let status = run(&nexus, &["services", "status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
    let supervisor = status["supervisor"]["pid"].as_i64().unwrap_or_default();
    // The supervisor made the sockets; an ordinary user does not see who accepts on them.
    let plain = run(&nexus, &["status", "--json"]);
    let plain: serde_json::Value = serde_json::from_slice(&plain.stdout).unwrap_or_default();
    let pids = |all: &serde_json::Value, name: &str| -> Vec<(String, Option<i64>)> {
        let services = all["services"].as_array().into_iter().flatten();
        let mut pids: Vec<_> = services
            .map(|one| (one[name].as_str().unwrap_or_default().to_owned(), one["pid"].as_i64()))
            .collect();
        pids.sort();
        pids
    };
    let (told, kept) = (pids(&plain, "service"), pids(&status, "id"));
    let tried: Vec<(&str, Output)> = ["environ", "mem", "maps"]
        .into_iter()
        .map(|file| {
            let path = format!("/proc/{supervisor}/{file}");
            (file, run(Path::new("head"), &["-c", "1", &path]))
        })
        .collect();
    // All of it works for this user, and is taken down before anything is judged.
    let serves = SERVICES.map(|service| {
        let services = status["services"].as_array();
        services.is_some_and(|all| all.iter().any(|one| one["id"] == service && one["state"] == "ready"))
    });
    let restarted = run(&nexus, &["services", "restart"]);
    let down = run(&nexus, &["down"]);
    assert!(up.status.success(), "{}", said(&up));
    assert_eq!(serves, [true; 5], "{status}");
    assert_eq!(told, kept, "{plain}");
    assert!(restarted.status.success(), "{}", said(&restarted));
    assert!(down.status.success(), "{}", said(&down));
    assert!(supervisor > 1 && !lives(i32::try_from(supervisor).unwrap()), "{status}");
    for (file, done) in tried {
        assert!(
            !done.status.success() && said(&done).contains("ermission denied"),
            "/proc/{supervisor}/{file}: {}",
            said(&done)
        );
    }
}

/// Whatever a daemon says that it reads from the environment, the supervisor gives it.
#[test]
fn every_variable_that_sets_something_reaches_its_daemon() {
    for service in nexus_config::services::SERVICES {
        let done = Command::new(binary(service.binary)).arg("--schema").output().unwrap();
        let schema: nexus_config::DaemonSchema = serde_json::from_slice(&done.stdout).unwrap();
        for setting in &schema.settings {
            for variable in &setting.env {
                assert!(service.reads(variable), "{} does not get {variable}", service.name);
            }
        }
    }
}
