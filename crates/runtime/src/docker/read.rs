//! Reads the output of a container, and its resource usage.

use std::collections::VecDeque;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bollard::container::LogOutput;
use bollard::query_parameters::{LogsOptions, StatsOptions};
use bytes::{Buf, Bytes};
use futures_core::Stream;
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use super::probe::Kind;
use super::{Docker, convert};
use crate::{Chunk, Chunks, Error, LogOptions, Result, Source, State, Stats};

impl Docker {
    pub(super) async fn read_logs(&self, id: &str, options: LogOptions) -> Result<Chunks> {
        // An unknown container would be told in the middle of the stream.
        self.inspect_it(id).await?;
        if options.follow && self.kind == Kind::Podman {
            return Ok(self.follow_podman(id, &options));
        }
        let live = Box::pin(self.chunks(id, &options));
        if !options.follow || options.tail.is_some() {
            return Ok(live);
        }
        // An engine ends the stream of a follower with its container, also where that has not read everything yet.
        let rest = LogOptions {
            follow: false,
            ..options
        };
        let reading = Reading {
            live: Some(live),
            rest: Box::pin(self.chunks(id, &rest)),
            seen: [0, 0],
        };
        Ok(Box::pin(futures_util::stream::unfold(
            reading,
            |mut reading| async move { reading.next().await.map(|chunk| (chunk, reading)) },
        )))
    }

    /// Podman's own follower drops lines of a container that writes fast, and never says so. What it reads once is whole:
    /// so it is read again and again, with pauses that grow with what a reading takes.
    fn follow_podman(&self, id: &str, options: &LogOptions) -> Chunks {
        let (send, receive) = mpsc::channel(FOLLOWED);
        let (reader, id) = (self.again(), id.to_owned());
        let (tail, once) = (
            options.tail,
            LogOptions {
                follow: false,
                tail: None,
                ..options.clone()
            },
        );
        tokio::spawn(async move {
            tokio::select! {
                () = send.closed() => {}
                followed = reader.follow_by_reading(&id, &once, tail, &send) => if let Err(error) = followed {
                    let _gone = send.send(Err(error)).await;
                }
            }
        });
        let chunks = futures_util::stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|chunk| (chunk, receive))
        });
        Box::pin(chunks)
    }

    async fn follow_by_reading(
        &self,
        id: &str,
        once: &LogOptions,
        tail: Option<usize>,
        to: &mpsc::Sender<Result<Chunk>>,
    ) -> Result<()> {
        let mut seen = [0, 0];
        let mut newest = tail.map(|_| VecDeque::new());
        loop {
            // Looked at before the reading: what was written until then is in it.
            let over = !matches!(
                self.inspect_it(id).await?.state,
                State::Created | State::Running | State::Paused
            );
            let begun = Instant::now();
            let mut known = seen;
            let mut chunks = Box::pin(self.chunks(id, once));
            while let Some(chunk) = chunks.next().await {
                let mut chunk = chunk?;
                let known = &mut known[chunk.source as usize];
                let skipped = chunk.bytes.len().min(*known);
                *known -= skipped;
                chunk.bytes.advance(skipped);
                seen[chunk.source as usize] += chunk.bytes.len();
                if chunk.bytes.is_empty() {
                    continue;
                }
                match (&mut newest, tail) {
                    (Some(newest), Some(lines)) => {
                        newest.push_back(chunk);
                        if newest.len() > lines {
                            newest.pop_front();
                        }
                    }
                    // A reader that went away ends this from outside.
                    _ => drop(to.send(Ok(chunk)).await),
                }
            }
            for chunk in newest.take().into_iter().flatten() {
                let _gone = to.send(Ok(chunk)).await;
            }
            if over {
                return Ok(());
            }
            tokio::time::sleep((begun.elapsed() * 2).max(FOLLOW_PAUSE)).await;
        }
    }

    fn chunks(&self, id: &str, options: &LogOptions) -> impl Stream<Item = Result<Chunk>> + Send + use<> {
        let since = options.since.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let asked = LogsOptions {
            follow: options.follow,
            stdout: true,
            stderr: true,
            since: since.map_or(0, |at| i32::try_from(at.as_secs()).unwrap_or(i32::MAX)),
            tail: options.tail.map_or_else(|| "all".into(), |lines| lines.to_string()),
            ..LogsOptions::default()
        };
        let name = self.kind.name();
        let (client, id) = (self.client.clone(), id.to_owned());
        // Asked for when it is first read.
        futures_util::stream::once(async move { client.logs(&id, Some(asked)) })
            .flatten()
            .map_ok(chunk)
            .map_err(move |error| convert::failed(name, error))
    }

    pub(super) async fn read_stats(&self, id: &str) -> Result<Stats> {
        let options = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let mut stats = Box::pin(self.client.stats(id, Some(options)));
        let found = match stats.next().await {
            Some(Ok(found)) => convert::stats(&found),
            Some(Err(error)) => return Err(self.failed_at(id, error)),
            None => Stats::default(),
        };
        // What does not run is answered with zeros.
        if found.cpu.is_zero() && found.memory_bytes == 0 && self.inspect_it(id).await?.state != State::Running {
            return Err(Error::State {
                id: id.into(),
                why: "is not running".into(),
            });
        }
        if !self.counts {
            return Err(Error::Unsupported {
                engine: self.kind.name(),
                what: "report resource usage: for an ordinary user that needs control groups of version 2".into(),
            });
        }
        Ok(found)
    }
}

/// Chunks that a follower may be behind.
const FOLLOWED: usize = 64;
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// A follower's stream, and what it left out.
struct Reading {
    live: Option<Chunks>,
    rest: Chunks,
    /// Bytes of stdout and stderr that were given.
    seen: [usize; 2],
}

impl Reading {
    async fn next(&mut self) -> Option<Result<Chunk>> {
        if let Some(live) = &mut self.live {
            if let Some(chunk) = live.next().await {
                if let Ok(chunk) = &chunk {
                    self.seen[chunk.source as usize] += chunk.bytes.len();
                }
                return Some(chunk);
            }
            self.live = None;
        }
        loop {
            let mut chunk = match self.rest.next().await? {
                Ok(chunk) => chunk,
                error => return Some(error),
            };
            let seen = &mut self.seen[chunk.source as usize];
            let known = chunk.bytes.len().min(*seen);
            *seen -= known;
            chunk.bytes.advance(known);
            if !chunk.bytes.is_empty() {
                return Some(Ok(chunk));
            }
        }
    }
}

pub(super) fn chunk(output: LogOutput) -> Chunk {
    let (source, bytes): (Source, Bytes) = match output {
        LogOutput::StdErr { message } => (Source::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            (Source::Stdout, message)
        }
    };
    Chunk { source, bytes }
}
