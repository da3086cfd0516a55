//! A Debian of its own with systemd as its init, booted from a tree that many share and none changes.
//!
//! The programs under test lie in `/usr/local/bin` there. What a test writes is in memory, and gone with the container.

use std::{
    fmt, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use nexus_tests::{PATIENCE, binary, skipped};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub const OLD: &str = "bookworm";
pub const NEW: &str = "trixie";

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Who runs a command in there.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    Root,
    /// Has a manager of her own from boot on.
    Ada,
    /// A member of no group of ours.
    Bob,
}

pub struct Container {
    nspawn: Child,
    /// Process 1 of the container, as the host counts.
    init: i32,
    groups: Vec<PathBuf>,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Container {
    /// `None` if containers cannot be had here: the test is then among the skipped ones.
    pub fn boot(test: &str) -> Option<Container> {
        Container::boot_tree(test, OLD)
    }

    pub fn boot_tree(test: &str, suite: &str) -> Option<Container> {
        match ready(suite) {
            Ok(tree) => Some(start(&tree)),
            Err(missing) => {
                skipped(&format!("systemd::{test}"), &missing);
                None
            }
        }
    }

    /// A line for the shell.
    pub fn try_run(&self, who: Who, line: &str) -> Output {
        let init = self.init.to_string();
        let mut command = Command::new("nsenter");
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command.args([
            "--target", &init, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
        ]);
        command.args(["--root", "--wd", "--"]);
        match who {
            Who::Root => command.env("HOME", "/root").args(["sh", "-c", line]),
            Who::Ada => as_user(&mut command, "ada", 1000, line),
            Who::Bob => as_user(&mut command, "bob", 1001, line),
        };
        command.output().expect("nsenter can be run")
    }

    /// A line that must work; gives what it prints.
    pub fn run(&self, who: Who, line: &str) -> String {
        let output = self.try_run(who, line);
        let said = Said(&output);
        assert!(output.status.success(), "{line}\n{said}\n{}", self.journal());
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Looks until it holds.
    pub fn until(&self, what: &str, holds: impl Fn(&Container) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < until,
                "{what}: not after {PATIENCE:?}\n{}",
                self.journal()
            );
            sleep(LOOK_AGAIN);
        }
    }

    /// A property of a unit.
    pub fn property(&self, who: Who, unit: &str, property: &str) -> String {
        let user = if matches!(who, Who::Root) { "" } else { "--user" };
        self.run(
            who,
            &format!("systemctl {user} show --value --property={property} {unit}"),
        )
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("the folder can be made");
        fs::write(path, text).expect("the file can be written");
    }

    /// A path in there as the host reaches it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    pub fn journal(&self) -> String {
        let output = self.try_run(Who::Root, "journalctl --no-pager --lines=60 --output=short-monotonic");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Its namespace and everything in it goes with its first process.
        let _gone = kill(Pid::from_raw(self.init), Signal::SIGKILL);
        let _status = self.nspawn.wait();
        for group in &self.groups {
            remove_group(group);
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

const PATH: &str = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";

fn as_user<'a>(command: &'a mut Command, name: &str, uid: u32, line: &str) -> &'a mut Command {
    let id = uid.to_string();
    command
        .env("HOME", format!("/home/{name}"))
        .env("USER", name)
        .env("XDG_RUNTIME_DIR", format!("/run/user/{uid}"))
        .args([
            "setpriv",
            "--reuid",
            &id,
            "--regid",
            &id,
            "--init-groups",
            "sh",
            "-c",
            line,
        ])
}

/// The tree, or what is missing.
fn ready(suite: &str) -> Result<PathBuf, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("needs root, to boot a container".into());
    }
    if !Path::new("/usr/bin/systemd-nspawn").exists() {
        return Err("needs systemd-nspawn (systemd-container)".into());
    }
    let own = std::env::current_exe().expect("the path of this test is known");
    // target/<profile>/deps/<test>
    let target = own.ancestors().nth(3).expect("tests lie in target/<profile>/deps");
    let tree = target.join("ci/systemd").join(suite);
    if !tree.join("etc/nexus-test-tree").exists() {
        return Err(format!("needs a tree of Debian {suite}: tests/systemd/setup.sh"));
    }
    Ok(tree)
}

fn start(tree: &Path) -> Container {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("nexus-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = tempfile::Builder::new()
        .prefix("nexus-")
        .tempdir()
        .expect("a folder can be made");
    let log = folder.path().join("console");
    let groups = groups(&name);
    let programs = binary("nexus");
    let programs = programs
        .parent()
        .expect("a program lies in a folder")
        .display()
        .to_string();

    // A shell first: it enters the groups before nspawn makes its own below them.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "for group; do [ \"$group\" = -- ] && break; echo $$ >\"$group/cgroup.procs\"; shift; done; shift; exec \"$@\"",
        "sh",
    ]);
    command.args(&groups).arg("--").arg("systemd-nspawn");
    command.args([
        "--quiet",
        "--boot",
        "--volatile=overlay",
        "--private-network",
        "--console=pipe",
        "--register=no",
    ]);
    if !groups.is_empty() {
        command.arg("--keep-unit").env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
    }
    command.arg("--directory").arg(tree).args(["--machine", &name]);
    command.arg(format!("--bind-ro={programs}:/usr/local/bin"));
    let console = fs::File::create(&log).expect("the console's log can be written");
    command
        .stdin(Stdio::null())
        .stdout(console.try_clone().expect("a handle can be doubled"))
        .stderr(console)
        .process_group(0);
    let nspawn = command.spawn().expect("a shell can be run");
    let mut container = Container {
        nspawn,
        init: 0,
        groups,
        log,
        _folder: folder,
    };
    container.wait();
    container
}

impl Container {
    fn wait(&mut self) {
        let until = Instant::now() + PATIENCE;
        let pid = self.nspawn.id();
        let children = format!("/proc/{pid}/task/{pid}/children");
        loop {
            let console = fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = self.nspawn.try_wait().expect("it is our own child") {
                panic!("systemd-nspawn ended: {status}\n{console}");
            }
            let child = fs::read_to_string(&children).unwrap_or_default();
            self.init = child.trim().parse().unwrap_or(0);
            let up = "systemctl is-system-running 2>/dev/null | grep -qx 'running\\|degraded' && \
                      systemctl is-active --quiet user@1000.service";
            if self.init > 0
                && self.path("/run/systemd/private").exists()
                && self.try_run(Who::Root, up).status.success()
            {
                return;
            }
            assert!(Instant::now() < until, "not booted after {PATIENCE:?}\n{console}");
            sleep(LOOK_AGAIN);
        }
    }
}

/// Control groups of its own, where no systemd gives them out.
fn groups(name: &str) -> Vec<PathBuf> {
    if Path::new("/run/systemd/system").exists() {
        return Vec::new();
    }
    let all = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];
    let made = all
        .iter()
        .filter(|folder| Path::new(folder).join("cgroup.procs").exists())
        .map(|folder| {
            let group = Path::new(folder).join(name);
            fs::create_dir(&group).expect("a control group can be made");
            group
        });
    made.collect()
}

fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    // The last process leaves it a moment after it is gone.
    let until = Instant::now() + PATIENCE;
    while fs::remove_dir(group).is_err() && group.exists() && Instant::now() < until {
        sleep(LOOK_AGAIN);
    }
}

struct Said<'a>(&'a Output);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes);
        write!(f, "{}\n{}{}", self.0.status, text(&self.0.stdout), text(&self.0.stderr))
    }
}

impl Container {
    /// Settings of Ada's own beside a unit of hers, in force from now on.
    pub fn amend(&self, unit: &str, text: &str) {
        let path = format!("/home/ada/.config/systemd/user/{unit}.d/test.conf");
        self.write(&path, text);
        self.run(Who::Root, "chown -R ada: /home/ada/.config");
        self.run(Who::Ada, "systemctl --user daemon-reload");
    }

    /// The same for a unit of the system.
    pub fn amend_system(&self, unit: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/{unit}.d/test.conf"), text);
        self.run(Who::Root, "systemctl daemon-reload");
    }

    pub fn pid(&self, who: Who, unit: &str) -> u32 {
        self.property(who, unit, "MainPID").parse().expect("a number")
    }

    pub fn is_active(&self, who: Who, unit: &str) -> bool {
        self.property(who, unit, "ActiveState") == "active"
    }
}
