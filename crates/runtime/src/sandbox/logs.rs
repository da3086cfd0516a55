//! Reads the log that a helper writes: stored lines first, then new ones.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nexus_sandbox::log::{Record as Entry, parse, read_more, segment, segments};
use tokio::sync::mpsc;

use super::record::{Life, Record, time};
use crate::{Chunk, Chunks, Error, LogOptions, Source};

/// Entries under way to a reader.
const AHEAD: usize = 64;
/// A reader that follows looks again after this; the helper tells nobody when it writes.
const PAUSE: Duration = Duration::from_millis(20);
const READ: usize = 256 << 10;
const DROPPED: &str = "nexus: older output was dropped because the log is limited\n";

pub fn stream(record: Arc<Record>, options: LogOptions) -> Chunks {
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        if let Err(error) = send(&record, &options, &sender).await {
            let why = format!("failed to read the log: {error}");
            let _ = sender.send(Err(super::helper::failed(why))).await;
        }
    });
    Box::pin(futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context)
    }))
}

type Sender = mpsc::Sender<Result<Chunk, Error>>;

async fn send(record: &Record, options: &LogOptions, sender: &Sender) -> io::Result<()> {
    let mut reader = Reader::new(record.dir.clone());
    if let Some(tail) = options.tail {
        for entry in reader.tail(tail)? {
            if !give(entry, options, sender).await {
                return Ok(());
            }
        }
    }
    loop {
        // Asked before reading: what was written before the end is read after it.
        let over = !options.follow || !matches!(record.life()?, Life::Running(_));
        loop {
            let (entries, gap) = reader.next()?;
            if gap && options.tail.is_none() && options.since.is_none() {
                let note = Chunk {
                    source: Source::Stderr,
                    bytes: DROPPED.into(),
                };
                if sender.send(Ok(note)).await.is_err() {
                    return Ok(());
                }
            }
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if !give(entry, options, sender).await {
                    return Ok(());
                }
            }
        }
        if over {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

/// False: nobody listens any more.
async fn give(entry: Entry, options: &LogOptions, sender: &Sender) -> bool {
    if options.since.is_some_and(|since| time(entry.at_ms) <= since) {
        return true;
    }
    let source = if entry.stderr { Source::Stderr } else { Source::Stdout };
    let bytes = entry.bytes.into();
    sender.send(Ok(Chunk { source, bytes })).await.is_ok()
}

/// Goes through the files of a log.
struct Reader {
    dir: PathBuf,
    /// The next file, or the one that is open.
    number: u64,
    file: Option<File>,
    pending: Vec<u8>,
}

impl Reader {
    fn new(dir: PathBuf) -> Reader {
        Reader {
            dir,
            number: 0,
            file: None,
            pending: Vec::new(),
        }
    }

    /// Some entries, none if there are none yet; and whether some before them are lost.
    fn next(&mut self) -> io::Result<(Vec<Entry>, bool)> {
        let mut gap = false;
        loop {
            let Some(file) = &mut self.file else {
                let numbers = segments(&self.dir)?;
                let Some(next) = numbers.into_iter().find(|number| *number >= self.number) else {
                    return Ok((Vec::new(), gap));
                };
                gap |= next > self.number;
                self.number = next;
                match File::open(segment(&self.dir, next)) {
                    Ok(file) => self.file = Some(file),
                    // Removed in between.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                continue;
            };
            // Asked before reading: a file that has a successor is not written to any more.
            let finished = segments(&self.dir)?.last().is_some_and(|last| *last > self.number);
            let read = read_more(file, &mut self.pending, READ)?;
            let (entries, used) = parse(&self.pending).unwrap_or_default();
            self.pending.drain(..used);
            if !entries.is_empty() {
                return Ok((entries, gap));
            }
            if read == 0 && finished {
                self.file = None;
                self.number += 1;
                self.pending.clear();
                continue;
            }
            if read == 0 {
                return Ok((entries, gap));
            }
        }
    }

    /// The newest lines, and where to go on after them.
    fn tail(&mut self, lines: usize) -> io::Result<Vec<Entry>> {
        let mut kept: VecDeque<Entry> = VecDeque::new();
        let mut count = 0;
        loop {
            let (entries, _) = self.next()?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                count += newlines(&entry);
                kept.push_back(entry);
            }
            // As long as what remains has enough lines, whatever the first one holds.
            while kept.front().is_some_and(|first| count - newlines(first) > lines) {
                count -= kept.pop_front().map_or(0, |first| newlines(&first));
            }
        }
        let open_line = kept.back().is_some_and(|last| last.bytes.last() != Some(&b'\n'));
        let mut excess = (count + usize::from(open_line)).saturating_sub(lines);
        while excess > 0 {
            let Some(first) = kept.front_mut() else { break };
            match first.bytes.iter().position(|byte| *byte == b'\n') {
                Some(at) => {
                    first.bytes.drain(..=at);
                    excess -= 1;
                }
                None => first.bytes.clear(),
            }
            if first.bytes.is_empty() {
                kept.pop_front();
            }
        }
        Ok(kept.into())
    }
}

fn newlines(entry: &Entry) -> usize {
    entry.bytes.iter().filter(|byte| **byte == b'\n').count()
}
