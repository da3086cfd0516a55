//! Daemons with a tree and sockets of their own, ended by pid when they go out of sight.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::ready;

/// How long anything may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(20);

pub const DAEMONS: [&str; 4] = ["orchestrator", "llm", "agent", "gateway"];

/// One NEXUS_ROOT in a directory that goes with it.
#[derive(Debug)]
pub struct TempRoot {
    bin: PathBuf,
    dir: TempDir,
}

impl TempRoot {
    /// In `under`, so that every store of a run lies on the same disk.
    pub fn new(bin: &Path, under: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("n").tempdir_in(under)?;
        Ok(TempRoot {
            bin: bin.to_path_buf(),
            dir,
        })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the daemon listens. The agent's socket has its name too.
    pub fn socket(&self, daemon: &str) -> PathBuf {
        match daemon {
            "orchestrator" => self.path().join("o.sock"),
            "agent" => self.path().join("state/run/agent-assistant.sock"),
            other => self.path().join(format!("state/run/{other}.sock")),
        }
    }

    /// A command that works in this tree.
    pub fn command(&self, binary: &str) -> Command {
        let mut command = Command::new(self.bin.join(binary));
        command
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NEXUS_ROOT", self.path())
            .env("NEXUS_BIN_DIR", &self.bin)
            .env("GRPC_SOCKET_PATH", self.socket("orchestrator"))
            .stdin(Stdio::null());
        command
    }

    /// Starts a daemon; it may not be ready yet.
    pub fn spawn(&self, daemon: &'static str) -> Result<Running> {
        let log = self.path().join(format!("{daemon}.err"));
        let file = File::create(&log)?;
        let binary = format!("nexus-{daemon}");
        let mut command = self.command(&binary);
        let child = command.stdout(Stdio::null()).stderr(file).spawn();
        Ok(Running {
            child: child.with_context(|| format!("failed to start {binary}; build it first"))?,
            socket: self.socket(daemon),
            log,
        })
    }

    /// Starts a worker of this name; it may not be ready yet.
    pub fn spawn_worker(&self, name: &'static str) -> Result<Running> {
        let log = self.path().join(format!("{name}.err"));
        let file = File::create(&log)?;
        let mut command = self.command("nexus-agent");
        command.args(["--role", "worker", "--name", name]);
        let child = command.stdout(Stdio::null()).stderr(file).spawn();
        Ok(Running {
            child: child.context("failed to start nexus-agent; build it first")?,
            socket: self.path().join(format!("state/run/agent-{name}.sock")),
            log,
        })
    }

    /// Starts a daemon and waits until it serves.
    pub async fn start(&self, daemon: &'static str) -> Result<Running> {
        let mut running = self.spawn(daemon)?;
        running.ready().await?;
        Ok(running)
    }
}

/// A process of ours; killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pub socket: PathBuf,
    log: PathBuf,
}

impl Running {
    /// The yardstick server, from this very program.
    pub fn echo(under: &Path, answer_bytes: usize) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("e").tempdir_in(under)?.keep();
        let (socket, log) = (dir.join("s"), dir.join("err"));
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("echo").arg("--socket").arg(&socket);
        command.arg("--answer-bytes").arg(answer_bytes.to_string());
        let child = command.stdin(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        Ok(Running { child, socket, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The time that its threads have spent on a processor. Unlike the clock it hardly hears of other processes.
    pub fn cpu(&self) -> Result<Duration> {
        let mut spent = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // A thread may have ended since the list was made.
            let said = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            spent += said.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(spent))
    }

    /// Waits until something accepts on its socket.
    pub async fn listening(&mut self) -> Result<()> {
        let begin = Instant::now();
        while tokio::net::UnixStream::connect(&self.socket).await.is_err() {
            self.alive(begin)?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Waits until its health says that it serves.
    pub async fn ready(&mut self) -> Result<()> {
        let begin = Instant::now();
        while !ready::serves(&self.socket, "").await {
            self.alive(begin)?;
            tokio::time::sleep(ready::LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Waits until it knows a part by this health name, as the front door knows its daemons.
    pub async fn knows(&mut self, part: &str) -> Result<()> {
        let begin = Instant::now();
        while !ready::serves(&self.socket, part).await {
            self.alive(begin)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn alive(&mut self, begin: Instant) -> Result<()> {
        let said = || fs::read_to_string(&self.log).unwrap_or_default();
        if let Some(status) = self.child.try_wait()? {
            bail!("{} did not start, {status}: {}", self.socket.display(), said().trim());
        }
        if begin.elapsed() > PATIENCE {
            bail!(
                "{} was not ready in {PATIENCE:?}: {}",
                self.socket.display(),
                said().trim()
            );
        }
        Ok(())
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begin.elapsed() > PATIENCE {
                bail!("{} did not stop in {PATIENCE:?}", self.socket.display());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and that is fine.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
