//! Runs one program that fetches or keeps a secret, and leaves nothing of it behind.
//!
//! A process group of its own, a deadline, a bound on its output, an environment made for it. When it is over,
//! however that came, the whole group is killed: a helper that it left behind cannot hold our pipe or live on with
//! what it knows. Input and output are wiped from memory.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

/// What is looked at of its complaints.
const COMPLAINTS: usize = 4 * 1024;
/// How long a pipe may stay open after the program has gone; then somebody outside its group holds it.
const AFTER_EXIT: Duration = Duration::from_millis(500);
/// Where programs are looked for if our own environment does not say.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin";
/// What a program may know of our environment: who and where it is, never a secret.
const KEPT: [&str; 13] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
];

#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub path: OsString,
    pub arguments: Vec<OsString>,
    /// Beside what every program gets.
    pub environment: Vec<(OsString, OsString)>,
    pub input: Option<Zeroizing<Vec<u8>>>,
    pub deadline: Duration,
    pub most: usize,
}

pub(crate) struct ProgramOutput {
    pub output: Zeroizing<Vec<u8>>,
    /// Only to tell kinds of failures apart, never to be shown: it may quote what it was about.
    pub complaints: Zeroizing<Vec<u8>>,
    pub status: ExitStatus,
}

#[derive(Debug)]
pub(crate) enum ProgramError {
    Missing,
    NotAllowed,
    /// The system would not start it.
    Start,
    Timeout,
    TooMuch,
}

impl Program {
    pub fn new(path: impl AsRef<OsStr>, deadline: Duration) -> Program {
        Program {
            path: path.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            input: None,
            deadline,
            most: 64 * 1024,
        }
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Program {
        self.arguments
            .extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub async fn run(self) -> Result<ProgramOutput, ProgramError> {
        let until = Instant::now() + self.deadline;
        let mut group = self.start()?;
        let child = &mut group.child;
        let (input, stdin) = (self.input, child.stdin.take());
        let (output, complaints) = (child.stdout.take(), child.stderr.take());
        // On a task of their own, so that what was read is there even if the pipe never closes.
        let output = tokio::spawn(read(output.expect("asked for"), self.most, Excess::Stop));
        let complaints = tokio::spawn(read(complaints.expect("asked for"), COMPLAINTS, Excess::Swallow));
        let written = tokio::spawn(async move {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // A program that does not want it all says so by its exit.
                let _ = stdin.write_all(&input).await;
            }
        });
        let ended = timeout_at(until, async {
            let too_much = async {
                // Only too much output ends the reading before the program has ended by itself.
                match output.await {
                    Ok(read) => read,
                    Err(_) => Read::Whole(Zeroizing::default()),
                }
            };
            tokio::pin!(too_much);
            let mut early = None;
            let status = loop {
                tokio::select! {
                    status = group.child.wait() => break status.map_err(|_| ProgramError::Start)?,
                    read = &mut too_much, if early.is_none() => match read {
                        Read::TooMuch => return Err(ProgramError::TooMuch),
                        Read::Whole(_) => early = Some(read),
                    },
                }
            };
            group.kill();
            let read = match early {
                Some(read) => read,
                None => tokio::time::timeout(AFTER_EXIT, too_much)
                    .await
                    .map_err(|_| ProgramError::Timeout)?,
            };
            match read {
                Read::Whole(output) => Ok((status, output)),
                Read::TooMuch => Err(ProgramError::TooMuch),
            }
        })
        .await
        .unwrap_or(Err(ProgramError::Timeout));
        written.abort();
        group.kill();
        let (status, output) = ended?;
        let complaints = match tokio::time::timeout(AFTER_EXIT, complaints).await {
            Ok(Ok(Read::Whole(text))) => text,
            _ => Zeroizing::default(),
        };
        Ok(ProgramOutput {
            output,
            complaints,
            status,
        })
    }

    fn start(&self) -> Result<Group, ProgramError> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env_clear().env("PATH", PATH);
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .current_dir(Path::new("/"))
            .process_group(0)
            .stdin(if self.input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ProgramError::Missing,
            io::ErrorKind::PermissionDenied => ProgramError::NotAllowed,
            _ => ProgramError::Start,
        })?;
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Group { child, leader })
    }
}

/// Kills all of it when dropped, so also when whoever waited went away.
struct Group {
    child: Child,
    // Taken by the first kill: the number may be somebody else's afterwards.
    leader: Option<Pid>,
}

impl Group {
    fn kill(&mut self) {
        if let Some(leader) = self.leader.take() {
            // ESRCH: nobody is left.
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

enum Read {
    Whole(Zeroizing<Vec<u8>>),
    TooMuch,
}

#[derive(Clone, Copy)]
enum Excess {
    Stop,
    Swallow,
}

/// The buffer never grows, so no copy of a part is left behind in memory.
async fn read(mut pipe: impl AsyncRead + Unpin, most: usize, excess: Excess) -> Read {
    let mut text = Zeroizing::new(Vec::with_capacity(most + 1));
    let mut piece = Zeroizing::new([0; 4096]);
    loop {
        match pipe.read(&mut piece[..]).await {
            Ok(0) | Err(_) => return Read::Whole(text),
            Ok(count) => {
                let room = most - text.len();
                text.extend_from_slice(&piece[..count.min(room)]);
                if count > room && matches!(excess, Excess::Stop) {
                    return Read::TooMuch;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh", PATIENCE).args(["-c", script])
    }

    async fn gone(pid: i32) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let state = fs::read_to_string(format!("/proc/{pid}/stat"));
            // A zombie is dead; whoever inherits it reaps it.
            if state.is_err() || state.is_ok_and(|state| state.contains(") Z")) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    }

    fn pid_in(path: &PathBuf) -> i32 {
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    #[tokio::test]
    async fn it_says_what_it_has_and_knows_nothing_of_ours() {
        let said = shell("cat; env; echo complaint >&2; exit 3").env("GIVEN", "yes");
        let said = Program {
            input: Some(Zeroizing::new(b"given\n".to_vec())),
            ..said
        };
        let said = said.run().await.unwrap();
        let text = std::str::from_utf8(&said.output).unwrap();
        assert!(text.starts_with("given\n") && text.contains("GIVEN=yes"), "{text}");
        // Cargo gives every test this one.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        assert!(!text.contains("CARGO"), "{text}");
        assert_eq!(
            (said.status.code(), &said.complaints[..]),
            (Some(3), &b"complaint\n"[..])
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        // The child ignores what can be ignored, and its parent waits for it.
        let script = format!(
            "(trap '' TERM INT HUP; echo $$ >/dev/null; sh -c 'echo $$ >{0}.new; mv {0}.new {0}; sleep 1000') & wait",
            file.display()
        );
        let running = tokio::spawn(
            Program {
                deadline: Duration::from_secs(3),
                ..shell(&script)
            }
            .run(),
        );
        assert!(matches!(running.await.unwrap(), Err(ProgramError::Timeout)));
        assert!(gone(pid_in(&file)).await);
    }

    #[tokio::test]
    async fn nobody_who_waits_leaves_it_running() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("echo $$ >{0}.new; mv {0}.new {0}; sleep 1000", file.display());
        let running = tokio::spawn(shell(&script).run());
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running.abort();
        assert!(gone(pid_in(&file)).await);
    }

    #[tokio::test]
    async fn what_it_leaves_behind_does_not_hold_us() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}; echo secret", file.display());
        let said = shell(&script).run().await.unwrap();
        assert_eq!(&said.output[..], b"secret\n");
        assert!(gone(pid_in(&file)).await);
    }

    #[tokio::test]
    async fn too_much_is_refused() {
        let endless = shell("while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done")
            .run()
            .await;
        assert!(matches!(endless, Err(ProgramError::TooMuch)));
        let quiet = shell("i=0; while [ $i -lt 9000 ]; do echo complaint >&2; i=$((i+1)); done; echo ok")
            .run()
            .await;
        assert_eq!(&quiet.unwrap().output[..], b"ok\n");
    }

    #[tokio::test]
    async fn what_cannot_start_is_told_apart() {
        let missing = Program::new("/nowhere/at/all", PATIENCE).run().await;
        assert!(matches!(missing, Err(ProgramError::Missing)));
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = Program::new(file.path(), PATIENCE).run().await;
        assert!(matches!(refused, Err(ProgramError::NotAllowed)));
    }
}
