//! One tree whose daemons are kept by the supervisor, as `nexus up` starts them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use nexus_client::{Address, Connection, Options, ServerUid};
use nexus_tests::{PATIENCE, binary};
use serde_json::Value;

pub const SERVICES: [&str; 5] = ["orchestrator", "llm", "agent-assistant", "agent-worker", "gateway"];
/// Between two looks at what cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

pub struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// Crashes are forgiven quickly here, unless the settings say otherwise.
    pub fn new(settings: &str) -> World {
        let folder = tempfile::Builder::new().prefix("nexus-").tempdir().unwrap();
        let world = World { folder };
        let config = world.root().join("state/nexus/config.toml");
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        fs::write(config, settings).unwrap();
        world
    }

    pub fn forgiving() -> World {
        World::new("[cli]\ncrash_limit = 1000\nbackoff_min = \"1ms\"\nbackoff_max = \"1ms\"\n")
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub fn socket(&self, service: &str) -> PathBuf {
        match service {
            "orchestrator" => self.folder.path().join("o.sock"),
            other => self.root().join(format!("state/run/{other}.sock")),
        }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let nexus = binary("nexus");
        let mut command = Command::new(&nexus);
        command.env_clear().current_dir(self.folder.path()).args(args);
        for kept in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command
            .env("HOME", self.folder.path())
            .env("NEXUS_ROOT", self.root())
            .env("GRPC_SOCKET_PATH", self.socket("orchestrator"))
            .env("NEXUS_BIN_DIR", nexus.parent().unwrap())
            // Its listeners for browsers are off in these tests, wherever it has them.
            .env("NEXUS_GATEWAY__TCP_LISTEN", "")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it and shows what it had to say if it fails.
    pub fn works(&self, args: &[&str]) -> String {
        let done = self.run(args);
        let (out, beside) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        assert!(done.status.success(), "{args:?}: {}\n{out}\n{beside}", done.status);
        out.into_owned()
    }

    pub fn snapshot(&self) -> Value {
        serde_json::from_slice(&self.run(&["services", "status", "--json"]).stdout).unwrap()
    }

    pub fn service(&self, name: &str) -> Value {
        let all = self.snapshot();
        let services = all["services"].as_array().unwrap();
        services.iter().find(|service| service["id"] == name).unwrap().clone()
    }

    pub fn pid(&self, name: &str) -> i32 {
        i32::try_from(self.service(name)["pid"].as_i64().unwrap()).unwrap()
    }

    pub fn supervisor(&self) -> i32 {
        i32::try_from(self.snapshot()["supervisor"]["pid"].as_i64().unwrap()).unwrap()
    }

    /// How many processes are this service.
    pub fn count(&self, service: &str) -> usize {
        let mark = format!("NEXUS_SERVICE={service}@{}", self.root().display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let environ = entries.filter_map(|entry| fs::read(entry.path().join("environ")).ok());
        environ
            .filter(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
            .count()
    }

    pub fn connect(&self, service: &str) -> Connection {
        connect(&self.socket(service))
    }
}

pub fn connect(socket: &Path) -> Connection {
    let options = Options {
        reconnect_interval: Duration::from_millis(50),
        rpc_timeout: PATIENCE,
        server_uid: ServerUid::OwnOrRoot,
        ..Options::default()
    };
    Connection::lazy(&Address::Unix(socket.into()), &options)
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", String::from_utf8_lossy(&self.run(&["services", "status"]).stdout));
            eprintln!("{}", String::from_utf8_lossy(&self.run(&["services", "logs"]).stdout));
        }
        let _ended = self.run(&["down", "--timeout", "5s"]);
    }
}

pub fn kill(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Whether it is there and has not ended.
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

pub fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(seen) = seen() {
            return seen;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}
