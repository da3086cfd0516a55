//! Finds the helper `nexus-sandbox` and executes it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use nexus_sandbox::{Access, Failed, Join, Report, Request, Run, Started};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{Config, Error, ExecOutput, Result};

const NAME: &str = "nexus-sandbox";
const ENGINE: &str = "sandbox";
/// Longest that setting up a sandbox may take before it is given up.
const START: Duration = Duration::from_secs(60);
/// Longest between the order to die and the end.
const DEATH: Duration = Duration::from_secs(10);

pub fn failed(why: impl ToString) -> Error {
    Error::Failed {
        engine: ENGINE,
        why: why.to_string(),
    }
}

pub fn unusable(why: impl ToString) -> Error {
    Error::Unusable {
        engine: ENGINE,
        why: why.to_string(),
    }
}

/// The one that is named, else beside the running program, else in `NEXUS_BIN_DIR`, else in `PATH`.
pub fn find(config: &Config) -> Result<PathBuf> {
    if let Some(path) = &config.helper {
        let why = || unusable(format!("there is no {}", path.display()));
        return path.is_file().then(|| path.clone()).ok_or_else(why);
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| own.parent().map(Path::to_path_buf));
    // Tests and examples lie one directory below the programs.
    let above = beside.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let named = std::env::var_os("NEXUS_BIN_DIR").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = beside
        .into_iter()
        .chain(named)
        .chain(above)
        .chain(std::env::split_paths(&path));
    let mut candidates = places.filter(|dir| dir.is_absolute()).map(|dir| dir.join(NAME));
    candidates.find(|candidate| candidate.is_file()).ok_or_else(|| {
        unusable(format!(
            "its helper {NAME} is neither beside this program, nor in NEXUS_BIN_DIR, nor in PATH"
        ))
    })
}

fn command(helper: &Path) -> Command {
    let mut command = Command::new(helper);
    command.env_clear().current_dir("/");
    command
}

/// A helper that runs a sandbox, and what it said of it.
pub struct Running {
    pub helper: Helper,
    pub started: Started,
}

pub struct Helper {
    child: Child,
    reports: BufReader<ChildStdout>,
}

impl Helper {
    /// Until how it ended is written down, or it is gone without. What it takes down after that nobody waits for.
    pub async fn done(mut self) -> std::io::Result<()> {
        let mut line = String::new();
        self.reports.read_line(&mut line).await?;
        if matches!(serde_json::from_str(&line), Ok(Report::Exited(_))) {
            tokio::spawn(async move { self.child.wait().await });
            return Ok(());
        }
        self.child.wait().await.map(drop)
    }
}

pub async fn run(helper: &Path, run: &Run) -> Result<Running> {
    let mut child = command(helper)
        .args(["--status-fd", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| unusable(format!("{}: {error}", helper.display())))?;
    match timeout(START, first_report(&mut child, run)).await {
        Ok(Ok((started, reports))) => Ok(Running {
            helper: Helper { child, reports },
            started,
        }),
        Ok(Err(error)) => {
            end(&mut child).await;
            Err(error)
        }
        Err(_) => {
            end(&mut child).await;
            Err(Error::Timeout {
                engine: ENGINE,
                doing: "set up a sandbox",
                after: START,
            })
        }
    }
}

async fn end(child: &mut Child) {
    let _ = timeout(Duration::from_millis(200), child.wait()).await;
    let _ = child.start_kill();
    let _ = timeout(DEATH, child.wait()).await;
}

async fn first_report(child: &mut Child, run: &Run) -> Result<(Started, BufReader<ChildStdout>)> {
    let mut line = serde_json::to_vec(&Request::Run(Box::new(run.clone()))).map_err(failed)?;
    line.push(b'\n');
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&line).await.map_err(failed)?;
    drop(stdin);
    let mut reports = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    reports.read_line(&mut line).await.map_err(failed)?;
    match serde_json::from_str(&line) {
        Ok(Report::Started(started)) => Ok((started, reports)),
        Ok(Report::Failed(why)) => Err(refused(&why)),
        Ok(Report::Exited(_) | Report::Allowed) => Err(failed("it ended before it began")),
        Err(error) => Err(failed(format!("the helper said {line:?}: {error}"))),
    }
}

/// What the caller can change is the caller's mistake.
pub fn refused(why: &Failed) -> Error {
    match why.step.as_str() {
        "access" => Error::Denied(why.to_string()),
        "spec" | "mount" | "workdir" | "exec" | "limits" => Error::Invalid(why.to_string()),
        "namespaces" | "user-namespace" | "landlock" | "seccomp" | "proc" => unusable(why),
        _ => failed(why),
    }
}

/// What is kept of an output.
struct Kept {
    bytes: Vec<u8>,
    dropped: bool,
}

pub struct Order<'a> {
    pub join: Join,
    pub stdin: Option<Bytes>,
    pub max_output: usize,
    pub timeout: Option<Duration>,
    /// A directory for the request, which may hold secrets, and the answer.
    pub dir: &'a Path,
    /// Unique in it.
    pub id: &'a str,
}

/// One more command in a sandbox.
pub async fn join(helper: &Path, order: Order<'_>) -> Result<ExecOutput> {
    let files = Files {
        spec: order.dir.join(format!("exec-{}.json", order.id)),
        status: order.dir.join(format!("exec-{}.status", order.id)),
    };
    let name = format!("exec-{}.json", order.id);
    super::record::write(order.dir, &name, &Request::Join(Box::new(order.join))).map_err(failed)?;
    let mut child = command(helper)
        .arg("--spec-file")
        .arg(&files.spec)
        .arg("--status-file")
        .arg(&files.status)
        .stdin(if order.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| unusable(format!("{}: {error}", helper.display())))?;
    let input = (child.stdin.take(), order.stdin);
    let feed = async {
        if let (Some(mut stdin), Some(bytes)) = input {
            // A command that does not read its input is no failure.
            let _ = stdin.write_all(&bytes).await;
        }
    };
    let budget = std::sync::atomic::AtomicUsize::new(order.max_output);
    let (over, ended) = tokio::sync::watch::channel(());
    let out = keep(child.stdout.take().expect("piped"), &budget, ended.clone());
    let err = keep(child.stderr.take().expect("piped"), &budget, ended.clone());
    let pid = child.id();
    let mut timed_out = false;
    let waited = async {
        let status = child.wait().await;
        drop(over);
        status
    };
    let fed = async {
        let mut ended = ended;
        tokio::select! {
            () = feed => {}
            _closed = ended.changed() => {}
        }
    };
    let mut all = std::pin::pin!(async { tokio::join!(fed, out, err, waited) });
    let until = order.timeout.map(|timeout| Instant::now() + timeout);
    let first = match until {
        Some(until) => timeout_at(until, &mut all).await.ok(),
        None => Some((&mut all).await),
    };
    let ((), out, err, status) = match first {
        Some(done) => done,
        None => {
            timed_out = true;
            if let Some(pid) = pid.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::USR2);
            }
            timeout(DEATH, &mut all)
                .await
                .map_err(|_| failed("a command that was killed does not end"))?
        }
    };
    let code = status.map_err(failed)?.code().unwrap_or(137);
    let said = std::fs::read_to_string(&files.status).unwrap_or_default();
    if let Some(Ok(Report::Failed(why))) = said.lines().next().map(serde_json::from_str) {
        return Err(refused(&why));
    }
    Ok(ExecOutput {
        code,
        stdout: out.bytes.into(),
        stderr: err.bytes.into(),
        truncated: out.dropped || err.dropped,
        timed_out,
    })
}

/// Everything is read, so that the command never waits; so much is kept. Once the command has ended, what it wrote is in
/// the pipe: what it left in the background may hold that open, and is not waited for.
async fn keep(
    mut from: impl AsyncRead + Unpin,
    budget: &std::sync::atomic::AtomicUsize,
    mut ended: tokio::sync::watch::Receiver<()>,
) -> Kept {
    use std::sync::atomic::Ordering;
    let mut kept = Kept {
        bytes: Vec::new(),
        dropped: false,
    };
    let mut buffer = vec![0; 64 << 10];
    let mut rest = None;
    loop {
        let read = match rest {
            None => tokio::select! {
                read = from.read(&mut buffer) => read,
                _closed = ended.changed() => {
                    rest = Some(PIPE);
                    continue;
                }
            },
            Some(0) => break,
            Some(_) => match timeout(QUIET, from.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => break,
            },
        };
        let Ok(length @ 1..) = read else { break };
        rest = rest.map(|rest: usize| rest.saturating_sub(length));
        let left = budget.load(Ordering::Relaxed);
        let take = length.min(left);
        budget.store(left - take, Ordering::Relaxed);
        kept.bytes.extend_from_slice(&buffer[..take]);
        kept.dropped |= take < length;
    }
    kept
}

/// The most that a pipe holds.
const PIPE: usize = 1 << 20;
/// What is in a pipe is read at once; after so long there is nothing.
const QUIET: Duration = Duration::from_millis(20);

struct Files {
    spec: PathBuf,
    status: PathBuf,
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.spec);
        let _ = std::fs::remove_file(&self.status);
    }
}

/// Whether a user of the host may use these paths, as the kernel judges it: the helper looks with that user's rights.
pub async fn access(helper: &Path, access: Access) -> Result<()> {
    let mut child = command(helper)
        .args(["--status-fd", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| unusable(format!("{}: {error}", helper.display())))?;
    let mut line = serde_json::to_vec(&Request::Access(access)).map_err(failed)?;
    line.push(b'\n');
    let mut stdin = child.stdin.take().expect("piped");
    let asked = async {
        stdin.write_all(&line).await?;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = timeout(START, asked)
        .await
        .map_err(|_| unusable("its look at a path does not end"))?;
    let output = output.map_err(failed)?;
    match serde_json::from_slice(&output.stdout) {
        Ok(Report::Allowed) => Ok(()),
        Ok(Report::Failed(why)) => Err(refused(&why)),
        Ok(Report::Started(_) | Report::Exited(_)) => Err(failed("the helper answered out of turn")),
        Err(error) => Err(failed(format!("the helper's answer cannot be read: {error}"))),
    }
}

pub async fn probe(helper: &Path) -> Result<nexus_sandbox::Probe> {
    let run = command(helper)
        .arg("--probe")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(START, run)
        .await
        .map_err(|_| unusable("its probe does not end"))?;
    let output = output.map_err(|error| unusable(format!("{}: {error}", helper.display())))?;
    serde_json::from_slice(&output.stdout).map_err(|error| unusable(format!("its probe cannot be read: {error}")))
}
