//! Shows the progress of long work, and lets the user cancel it.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    failure::{Exit, Failure},
    output::Output,
};

const BETWEEN: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Progress {
    stop: Arc<AtomicBool>,
    shown: bool,
    what: String,
    done: u64,
    total: u64,
    last: Instant,
    wrote: bool,
}

impl Progress {
    /// Begins a step that processes this many bytes.
    pub fn begin(&mut self, what: &str, total: u64) {
        self.clear();
        (self.what, self.done, self.total) = (what.to_owned(), 0, total);
    }

    /// So many bytes more are done; fails once it is to stop.
    pub fn add(&mut self, bytes: u64) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        self.done += bytes;
        if self.shown && self.last.elapsed() >= BETWEEN {
            self.last = Instant::now();
            self.wrote = true;
            let line = format!(
                "{}: {} of {}",
                self.what,
                size(self.done),
                size(self.total.max(self.done))
            );
            let _gone = write!(io::stderr(), "\r\x1b[K{line}");
        }
        Ok(())
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.wrote) {
            let _gone = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Bytes as people say them.
pub fn size(bytes: u64) -> String {
    let units = [
        (1_u64 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// Runs work that blocks on a thread of its own. SIGINT stops it at its next step, so that it can clean up.
pub async fn run<T: Send + 'static>(
    output: &Output,
    work: impl FnOnce(&mut Progress) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut progress = Progress {
        stop: stop.clone(),
        shown: !output.json && io::stderr().is_terminal(),
        what: String::new(),
        done: 0,
        total: 0,
        last: Instant::now(),
        wrote: false,
    };
    let mut job = tokio::task::spawn_blocking(move || work(&mut progress));
    loop {
        tokio::select! {
            done = &mut job => {
                let done = done.map_err(|_| Failure::new(Exit::Failed, "the work broke off"))?;
                return match done {
                    Err(_) if stop.load(Ordering::Relaxed) => Err(Failure::new(Exit::Interrupted, "interrupted; nothing was changed")),
                    done => done,
                };
            }
            _ = tokio::signal::ctrl_c() => stop.store(true, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_one_digit_behind_the_point() {
        assert_eq!(
            [size(0), size(1023), size(1536), size(5 << 30)],
            ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
        );
    }
}
