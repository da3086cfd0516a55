//! One more command in a running container.

use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::{Docker, convert, read};
use crate::{Error, ExecOutput, ExecSpec, Result, Source};

/// The output may end a moment before the engine knows the exit code.
const CODE_TRIES: u32 = 200;
const CODE_PAUSE: Duration = Duration::from_millis(25);

impl Docker {
    /// The API has no way to end such a command: one whose time is over goes on until the container ends.
    pub(super) async fn exec_in(&self, id: &str, exec: ExecSpec) -> Result<ExecOutput> {
        let limit = exec.output_limit();
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
        let timed_out = match exec.timeout {
            Some(timeout) => match tokio::time::timeout(timeout, talk).await {
                Ok(done) => done.map(|()| false)?,
                Err(_) => true,
            },
            None => talk.await.map(|()| false)?,
        };
        let code = if timed_out { 137 } else { self.exec_code(&made).await? };
        Ok(gathered.output(code, timed_out))
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
