//! Blobs: written to a file as they come, counted against the size that the manifest names, resumed where the connection
//! broke off, and compared with their digest in the end.

use std::fs::File;
use std::io::{Seek, Write};

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{Client, Failure, PAUSES, failure};
use crate::Progress;
use crate::images::document::Descriptor;
use crate::images::layers;

/// Bytes between two reports of progress.
const STEP: u64 = 1 << 20;
/// How often one blob is asked for, however far each try came.
const MAX_TRIES: u32 = 32;

/// Receives the progress of one blob.
pub struct ProgressReport<'a> {
    pub progress: Option<&'a mpsc::Sender<Progress>>,
    pub what: String,
    /// Bytes.
    pub total: u64,
}

impl ProgressReport<'_> {
    /// Sends it if the receiver keeps up.
    pub fn say(&self, status: &str, bytes: u64) {
        if let Some(progress) = self.progress {
            let _ = progress.try_send(Progress {
                what: self.what.clone(),
                status: status.into(),
                bytes,
                total: self.total,
            });
        }
    }
}

/// What of a blob is in its file.
struct Partial<'a> {
    file: &'a File,
    size: u64,
    done: u64,
    hash: Sha256,
}

impl Partial<'_> {
    fn restart(&mut self) -> Result<(), Failure> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(disk)?;
        (self.done, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let length = piece.len() as u64;
        if length > self.size - self.done {
            return Err(Failure::Final("a blob is larger than its manifest says".into()));
        }
        self.file.write_all(piece).map_err(disk)?;
        self.hash.update(piece);
        self.done += length;
        Ok(())
    }
}

fn disk(error: std::io::Error) -> Failure {
    Failure::Final(format!("a blob cannot be stored: {error}"))
}

impl Client {
    /// Fetches a blob into an empty file, which is left at its end.
    pub async fn blob(&self, descriptor: &Descriptor, file: &File, told: &ProgressReport<'_>) -> Result<(), Failure> {
        let digest = &descriptor.digest;
        if layers::hex(digest).is_none() {
            return Err(Failure::Final("the manifest names a digest that is not SHA-256".into()));
        }
        let mut partial = Partial {
            file,
            size: descriptor.size,
            done: 0,
            hash: Sha256::new(),
        };
        let (mut pauses, mut tries) = (PAUSES.iter(), 1);
        loop {
            let before = partial.done;
            let failed = match self.rest(digest, &mut partial, told).await {
                Ok(()) => break,
                Err(Failure::Passing(why) | Failure::Unreachable(why)) => why,
                Err(other) => return Err(other),
            };
            if partial.done > before {
                pauses = PAUSES.iter();
            }
            let pause = pauses.next().filter(|_| tries < MAX_TRIES);
            let Some(pause) = pause else {
                let (done, size) = (partial.done, partial.size);
                return Err(Failure::Passing(format!(
                    "{failed}; a layer broke off at {done} of {size} bytes, and {tries} tries did not end it"
                )));
            };
            tracing::debug!(%digest, done = partial.done, why = %failed, "a blob broke off; it is resumed");
            tokio::time::sleep(*pause).await;
            tries += 1;
        }
        let found = layers::text(partial.hash);
        if found != *digest {
            return Err(Failure::Final(format!("a blob has digest {found}, not {digest}")));
        }
        Ok(())
    }

    /// One try: from where the last one broke off to the end.
    async fn rest(&self, digest: &str, partial: &mut Partial<'_>, told: &ProgressReport<'_>) -> Result<(), Failure> {
        if partial.done == partial.size && partial.done > 0 {
            return Ok(());
        }
        let mut response = self.rest_of_blob(digest, partial.done).await?;
        match response.status() {
            StatusCode::OK if partial.done > 0 => partial.restart()?,
            StatusCode::OK => {}
            StatusCode::PARTIAL_CONTENT if starts_at(&response, partial.done) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if partial.done > 0 => {
                partial.restart()?;
                return Err(Failure::Passing("the registry resumes a blob elsewhere".into()));
            }
            _ => return Err(failure::answered("a blob", response).await),
        }
        let mut said = partial.done;
        while let Some(piece) = response.chunk().await? {
            partial.take(&piece)?;
            if partial.done - said >= STEP {
                said = partial.done;
                told.say("downloading", partial.done);
            }
        }
        match partial.done == partial.size {
            true => Ok(()),
            false => Err(Failure::Passing("a blob ended before its size was reached".into())),
        }
    }
}

/// Whether a part begins at this byte.
fn starts_at(response: &Response, from: u64) -> bool {
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok());
    let start = range
        .and_then(|range| range.strip_prefix("bytes "))
        .and_then(|range| range.split('-').next());
    start.and_then(|start| start.parse().ok()) == Some(from)
}
