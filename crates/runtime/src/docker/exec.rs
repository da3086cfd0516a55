//! Runs a command in a running container.

use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::{Docker, convert, end, read};
use crate::{Error, ExecOutput, ExecSpec, Result, Source};

/// The output may end a moment before the engine knows the exit code.
const CODE_TRIES: u32 = 200;
const CODE_PAUSE: Duration = Duration::from_millis(25);
/// How soon is looked whether it has ended while its output is open, and how often later.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_millis(500);
/// For output that is still on its way when the command has ended.
const REST: Duration = Duration::from_millis(200);

impl Docker {
    /// Returns when the command ends, whatever it left running. The API has no way to end a command: see [`end`].
    pub(super) async fn exec_in(&self, id: &str, mut exec: ExecSpec) -> Result<ExecOutput> {
        let limit = exec.output_limit();
        let mark = end::Mark::new()?;
        exec.env.insert(end::VARIABLE.into(), mark.value().into());
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let config = ExecConfig {
            attach_stdin: Some(exec.stdin.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(exec.command.clone()),
            env: Some(exec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            working_dir: text(&exec.working_dir),
            user: text(&exec.user),
            ..ExecConfig::default()
        };
        let made = self.client.create_exec(id, config).await;
        let made = made.map_err(|error| self.failed_at(id, error))?.id;
        let started = self
            .client
            .start_exec(&made, None)
            .await
            .map_err(|error| match convert::answered(&error) {
                Some((400 | 500, why)) if convert::is_bad_command(why) => Error::Invalid(convert::bad_command(why)),
                _ => self.failed_at(id, error),
            })?;
        let StartExecResults::Attached { mut output, mut input } = started else {
            return Err(Error::Failed {
                engine: self.kind.name(),
                why: "it did not attach to the command".into(),
            });
        };
        let mut gathered = Gathered::new(limit);
        let talk = async {
            let feed = async {
                if let Some(stdin) = exec.stdin {
                    // A command may end without reading all of it.
                    let _ended = input.write_all(&stdin).await;
                    let _ended = input.shutdown().await;
                }
            };
            let read = async {
                while let Some(piece) = output.next().await {
                    gathered.push(read::chunk(piece.map_err(|error| self.failed(error))?));
                }
                Ok::<(), Error>(())
            };
            tokio::join!(feed, read).1
        };
        let ended = async {
            let mut talk = std::pin::pin!(talk);
            tokio::select! {
                done = &mut talk => done?,
                ended = self.exec_ended(&made) => {
                    ended?;
                    // What it wrote is on its way; what it left in the background may hold the stream open for ever.
                    if let Ok(done) = tokio::time::timeout(REST, talk).await {
                        done?;
                    }
                }
            }
            self.exec_code(&made).await
        };
        let code = match exec.timeout {
            Some(timeout) => tokio::time::timeout(timeout, ended).await.ok().transpose()?,
            None => Some(ended.await?),
        };
        if code.is_none() {
            self.end_exec(id, &made, &mark).await?;
        }
        Ok(gathered.output(code.unwrap_or(137), code.is_none()))
    }

    /// Until the engine says that it does not run any more.
    async fn exec_ended(&self, exec: &str) -> Result<()> {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
            let found = self
                .client
                .inspect_exec(exec)
                .await
                .map_err(|error| self.failed(error))?;
            if found.running == Some(false) && found.exit_code.is_some() {
                return Ok(());
            }
        }
    }

    async fn exec_code(&self, exec: &str) -> Result<i32> {
        for _ in 0..CODE_TRIES {
            let found = self
                .client
                .inspect_exec(exec)
                .await
                .map_err(|error| self.failed(error))?;
            match (found.running, found.exit_code) {
                (Some(true), _) | (_, None) => tokio::time::sleep(CODE_PAUSE).await,
                (_, Some(code)) => return Ok(i32::try_from(code).unwrap_or(-1)),
            }
        }
        Err(Error::Failed {
            engine: self.kind.name(),
            why: "it does not know how the command ended".into(),
        })
    }
}

/// Output up to a limit; the rest is read and dropped, so that the command can go on.
#[derive(Debug)]
struct Gathered {
    left: usize,
    stdout: BytesMut,
    stderr: BytesMut,
    truncated: bool,
}

impl Gathered {
    fn new(limit: usize) -> Self {
        Gathered {
            left: limit,
            stdout: BytesMut::new(),
            stderr: BytesMut::new(),
            truncated: false,
        }
    }

    fn push(&mut self, chunk: crate::Chunk) {
        let kept = chunk.bytes.len().min(self.left);
        self.truncated |= kept < chunk.bytes.len();
        self.left -= kept;
        let into = match chunk.source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
        };
        into.extend_from_slice(&chunk.bytes[..kept]);
    }

    fn output(self, code: i32, timed_out: bool) -> ExecOutput {
        ExecOutput {
            code,
            stdout: Bytes::from(self.stdout),
            stderr: Bytes::from(self.stderr),
            truncated: self.truncated,
            timed_out,
        }
    }
}
