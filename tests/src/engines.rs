//! A Docker and a Podman of the tests' own: on sockets and storage in a temporary place, stopped when their handle goes.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::{PATIENCE, Process};

/// A running engine.
#[derive(Debug)]
pub struct Machine {
    name: &'static str,
    directory: tempfile::TempDir,
    process: Option<Process>,
}

impl Machine {
    /// Starts a Docker, or says what is missing for that.
    pub fn docker() -> Result<Machine, String> {
        Machine::new("docker", "dockerd")
    }

    pub fn podman() -> Result<Machine, String> {
        Machine::new("podman", "podman")
    }

    fn new(name: &'static str, program: &str) -> Result<Machine, String> {
        if name == "docker" && !nix::unistd::geteuid().is_root() {
            return Err(format!("needs root, to run a {name} of its own"));
        }
        if name == "podman" && !nix::unistd::geteuid().is_root() && !has_others() {
            let user = nix::unistd::geteuid();
            return Err(format!(
                "needs other numbers for user {user} in /etc/subuid; tests/engines/setup.sh gives them"
            ));
        }
        if which(program).is_none() {
            return Err(format!("needs {program}; tests/engines/setup.sh installs it"));
        }
        // Short: the engine's own sockets are deep below, and a socket's path may have 107 bytes.
        let directory = tempfile::Builder::new().prefix("nx").tempdir_in("/tmp");
        let directory = directory.map_err(|error| format!("needs a temporary directory: {error}"))?;
        let mut machine = Machine {
            name,
            directory,
            process: None,
        };
        machine.start();
        Ok(machine)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("s.sock")
    }

    /// What the config of an engine's user says.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// For files that whoever uses this engine keeps for it.
    pub fn own(&self) -> PathBuf {
        self.path("own")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts it again after [`Machine::stop`] or [`Machine::kill`].
    pub fn start(&mut self) {
        let _stale = std::fs::remove_file(self.socket());
        let mut command = if self.name == "docker" {
            self.dockerd()
        } else {
            self.service()
        };
        // An older conmon leaves a file named `oom` where Podman was started.
        command.current_dir(self.directory.path());
        let process = Process::spawn(&mut command, &self.path("log"));
        self.process = Some(process.expect("the engine can be executed"));
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            let process = self.process.as_mut().expect("it was just started");
            let ended = process.ended();
            assert!(
                ended.is_none() && Instant::now() < until,
                "{} did not start:\n{}",
                self.name,
                process.tail(20)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn dockerd(&self) -> Command {
        let mut command = Command::new("dockerd");
        command
            // Where its containerd writes what it did, if it hangs.
            .env("TMPDIR", self.directory.path())
            .args([
                "--storage-driver=vfs",
                "--iptables=false",
                "--ip-masq=false",
                "--bridge=none",
                "--live-restore",
            ])
            .args(["--log-level=warn", "-H", &self.host()])
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("pid"));
        command
    }

    /// Its own command line, for what only that can do. Returns what it printed.
    pub fn command(&self, arguments: &[&str]) -> String {
        let mut command = match self.name {
            "docker" => {
                let mut command = Command::new("docker");
                command.args(["-H", &self.host()]);
                command
            }
            _ => self.podman_command(),
        };
        command
            .env("HOME", self.directory.path())
            .current_dir(self.directory.path());
        let done = command
            .args(arguments)
            .output()
            .expect("the engine's command can be executed");
        let beside = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{} {arguments:?}: {beside}", self.name);
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn service(&self) -> Command {
        let settings = self.path("containers.conf");
        // Both limits of each the same: this Podman takes the one for the other.
        let text = "[containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n\
                    [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
        std::fs::write(&settings, text).expect("the directory is ours");
        let registries = self.path("registries.conf");
        let text = "unqualified-search-registries = []\n[[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n";
        if !registries.exists() {
            std::fs::write(&registries, text).expect("the directory is ours");
        }
        let policy = self.path("policy.json");
        std::fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).expect("the directory is ours");
        let mut command = self.podman_command();
        command.args(["system", "service", "--time", "0", &self.host()]);
        command
    }

    fn podman_command(&self) -> Command {
        let mut command = Command::new("podman");
        command
            .env("CONTAINERS_CONF", self.path("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"))
            .env("TMPDIR", self.directory.path())
            .arg("--root")
            .arg(self.path("root"))
            .arg("--runroot")
            .arg(self.path("run"))
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--tmpdir"])
            .arg(self.path("tmp"));
        if !nix::unistd::geteuid().is_root() {
            command
                .env("HOME", self.directory.path())
                .env("XDG_RUNTIME_DIR", self.directory.path());
        }
        command
    }

    /// Says that this registry speaks without TLS. Docker knows that of every one on loopback.
    pub fn trust(&mut self, registry: &str) {
        if self.name == "podman" {
            let text = format!(
                "unqualified-search-registries = []\n[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n"
            );
            std::fs::write(self.path("registries.conf"), text).expect("the directory is ours");
            self.stop();
            self.start();
        }
    }

    /// Ends the engine in its own way. What it runs goes on.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.signal(Signal::SIGTERM);
        let until = Instant::now() + PATIENCE;
        while process.ended().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the engine without a word. What it runs goes on.
    pub fn kill(&mut self) {
        self.process = None;
        signal(&self.path("exec/containerd/containerd.pid"), Signal::SIGKILL);
    }

    /// Holds the engine still: its socket takes calls, and nobody answers.
    pub fn freeze(&self) {
        self.process.as_ref().expect("it runs").signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.process.as_ref().expect("it runs").signal(Signal::SIGCONT);
    }

    /// The last lines of what it logged.
    pub fn log(&self) -> String {
        crate::process::tail(&self.path("log"), 30)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        signal(&self.path("exec/containerd/containerd.pid"), Signal::SIGTERM);
        // Keeps an ordinary user's namespace between calls.
        for pause in ["tmp/pause.pid", "libpod/tmp/pause.pid"] {
            signal(&self.path(pause), Signal::SIGKILL);
        }
        // What a test left running has this place in its arguments, or its files in it.
        let own = self.directory.path().as_os_str().as_encoded_bytes().to_owned();
        for pid in pids() {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if arguments.windows(own.len()).any(|part| part == own) {
                let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        end_containers(self.directory.path());
        for mount in mounts(self.directory.path()) {
            let _gone = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Ends what runs on a root filesystem of this engine's, and removes its control groups.
fn end_containers(directory: &Path) {
    let mut groups = Vec::new();
    for pid in pids() {
        let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let mut roots = table.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(3);
            let (from, to) = (words.next()?, words.next()?);
            (to == "/").then_some(from)
        });
        if !roots.any(|from| Path::new(from).starts_with(directory)) {
            continue;
        }
        let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.extend(own.lines().map(str::to_owned));
        let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    }
    groups.sort_unstable();
    groups.dedup();
    let until = Instant::now() + PATIENCE;
    for line in groups {
        let Some((kind, path)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(':')) else {
            continue;
        };
        let hierarchy = if kind.is_empty() {
            "unified"
        } else {
            kind.trim_start_matches("name=")
        };
        let place = format!("/sys/fs/cgroup/{hierarchy}{path}");
        // Busy until the kernel has taken the last process away. On version 2 alone it is elsewhere.
        let other = format!("/sys/fs/cgroup{path}");
        for place in [place, other].iter().filter(|_| path.len() > 1) {
            while std::fs::remove_dir(place).is_err_and(|error| error.kind() == std::io::ErrorKind::ResourceBusy)
                && Instant::now() < until
            {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Whether this user may lend numbers to users of its containers.
fn has_others() -> bool {
    let user = nix::unistd::geteuid();
    let name = nix::unistd::User::from_uid(user).ok().flatten().map(|user| user.name);
    let known = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let mut owners = known.lines().filter_map(|line| line.split(':').next());
    owners.any(|owner| owner == user.to_string() || Some(owner) == name.as_deref())
}

fn signal(file: &Path, signal: Signal) {
    let pid = std::fs::read_to_string(file)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    if let Some(pid) = pid {
        let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

fn pids() -> Vec<i32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// What is mounted below, deepest first.
fn mounts(below: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from);
    let mut all: Vec<PathBuf> = places.filter(|place| place.starts_with(below)).collect();
    all.reverse();
    all
}

/// Processes that have something open below, apart from this one.
fn at(below: &Path) -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let holds = |pid: &i32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut files = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        files.any(|file| file.starts_with(below))
    };
    pids().into_iter().filter(|pid| *pid != own && holds(pid)).collect()
}

/// What is left below: command lines of processes that have something open there, and mounts.
pub fn holders(below: &Path) -> Vec<String> {
    let line = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("{pid}: {}", String::from_utf8_lossy(&line).replace('\0', " "))
    };
    let mounts = mounts(below);
    let mounts = mounts.iter().map(|place| format!("a mount at {}", place.display()));
    at(below).into_iter().map(line).chain(mounts).collect()
}

/// Ends what a sandbox below still runs, as a test that failed leaves it: its helper takes it along.
pub(crate) fn end_sandboxes(directory: &Path) {
    if std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        for pid in at(directory) {
            let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A program by its name, where a shell would find it.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A tar of a root filesystem with a shell and its usual commands, made of a static busybox.
pub fn busybox(directory: &Path) -> Result<PathBuf, String> {
    let busybox = which("busybox").ok_or("needs busybox-static; tests/engines/setup.sh installs it")?;
    let root = directory.join("rootfs");
    let bin = root.join("bin");
    let make = || -> std::io::Result<()> {
        for part in ["bin", "etc", "tmp", "proc", "dev", "sys", "workspace", "home"] {
            std::fs::create_dir_all(root.join(part))?;
        }
        // As in any image; an engine may take over the mode for what it mounts there.
        std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
        std::fs::copy(&busybox, bin.join("busybox"))?;
        let applets = Command::new(&busybox).arg("--list").output()?.stdout;
        for applet in String::from_utf8_lossy(&applets)
            .lines()
            .filter(|name| *name != "busybox")
        {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/home:/bin/sh\n",
        )?;
        std::fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")
    };
    make().map_err(|error| format!("needs an image: {error}"))?;
    let tar = directory.join("busybox.tar");
    let made = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .args(["--owner=0", "--group=0"])
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    if !made.is_ok_and(|status| status.success()) {
        return Err("needs tar".into());
    }
    Ok(tar)
}
