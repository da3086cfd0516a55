//! Writes a daemon's standard error to `state/logs/<service>.err.log`, one JSON object per line.
//!
//! It is always read, so that nobody who prints ever waits; what comes too fast is dropped and counted, and the file
//! is never larger than [`LARGEST`], with one older beside it.

use std::{
    fs::{File, OpenOptions},
    io::{self, PipeReader, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use nexus_config::Root;
use tokio::{io::AsyncReadExt, net::unix::pipe};

const LARGEST: u64 = 1 << 20;
/// What is kept of each second.
const RATE: usize = 128 << 10;
/// A longer line is cut into several.
const LONGEST_LINE: usize = 8 << 10;

pub fn path(root: &Root, service: &str) -> PathBuf {
    root.log_dir().join(format!("{service}.err.log"))
}

/// Until everybody who could print there has ended.
pub async fn run(printed: PipeReader, path: PathBuf) {
    let Ok(mut printed) = pipe::Receiver::from_owned_fd(OwnedFd::from(printed)) else {
        return;
    };
    let mut lines = Lines::new(path);
    let mut buffer = vec![0; 4 << 10];
    loop {
        match printed.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => lines.take(&buffer[..read], Instant::now()),
        }
        // One that floods must not keep the others waiting.
        tokio::task::yield_now().await;
    }
    lines.end();
}

struct Lines {
    path: PathBuf,
    file: Option<(File, u64)>,
    begun: Vec<u8>,
    second: Instant,
    kept: usize,
    dropped: usize,
}

impl Lines {
    fn new(path: PathBuf) -> Lines {
        Lines {
            path,
            file: None,
            begun: Vec::new(),
            second: Instant::now(),
            kept: 0,
            dropped: 0,
        }
    }

    fn take(&mut self, bytes: &[u8], now: Instant) {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.kept = 0;
            self.tell_dropped();
        }
        if self.kept + bytes.len() > RATE {
            self.dropped += bytes.len() + self.begun.len();
            self.begun.clear();
            return;
        }
        self.kept += bytes.len();
        for byte in bytes {
            if *byte == b'\n' || self.begun.len() >= LONGEST_LINE {
                self.line();
            }
            if *byte != b'\n' {
                self.begun.push(*byte);
            }
        }
    }

    fn end(&mut self) {
        self.line();
        self.tell_dropped();
    }

    fn line(&mut self) {
        let line = std::mem::take(&mut self.begun);
        let text = String::from_utf8_lossy(&line);
        if !text.trim().is_empty() {
            self.write("WARN", text.trim_end());
        }
    }

    fn tell_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.write("ERROR", &format!("printed too much: {dropped} bytes were dropped"));
        }
    }

    /// A disk that is full takes nothing; the daemon must not suffer from it.
    fn write(&mut self, level: &str, message: &str) {
        let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let line = serde_json::json!({
            "timestamp": timestamp, "level": level, "message": message, "target": "stderr",
        });
        let line = format!("{line}\n");
        let _lost = self.append(line.as_bytes());
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let (file, written) = match self.file.take() {
            Some((file, written)) if written + line.len() as u64 <= LARGEST => (file, written),
            Some((_full, _)) => {
                let mut older = self.path.clone().into_os_string();
                older.push(".1");
                std::fs::rename(&self.path, older)?;
                open(&self.path)?
            }
            None => open(&self.path)?,
        };
        let (file, _) = self.file.insert((file, written + line.len() as u64));
        file.write_all(line)
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let written = file.metadata()?.len();
    Ok((file, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.err.log");
        let mut lines = Lines::new(path.clone());
        let begin = Instant::now();
        let chunk = [b'x'; 4 << 10];
        for second in 0..100 {
            for _ in 0..1_000 {
                lines.take(&chunk, begin + Duration::from_secs(second));
            }
        }
        lines.end();
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let mut older = path.clone().into_os_string();
        older.push(".1");
        assert!(size(&path) <= LARGEST && size(Path::new(&older)) <= LARGEST);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("bytes were dropped"), "{}", text.len());
        assert!(
            text.lines()
                .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
        );
    }

    #[test]
    fn lines_come_out_whole_however_they_came_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.err.log");
        let mut lines = Lines::new(path.clone());
        for piece in ["first li", "ne\nsec", "ond \"line\"\n\n", "the end"] {
            lines.take(piece.as_bytes(), Instant::now());
        }
        lines.end();
        let text = std::fs::read_to_string(&path).unwrap();
        let said: Vec<String> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["message"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(said, ["first line", "second \"line\"", "the end"]);
    }
}
