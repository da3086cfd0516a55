//! Runs the helper as one user or the other.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use nexus_sandbox::{Caller, Join, Mount, Report, Request, Run, Source};

/// Who runs the helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum As {
    Root,
    Ordinary,
}

const ORDINARY: u32 = 1001;

/// Everybody that this test run can be.
pub fn everybody() -> Vec<As> {
    if !rustix::process::geteuid().is_root() {
        skipped("as root: the tests are not run by root");
        return vec![As::Ordinary];
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        skipped("as an ordinary user: setpriv (util-linux) is missing");
        return vec![As::Root];
    }
    vec![As::Root, As::Ordinary]
}

pub fn skipped(what: &str) {
    println!("skipped: {what}");
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "nothing may be skipped here: {what}"
    );
}

/// Where everybody can execute it.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BINARY.get_or_init(|| {
        let dir = place();
        let path = dir.path().join("nexus-sandbox");
        // By another process: a child that another test starts meanwhile would inherit the open copy, and a file that is
        // open for writing cannot be executed.
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_nexus-sandbox"))
            .arg(&path)
            .status();
        assert!(copied.unwrap().success());
        (dir, path)
    });
    path
}

/// A directory that everybody can look into.
pub fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// A directory that belongs to this user, with one file `mine`, by its real path.
pub fn own_dir(user: As) -> (tempfile::TempDir, PathBuf) {
    let dir = place();
    fs::write(dir.path().join("mine"), "mine\n").unwrap();
    if user == As::Ordinary && rustix::process::geteuid().is_root() {
        for path in [dir.path().to_path_buf(), dir.path().join("mine")] {
            std::os::unix::fs::chown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
    }
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

/// The user whose directory [`own_dir`] makes.
pub fn own(user: As) -> Caller {
    let own = rustix::process::geteuid().as_raw();
    let uid = if user == As::Ordinary && own == 0 {
        ORDINARY
    } else {
        own
    };
    Caller {
        uid,
        gid: uid,
        groups: Vec::new(),
    }
}

/// As this user, and with a bound on processes that holds even if the sandbox does not.
pub fn command(user: As) -> Command {
    let mut command = Command::new("prlimit");
    command.args(["--nproc=2000:2000", "--"]);
    if user == As::Ordinary && rustix::process::geteuid().is_root() {
        let id = ORDINARY.to_string();
        command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    command.arg(binary());
    command
}

pub fn shell(script: &str) -> Run {
    let mut run = Run::new(["/bin/sh", "-c", script]);
    run.env = vec![("PATH".into(), "/usr/bin:/bin:/usr/sbin:/sbin".into())];
    run
}

pub fn python(script: &str) -> Run {
    let mut run = Run::new(["python3", "-c", script]);
    run.env = vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())];
    run
}

pub fn mount(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        source: Source::Path(source.into()),
        target: target.into(),
        read_only,
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub reports: Vec<Report>,
}

pub fn run(user: As, run: Run) -> Done {
    request(user, &Request::Run(Box::new(run)))
}

pub fn join(user: As, join: Join) -> Done {
    request(user, &Request::Join(Box::new(join)))
}

pub fn request(user: As, request: &Request) -> Done {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let status = dir.path().join("status");
    let mut child = command(user)
        .arg("--status-file")
        .arg(&status)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    send(&mut child, request);
    let Output {
        status: code,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let lines = fs::read_to_string(&status).unwrap_or_default();
    Done {
        code: code.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        reports: lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    }
}

pub fn send(child: &mut std::process::Child, request: &Request) {
    let mut line = serde_json::to_vec(request).unwrap();
    line.push(b'\n');
    child.stdin.take().unwrap().write_all(&line).unwrap();
}

impl Done {
    /// It ran to its end, whatever that was.
    #[track_caller]
    pub fn ran(self) -> Done {
        assert!(matches!(self.reports.last(), Some(Report::Exited(_))), "{self:#?}");
        self
    }

    /// The step that failed.
    #[track_caller]
    pub fn failed(&self) -> &str {
        match &self.reports[..] {
            [Report::Failed(failed)] => &failed.step,
            _ => panic!("it did not fail: {self:#?}"),
        }
    }

    #[track_caller]
    pub fn prints(self, expected: &str) {
        assert_eq!(self.stdout.trim(), expected, "{self:#?}");
    }
}
