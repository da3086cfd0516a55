//! launchd's agents: the property lists by a parser of them, and `nexus services` against a `launchctl` that behaves
//! like the real one and really runs what it is told to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use nexus_tests::{PATIENCE, binary, skipped};
use serde_json::Value;
use tempfile::TempDir;

const SERVICES: [&str; 5] = ["orchestrator", "llm", "agent-assistant", "agent-worker", "gateway"];

fn python(test: &str) -> bool {
    let works = Command::new("python3")
        .arg("--version")
        .output()
        .is_ok_and(|out| out.status.success());
    if !works {
        skipped(&format!("launchd::{test}"), "needs python3");
    }
    works
}

/// A property list as its parser has it; `plistlib` refuses what is not one.
fn parse(path: &Path) -> Value {
    let line = "import json,plistlib,sys; print(json.dumps(plistlib.load(open(sys.argv[1],'rb'))))";
    let output = Command::new("python3").args(["-c", line]).arg(path).output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn each_service_has_a_sound_property_list() {
    if !python("each_service_has_a_sound_property_list") {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../launchd");
    for service in SERVICES {
        let plist = parse(&folder.join(format!("dev.nexus.{service}.plist")));
        assert_eq!(plist["Label"], format!("dev.nexus.{service}"));
        assert_eq!(plist["ProgramArguments"][3], service);
        assert_eq!(plist["KeepAlive"]["SuccessfulExit"], false, "a stop is a stop");
        assert!(
            plist["Sockets"]["Listener"]["SockPathName"]
                .as_str()
                .unwrap()
                .starts_with('/')
        );
        assert_eq!(plist["Sockets"]["Listener"]["SockPathMode"], 0o600);
        assert_eq!(plist["Umask"], 0o077);
        for key in ["ThrottleInterval", "ExitTimeOut"] {
            assert!(plist[key].as_u64().unwrap() > 0, "{key}");
        }
        assert_eq!(plist["ProcessType"], "Adaptive");
    }
    let files = fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, SERVICES.len(), "one for each, and no other");
}

/// A home with a launchd of its own.
struct Mac {
    folder: TempDir,
}

impl Mac {
    fn new() -> Mac {
        let folder = tempfile::Builder::new().prefix("nexus-").tempdir().unwrap();
        let mac = Mac { folder };
        fs::create_dir_all(mac.path("bin")).unwrap();
        fs::create_dir_all(mac.path("home")).unwrap();
        let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/launchd/launchctl.py");
        std::os::unix::fs::symlink(shim, mac.path("bin/launchctl")).unwrap();
        mac
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn agent(&self, service: &str) -> PathBuf {
        self.path(&format!("home/Library/LaunchAgents/dev.nexus.{service}.plist"))
    }

    fn command(&self, program: &Path, args: &[&str]) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("HOME", self.path("home"))
            .env("LAUNCHCTL_STATE", self.path("launchd"))
            .env("LAUNCHCTL_THROTTLE", "0")
            .env("NEXUS_BIN_DIR", binary("nexus").parent().unwrap())
            .env("NEXUS_GATEWAY__TCP_LISTEN", "")
            .env("NEXUS_ROOT", self.path("my <root>"))
            .env("GRPC_SOCKET_PATH", self.path("grpc.sock"))
            .current_dir(self.folder.path());
        command.output().unwrap()
    }

    fn nexus(&self, args: &[&str]) -> String {
        let output = self.command(&binary("nexus"), args);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "nexus {args:?}: {}\n{err}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    fn install(&self) -> String {
        self.nexus(&["services", "install", "--manager", "launchd"])
    }

    /// `None` if the job is not loaded.
    fn job(&self, service: &str) -> Option<Value> {
        let file = self.path(&format!("launchd/dev.nexus.{service}.json"));
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    fn until(&self, what: &str, holds: impl Fn(&Mac) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < until, "{what}: not after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn pid(&self, service: &str) -> Option<i64> {
        self.job(service)?["pid"].as_i64()
    }
}

impl Drop for Mac {
    fn drop(&mut self) {
        for service in SERVICES {
            let target = format!("gui/{}/dev.nexus.{service}", nix::unistd::getuid());
            let _unloaded = self.command(&self.path("bin/launchctl"), &["bootout", &target]);
        }
    }
}

#[test]
fn it_installs_runs_restarts_and_uninstalls() {
    if !python("it_installs_runs_restarts_and_uninstalls") {
        return;
    }
    let mac = Mac::new();
    let said = mac.nexus(&["services", "install", "--manager", "launchd", "--dry-run"]);
    assert!(
        said.contains("launchctl bootstrap gui/") && !mac.agent("llm").exists(),
        "{said}"
    );

    mac.install();
    for service in SERVICES {
        let plist = parse(&mac.agent(service));
        assert_eq!(
            plist["EnvironmentVariables"]["NEXUS_ROOT"],
            mac.path("my <root>").display().to_string()
        );
        mac.until("it runs", |mac| mac.pid(service).is_some());
    }
    mac.until("it answers", |mac| {
        mac.command(&binary("nexus"), &["chat", "hello"]).status.success()
    });

    // A crash is followed by a start.
    let pid = mac.pid("llm").unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()),
        nix::sys::signal::SIGKILL,
    )
    .unwrap();
    mac.until("another one runs", |mac| mac.pid("llm").is_some_and(|now| now != pid));

    // What is there already is replaced, not doubled.
    mac.install();
    mac.until("it answers again", |mac| {
        mac.command(&binary("nexus"), &["chat", "hello"]).status.success()
    });

    mac.nexus(&["services", "uninstall", "--manager", "launchd"]);
    for service in SERVICES {
        assert!(!mac.agent(service).exists() && mac.job(service).is_none(), "{service}");
    }
    assert!(
        mac.path("my <root>/state/db/orchestrator.db").exists(),
        "what the daemons keep stays"
    );
    let said = mac.nexus(&["services", "uninstall", "--manager", "launchd"]);
    assert_eq!(said.trim(), "nothing was installed");
}

#[test]
fn a_wrong_config_is_not_tried_again() {
    if !python("a_wrong_config_is_not_tried_again") {
        return;
    }
    let mac = Mac::new();
    let config = mac.path("my <root>/state/nexus/config.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "[llm]\nno_such_key = 1\n").unwrap();
    mac.install();
    mac.until("it has ended", |mac| {
        mac.job("llm")
            .is_some_and(|job| job["pid"].is_null() && !job["exit"].is_null())
    });
    let job = mac.job("llm").unwrap();
    assert_eq!(
        (job["exit"].as_i64(), job["runs"].as_i64()),
        (Some(0), Some(1)),
        "{job}"
    );
    let log = fs::read_to_string(mac.path("my <root>/state/logs/llm.err.log")).unwrap();
    assert!(
        log.contains("no_such_key") && log.contains("nexus services start llm"),
        "{log}"
    );
}
