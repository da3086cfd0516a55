//! A command in its container, from its start to its end: its output is followed, its time is limited, its end is written
//! down. It goes on when nobody waits for it, and when the worker goes away.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use nexus_runtime::{Collected, Engine, LogOptions};
use nexus_tools::output::{Collector, Keep, MAX_SPILL_BYTES, Output as Shown, Reading, Spill};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::record::{self, End, Record, left, now_ms};
use super::workbench;
use crate::engine::worker::cancel::Cancel;
use crate::engine::worker::output::Output;

/// Between two looks at output: soon while something comes, later while nothing does.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(50);
/// For output that is on its way when the command has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// For a log that an engine keeps: it is finite once the command has ended.
const DRAIN_LOG: Duration = Duration::from_secs(30);
/// What a look reads of a long output: its beginning and its end, the rest is counted.
const EDGE: u64 = 1 << 20;
const PIECE: usize = 64 << 10;

/// How far a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of output that can be read.
    pub bytes: u64,
    pub end: Option<End>,
}

pub struct Process {
    /// Where its record lies.
    dir: PathBuf,
    record: Mutex<Record>,
    progress: watch::Sender<Progress>,
    kill: Cancel,
    /// Where its output is kept once it has ended.
    spill: PathBuf,
    /// Where the engine collects it before.
    collected: Mutex<Option<Collected>>,
    /// Who is shown the output as it comes.
    live: Mutex<Option<Output>>,
    /// How much an engine's log had so far, where that is followed.
    written: Mutex<Written>,
    /// One look at a time.
    looking: tokio::sync::Mutex<()>,
    /// How many calls wait for its end.
    waiting: AtomicUsize,
}

/// As long as this lives somebody waits for a process.
pub struct Waiting(Arc<Process>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Process {
    pub fn new(dir: &Path, results: &Path, record: Record) -> Arc<Process> {
        let progress = Progress {
            bytes: record.end.map_or(0, |end| end.kept),
            end: record.end,
        };
        Arc::new(Process {
            dir: dir.into(),
            spill: results.join(&record.call_id),
            record: Mutex::new(record),
            progress: watch::Sender::new(progress),
            kill: Cancel::default(),
            collected: Mutex::default(),
            live: Mutex::default(),
            written: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    pub fn number(&self) -> u64 {
        self.record.lock().number
    }

    /// As a model names it.
    pub fn id(&self) -> String {
        format!("p{}", self.number())
    }

    pub fn record(&self) -> Record {
        self.record.lock().clone()
    }

    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    pub fn is_running(&self) -> bool {
        self.progress().end.is_none()
    }

    /// What is written from now on is shown there too.
    pub fn show(&self, output: Option<Output>) {
        *self.live.lock() = output;
    }

    pub fn waited_for(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting(self.clone())
    }

    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// It is gone, and nobody saw how.
    pub fn end_unseen(&self, end: End) {
        if let Err(error) = self.note(|record| record.end = Some(end)) {
            tracing::warn!(%error, "the end of a command cannot be recorded");
        }
        self.progress.send_replace(Progress {
            bytes: end.kept,
            end: Some(end),
        });
    }

    pub fn kill(&self, force: bool) {
        self.kill.cancel(force);
    }

    /// Until it has ended, and that is written down.
    pub async fn ended(&self) -> End {
        let mut progress = self.watch();
        let ended = progress.wait_for(|progress| progress.end.is_some()).await;
        ended.ok().and_then(|progress| progress.end).unwrap_or_default()
    }

    /// Changes the record, and writes it.
    pub fn note(&self, change: impl FnOnce(&mut Record)) -> io::Result<()> {
        let mut record = self.record.lock();
        change(&mut record);
        record::save(&self.dir, &record)
    }

    /// Where its output can be read now.
    pub fn output_file(&self) -> PathBuf {
        match &*self.collected.lock() {
            Some(collected) if self.is_running() => collected.output.clone(),
            _ => self.spill.clone(),
        }
    }

    /// Follows it to its end. The container exists, and runs or has run.
    pub async fn supervise(self: Arc<Self>, engine: Arc<dyn Engine>) {
        let (container, deadline, stopped) = {
            let record = self.record.lock();
            (record.container.clone(), record.deadline_ms, Cancel::default())
        };
        let collected = engine.collected(&container);
        self.collected.lock().clone_from(&collected);
        let following = tokio::spawn({
            let (this, engine, container, stopped) = (self.clone(), engine.clone(), container.clone(), stopped.clone());
            async move {
                match collected {
                    Some(collected) => this.follow_file(&collected, &stopped).await,
                    None => this.follow_log(&engine, &container).await,
                }
            }
        });
        let (mut timed_out, mut killed) = (false, false);
        let waited = tokio::select! {
            waited = engine.wait(&container) => Some(waited),
            () = sleep(left(deadline)) => { timed_out = true; None }
            () = self.kill.wanted() => { killed = true; None }
        };
        let waited = match waited {
            Some(waited) => waited,
            None => {
                workbench::end(&engine, &container, self.kill.is_forced()).await;
                engine.wait(&container).await
            }
        };
        stopped.cancel(false);
        let abort = following.abort_handle();
        let within = if self.collected.lock().is_some() {
            DRAIN
        } else {
            DRAIN_LOG
        };
        let _late = timeout(within, following).await;
        abort.abort();
        let mut end = match &waited {
            Ok(exit) => End {
                code: exit.code,
                oom: exit.oom,
                ..End::default()
            },
            Err(error) => {
                tracing::warn!(container, %error, "how a command ended is not known");
                End {
                    code: 137,
                    lost: true,
                    ..End::default()
                }
            }
        };
        (end.timed_out, end.killed, end.at_ms) = (timed_out, killed, now_ms());
        if timed_out {
            end.code = 124;
        }
        let collected = self.collected.lock().clone();
        match collected {
            Some(collected) => self.keep(&collected, &mut end).await,
            None => {
                let written = *self.written.lock();
                (end.bytes, end.newlines, end.kept) = (written.bytes, written.newlines, written.kept);
            }
        }
        if let Err(error) = self.note(|record| record.end = Some(end)) {
            tracing::warn!(container, %error, "the end of a command cannot be recorded");
        }
        self.collected.lock().take();
        self.progress.send_replace(Progress {
            bytes: end.kept,
            end: Some(end),
        });
        self.show(None);
        if let Err(error) = engine.remove(&container, true).await {
            tracing::warn!(container, %error, "the container of a call cannot be removed");
        }
    }

    /// The files of the engine become the spill of the call, and what it counted its figures.
    async fn keep(&self, collected: &Collected, end: &mut End) {
        let (from, to) = (collected.clone(), self.spill.clone());
        let moved = tokio::task::spawn_blocking(move || {
            let written = from.written()?;
            move_file(&from.output, &to)?;
            if from.tail.exists() {
                move_file(&from.tail, &tail_of(&to))?;
            }
            let kept = fs::metadata(&to)?.len();
            Ok::<_, io::Error>((written, kept))
        });
        match moved.await {
            Ok(Ok((Some(written), kept))) => {
                (end.bytes, end.newlines, end.kept) = (written.bytes, written.newlines, kept);
            }
            // Its helper was killed before it could say: what is there is what is known.
            Ok(Ok((None, kept))) => (end.bytes, end.kept, end.lost) = (kept, kept, true),
            Ok(Err(error)) => {
                tracing::warn!(path = %self.spill.display(), %error, "the output of a call cannot be kept")
            }
            Err(error) => tracing::warn!(%error, "the output of a call cannot be kept"),
        }
    }

    fn grown(&self, from: u64, bytes: &[u8]) {
        if let Some(live) = &*self.live.lock() {
            live.push_at(from, bytes);
        }
        self.progress
            .send_modify(|progress| progress.bytes = from + bytes.len() as u64);
    }

    /// Tells what the engine collects, as it grows, until the command has ended and all of it is told.
    async fn follow_file(&self, collected: &Collected, stopped: &Cancel) {
        let mut at = 0;
        let mut pause = FIRST_LOOK;
        let mut buffer = vec![0; PIECE];
        let mut file = None;
        loop {
            // Asked before reading: what was written before the end is read after it.
            let over = stopped.is_wanted();
            let mut any = false;
            if file.is_none() {
                file = File::open(&collected.output).ok();
            }
            if let Some(file) = &mut file {
                // Short reads of what has just been written: from memory.
                while let Ok(read @ 1..) = file.read(&mut buffer) {
                    self.grown(at, &buffer[..read]);
                    at += read as u64;
                    any = true;
                    if read < PIECE {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            if over && !any {
                return;
            }
            pause = if any { FIRST_LOOK } else { (pause * 2).min(LAST_LOOK) };
            tokio::select! {
                () = sleep(pause) => {}
                () = stopped.wanted(), if !over => {}
            }
        }
    }

    /// Writes down what the engine tells: it keeps a log, which is read from its beginning.
    async fn follow_log(&self, engine: &Arc<dyn Engine>, container: &str) {
        let mut written = Written::default();
        let mut tail = std::collections::VecDeque::new();
        let options = LogOptions {
            follow: true,
            ..LogOptions::default()
        };
        let opened = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&self.spill);
        let (mut file, mut chunks) = match (opened, engine.logs(container, options).await) {
            (Ok(file), Ok(chunks)) => (file, chunks),
            (Err(error), _) => {
                tracing::warn!(path = %self.spill.display(), %error, "the output of a call cannot be kept");
                return;
            }
            (_, Err(error)) => {
                tracing::warn!(container, %error, "the output of a call cannot be read");
                return;
            }
        };
        while let Some(Ok(chunk)) = chunks.next().await {
            let bytes = &chunk.bytes[..];
            let room = usize::try_from(MAX_SPILL_BYTES - written.kept).unwrap_or(usize::MAX);
            let take = room.min(bytes.len());
            if file.write_all(&bytes[..take]).is_ok() {
                written.kept += take as u64;
            }
            tail.extend(&bytes[take..]);
            let excess = tail.len().saturating_sub(PIECE);
            tail.drain(..excess);
            written.newlines += newlines(bytes);
            written.bytes += bytes.len() as u64;
            *self.written.lock() = written;
            if take > 0 {
                self.grown(written.kept - take as u64, &bytes[..take]);
            }
        }
        if !tail.is_empty() {
            let _ = fs::write(tail_of(&self.spill), Vec::from(tail));
        }
    }

    /// What was written since the last look, as the model is told; `whole`: since the start, for the result of the call itself,
    /// which may have been told to nobody before its worker died.
    pub async fn look(self: &Arc<Self>, whole: bool) -> io::Result<String> {
        let _one = self.looking.lock().await;
        let this = self.clone();
        let looked = tokio::task::spawn_blocking(move || this.look_now(whole));
        looked.await.map_err(io::Error::other)?
    }

    fn look_now(&self, whole: bool) -> io::Result<String> {
        let progress = self.progress();
        let (from, name) = {
            let record = self.record.lock();
            (
                if whole { 0 } else { record.told_bytes },
                format!("result:{}", record.call_id),
            )
        };
        let mut shown = match File::open(self.output_file()) {
            Ok(file) => read_since(&file, from, progress.bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Collector::new(Keep::Ends, Reading::Terminal).finish()
            }
            Err(error) => return Err(error),
        };
        if let Some(end) = progress.end.filter(|end| end.bytes > end.kept) {
            shown = self.beyond(shown, from, &end)?;
        }
        self.note(|record| record.told_bytes = progress.bytes)?;
        Ok(shown.render(Some(Spill {
            name: &name,
            kept_bytes: progress.bytes,
        })))
    }

    /// The output was more than is kept: its end is in a file of its own, and what lies between was counted.
    fn beyond(&self, before: Shown, from: u64, end: &End) -> io::Result<Shown> {
        let mut collector = Collector::new(Keep::Ends, Reading::Terminal);
        let file = File::open(&self.spill)?;
        feed(&mut collector, &file, from, end.kept.min(from + EDGE))?;
        let tail = fs::read(tail_of(&self.spill)).unwrap_or_default();
        collector.push(&tail);
        let mut shown = collector.finish();
        let open = tail.last().is_some_and(|byte| *byte != b'\n');
        let bytes = end.bytes - from;
        let lines = end.newlines - count(&file, 0, from)? + u64::from(open);
        (shown.total.bytes, shown.total.lines) = (
            shown.total.bytes + (bytes - shown.written.bytes.min(bytes)),
            lines.max(before.total.lines),
        );
        (shown.written.bytes, shown.written.lines) = (bytes, lines);
        Ok(shown)
    }
}

/// How much an engine's log had.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    bytes: u64,
    newlines: u64,
    kept: u64,
}

/// The newest of what was too much to be kept lies beside what was.
pub fn tail_of(spill: &Path) -> PathBuf {
    spill.with_extension("tail")
}

fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        // On another file system.
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => fs::copy(from, to).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::create(to).map(drop),
        moved => moved,
    }
}

/// Output from one place to another: all of it, or its beginning and its end with exact figures of the rest.
fn read_since(file: &File, from: u64, to: u64) -> io::Result<Shown> {
    let mut collector = Collector::new(Keep::Ends, Reading::Terminal);
    if to.saturating_sub(from) <= 4 * EDGE {
        feed(&mut collector, file, from, to)?;
        return Ok(collector.finish());
    }
    feed(&mut collector, file, from, from + EDGE)?;
    let skipped = (to - EDGE) - (from + EDGE);
    let lines = count(file, from + EDGE, to - EDGE)?;
    feed(&mut collector, file, to - EDGE, to)?;
    let mut shown = collector.finish();
    for size in [&mut shown.written, &mut shown.total] {
        size.bytes += skipped;
        size.lines += lines;
    }
    Ok(shown)
}

fn feed(collector: &mut Collector, file: &File, from: u64, to: u64) -> io::Result<()> {
    pieces(file, from, to, |bytes| collector.push(bytes))
}

fn count(file: &File, from: u64, to: u64) -> io::Result<u64> {
    let mut lines = 0;
    pieces(file, from, to, |bytes| lines += newlines(bytes))?;
    Ok(lines)
}

fn pieces(mut file: &File, from: u64, to: u64, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    file.seek(SeekFrom::Start(from))?;
    let mut file = file.take(to.saturating_sub(from));
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => each(&buffer[..read]),
        }
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_output_is_counted_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o");
        let line = b"0123456789abcdef\n";
        fs::write(&path, line.repeat(400_000)).unwrap();
        let bytes = (line.len() * 400_000) as u64;
        let shown = read_since(&File::open(&path).unwrap(), 0, bytes).unwrap();
        assert_eq!((shown.written.bytes, shown.written.lines), (bytes, 400_000));
        let text = shown.render(None);
        assert!(
            text.lines().next().unwrap().contains("400000 lines in all"),
            "{}",
            text.lines().next().unwrap()
        );
        let rest = read_since(&File::open(&path).unwrap(), bytes - 34, bytes).unwrap();
        assert_eq!(rest.written.lines, 2);
    }
}
