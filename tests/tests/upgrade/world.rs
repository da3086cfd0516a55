//! One installation with one tree, and releases to upgrade it to.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use nexus_tests::binary;
use serde_json::Value;

pub const SERVICES: [&str; 5] = ["orchestrator", "llm", "agent-assistant", "agent-worker", "gateway"];
const PROGRAMS: [&str; 6] = [
    "nexus",
    "nexus-orchestrator",
    "nexus-agent",
    "nexus-llm",
    "nexus-gateway",
    "nexus-sandbox",
];

/// The programs that are tested, as they ship: without what a debugger needs.
fn programs() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("upgrade-programs");
        let _none = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        for name in PROGRAMS {
            let mut strip = Command::new("strip");
            strip
                .args(["--strip-all", "-o"])
                .arg(folder.join(name))
                .arg(binary(name));
            assert!(strip.status().unwrap().success(), "{name}");
        }
        folder
    })
}

pub struct World {
    folder: tempfile::TempDir,
    /// On the disk of the programs, so that they need not be copied.
    releases: tempfile::TempDir,
}

impl World {
    /// With version a installed by its script.
    pub fn new() -> World {
        let world = World {
            folder: tempfile::Builder::new().prefix("nexus-").tempdir().unwrap(),
            releases: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        };
        let release = world.release("a");
        let installed = Command::new(release.join("install.sh"))
            .arg("--prefix")
            .arg(world.prefix())
            .output()
            .unwrap();
        assert!(installed.status.success(), "{installed:?}");
        world
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn prefix(&self) -> PathBuf {
        self.folder().join("prefix")
    }

    pub fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    /// Where a build is installed.
    pub fn version(&self, build: &str) -> PathBuf {
        self.prefix().join(format!("lib/nexus/versions/0.1.0+{build}"))
    }

    pub fn release(&self, build: &str) -> PathBuf {
        self.release_with(build, &[])
    }

    /// A release of which some programs are scripts; `$REAL` in one is the program that it stands for.
    pub fn release_with(&self, build: &str, scripts: &[(&str, &str)]) -> PathBuf {
        let folder = self.releases.path().join(format!("nexus-0.1.0+{build}"));
        let _again = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::create_dir_all(folder.join("share/doc/nexus")).unwrap();
        for name in PROGRAMS {
            let (to, real) = (folder.join("bin").join(name), programs().join(name));
            match scripts.iter().find(|(program, _)| *program == name) {
                Some((_, script)) => {
                    fs::write(&to, script.replace("$REAL", real.to_str().unwrap())).unwrap();
                    fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
                }
                None => fs::hard_link(real, to).unwrap(),
            }
        }
        fs::write(folder.join("share/doc/nexus").join(build), "x").unwrap();
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        };
        let about =
            serde_json::json!({ "schema": 1, "version": format!("0.1.0+{build}"), "target": format!("linux-{arch}") });
        fs::write(folder.join("release.json"), about.to_string()).unwrap();
        self.sum(&folder);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/install.sh");
        fs::copy(script, folder.join("install.sh")).unwrap();
        folder
    }

    fn sum(&self, folder: &Path) {
        let line = "find bin share release.json -type f | xargs sha256sum > SHA256SUMS";
        let done = Command::new("sh")
            .args(["-c", line])
            .current_dir(folder)
            .status()
            .unwrap();
        assert!(done.success());
    }

    pub fn tarball(&self, build: &str) -> PathBuf {
        self.pack(&self.release(build), build)
    }

    /// A folder as a tarball, with its checksum beside it.
    pub fn pack(&self, folder: &Path, name: &str) -> PathBuf {
        let (parent, file) = (folder.parent().unwrap(), format!("{name}.tar.gz"));
        let line = format!(
            "tar cf - {} | gzip -1 > {file} && sha256sum {file} > SHA256SUMS",
            folder.file_name().unwrap().to_str().unwrap()
        );
        let done = Command::new("sh")
            .args(["-c", &line])
            .current_dir(parent)
            .status()
            .unwrap();
        assert!(done.success());
        parent.join(file)
    }

    pub fn socket(&self, service: &str) -> PathBuf {
        match service {
            "orchestrator" => self.folder().join("o.sock"),
            other => self.root().join(format!("state/run/{other}.sock")),
        }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.prefix().join("bin/nexus"));
        command.env_clear().current_dir(self.folder()).args(args);
        for kept in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        if args[0] == "upgrade" && !args.contains(&"--stay") {
            // Those that do not last have a test of their own.
            command.args(["--stay", "50ms"]);
        }
        command
            .env("HOME", self.folder())
            .env("NEXUS_ROOT", self.root())
            .env("GRPC_SOCKET_PATH", self.socket("orchestrator"))
            // Its listeners for browsers are off in these tests, wherever it has them.
            .env("NEXUS_GATEWAY__TCP_LISTEN", "")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn works(&self, args: &[&str]) -> String {
        self.ends(args, 0).0
    }

    /// With this exit code; what it said, and what it said beside it.
    pub fn ends(&self, args: &[&str], code: i32) -> (String, String) {
        let done = self.run(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, beside) = (text(&done.stdout), text(&done.stderr));
        assert_eq!(done.status.code(), Some(code), "{args:?}\n{out}\n{beside}");
        (out, beside)
    }

    pub fn snapshot(&self) -> Value {
        serde_json::from_slice(&self.run(&["services", "status", "--json"]).stdout).unwrap()
    }

    pub fn supervisor(&self) -> i64 {
        self.snapshot()["supervisor"]["pid"].as_i64().unwrap()
    }

    /// `None` where it is hidden from us: a daemon shows what it runs to root only.
    pub fn program(&self, pid: i64) -> Option<PathBuf> {
        match fs::read_link(format!("/proc/{pid}/exe")) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
            read => Some(read.unwrap()),
        }
    }

    pub fn current(&self) -> String {
        let link = fs::read_link(self.prefix().join("lib/nexus/current")).unwrap();
        link.file_name().unwrap().to_str().unwrap().to_owned()
    }

    pub fn installed(&self) -> Vec<String> {
        let said: Value = serde_json::from_str(&self.works(&["upgrade", "--list", "--json"])).unwrap();
        let versions = said["versions"].as_array().unwrap().iter();
        let mut names: Vec<String> = versions
            .map(|one| one["version"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names.reverse();
        names
    }

    /// All services are ready, and everything runs from the folder of this build; nothing is left to be done.
    pub fn runs(&self, build: &str) {
        assert_eq!(self.current(), format!("0.1.0+{build}"));
        let snapshot = self.snapshot();
        assert_eq!(snapshot["ok"], true, "{snapshot:#}");
        let supervisor = snapshot["supervisor"]["pid"].clone();
        let services = snapshot["services"].as_array().unwrap();
        assert_eq!(services.len(), SERVICES.len());
        for pid in services.iter().map(|service| &service["pid"]).chain([&supervisor]) {
            let Some(program) = self.program(pid.as_i64().unwrap()) else {
                continue;
            };
            assert!(program.starts_with(self.version(build)), "{}", program.display());
        }
        assert!(!self.prefix().join("lib/nexus/upgrade.json").exists());
        let folders = fs::read_dir(self.prefix().join("lib/nexus/versions"))
            .unwrap()
            .flatten();
        for folder in folders {
            let name = folder.file_name().into_string().unwrap();
            assert!(!name.starts_with('.'), "{name} is left");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", String::from_utf8_lossy(&self.run(&["services", "status"]).stdout));
            eprintln!(
                "{}",
                String::from_utf8_lossy(&self.run(&["services", "logs", "-n", "60"]).stdout)
            );
        }
        let _ended = self.run(&["down", "--timeout", "5s"]);
    }
}
