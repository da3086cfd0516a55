//! `read_file`: text with a header, an image, or what a binary file is.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use nexus_tools::output::{MAX_LINE_CHARS, MAX_RESULT_BYTES};
use nexus_tools::{Code, Error};
use nexus_walk::Kind;
use sha2::{Digest, Sha256};

use super::place::Opened;
use crate::engine::worker::outcome::{Told, key};

/// The largest image that is passed on.
const IMAGE_BYTES: u64 = 5 << 20;
/// So much of a file is read, to count and to hash it.
const READ_BYTES: u64 = 256 << 20;
/// A file whose beginning has a NUL is no text.
const LOOKED_AT: usize = 8 << 10;
/// For the header.
const HEADER_BYTES: usize = 1 << 10;
const LINES: usize = 2_000;

/// What was read, and the hash of all of it.
pub struct Content {
    pub told: Told,
    /// `None`: the file is too large to be hashed.
    pub hash: Option<String>,
}

pub fn read(opened: Opened, first: u64, limit: u64) -> Result<Content, Error> {
    let Opened {
        mut file, meta, shown, ..
    } = opened;
    if meta.kind == Kind::Dir {
        return Err(Error::new(Code::InvalidArguments, format!("{shown:?} is a directory")).with_next("Use list_dir."));
    }
    if meta.kind != Kind::File {
        return Err(Error::new(
            Code::NotAllowed,
            format!("{shown:?} is {}, not a file", meta.kind.name()),
        ));
    }
    let unreadable =
        |error: std::io::Error| Error::new(Code::Unavailable, format!("{shown:?} cannot be read: {error}"));
    let mut head = vec![0; LOOKED_AT];
    let length = fill(&mut file, &mut head).map_err(unreadable)?;
    head.truncate(length);
    if let Some(media_type) = image(&head) {
        if meta.bytes > IMAGE_BYTES {
            return Err(Error::new(
                Code::TooLarge,
                format!(
                    "the image {shown:?} has {} bytes, {IMAGE_BYTES} can be read",
                    meta.bytes
                ),
            ));
        }
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(IMAGE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
        let hash = nexus_tools::edit::hash(&bytes);
        let mut told = Told::text(format!("[{shown}: {media_type}, {} bytes, sha256 {hash}]", bytes.len()));
        told.image = Some((media_type, bytes));
        return Ok(Content { told, hash: Some(hash) });
    }
    if head.contains(&0) {
        let text = format!("[{shown}: {}, {} bytes; it is no text]", binary(&head), meta.bytes);
        return Ok(Content {
            told: Told::text(text),
            hash: None,
        });
    }
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let first = first.max(1);
    let wanted = usize::try_from(limit).unwrap_or(LINES).clamp(1, LINES);
    let text = Text::of(file, first, wanted).map_err(unreadable)?;
    Ok(text.told(&shown, first))
}

fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// Some lines of a file, and the figures of all of it.
struct Text {
    shown: String,
    shown_lines: u64,
    lines: u64,
    bytes: u64,
    hash: Option<String>,
}

impl Text {
    fn of(file: File, first: u64, wanted: usize) -> std::io::Result<Text> {
        let mut lines = Lines {
            first,
            wanted,
            shown: String::new(),
            shown_lines: 0,
            full: false,
            number: 1,
            line: Vec::new(),
            rest: 0,
            any: false,
        };
        let mut hash = Sha256::new();
        let mut bytes = 0;
        let mut buffer = vec![0; 64 << 10];
        let mut file = file.take(READ_BYTES + 1);
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
            hash.update(&buffer[..read]);
            lines.push(&buffer[..read]);
        }
        lines.end();
        Ok(Text {
            shown: lines.shown,
            shown_lines: lines.shown_lines,
            lines: lines.number - 1,
            bytes,
            hash: (bytes <= READ_BYTES).then(|| hex::encode(hash.finalize())),
        })
    }

    fn told(self, shown: &str, first: u64) -> Content {
        let whole = self.hash.is_some();
        let mut header = format!(
            "[{shown}: {}{} lines, {} bytes",
            if whole { "" } else { "more than " },
            self.lines,
            self.bytes
        );
        match &self.hash {
            Some(hash) => header += &format!(", sha256 {hash}"),
            None => header += ", too large to hash",
        }
        let last = first + self.shown_lines.saturating_sub(1);
        if self.shown_lines == 0 && self.lines > 0 {
            header += &format!("; there is no line {first}");
        } else if first > 1 || last < self.lines {
            header += &format!("; shown: lines {first} to {last}");
            if last < self.lines {
                header += &format!(", go on with offset {}", last + 1);
            }
        }
        header += "]\n";
        let mut told = Told::text(header + &self.shown);
        if let Some(hash) = &self.hash {
            told = told.with(key::HASH_AFTER, hash);
        }
        Content { told, hash: self.hash }
    }
}

/// Takes bytes wherever they are split and keeps whole lines, each within its bound.
struct Lines {
    first: u64,
    wanted: usize,
    shown: String,
    shown_lines: u64,
    full: bool,
    number: u64,
    line: Vec<u8>,
    /// Characters of the line that are not kept.
    rest: usize,
    any: bool,
}

/// What is kept of a line: as many bytes as its characters may have.
const LINE_BYTES: usize = 4 * MAX_LINE_CHARS;

impl Lines {
    fn push(&mut self, mut bytes: &[u8]) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..at]);
            self.finish(true);
            bytes = &bytes[at + 1..];
        }
        if !bytes.is_empty() {
            self.keep(bytes);
            self.any = true;
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.full || self.number < self.first {
            return;
        }
        let take = bytes.len().min(LINE_BYTES - self.line.len());
        self.line.extend_from_slice(&bytes[..take]);
        // Every byte but those in the middle of a character.
        self.rest += bytes[take..].iter().filter(|byte| **byte & 0xc0 != 0x80).count();
    }

    fn finish(&mut self, ended: bool) {
        if !self.full && self.number >= self.first {
            let line = String::from_utf8_lossy(&self.line);
            let mut text: String = line.chars().take(MAX_LINE_CHARS).collect();
            let more = line.chars().count().saturating_sub(MAX_LINE_CHARS) + self.rest;
            if more > 0 {
                text += &format!(" [... {more} more characters]");
            }
            if ended {
                text.push('\n');
            }
            let fits = self.shown.len() + text.len() <= MAX_RESULT_BYTES - HEADER_BYTES;
            if fits && self.shown_lines < self.wanted as u64 {
                self.shown += &text;
                self.shown_lines += 1;
            } else {
                self.full = true;
            }
        }
        self.line.clear();
        self.rest = 0;
        self.any = false;
        self.number += 1;
    }

    fn end(&mut self) {
        if self.any {
            self.finish(false);
        }
    }
}

fn image(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

fn binary(head: &[u8]) -> &'static str {
    match head {
        [0x7f, b'E', b'L', b'F', ..] => "an ELF program or library",
        [b'P', b'K', 3, 4, ..] => "a zip archive",
        [0x1f, 0x8b, ..] => "a gzip archive",
        [b'%', b'P', b'D', b'F', ..] => "a PDF document",
        [b'S', b'Q', b'L', b'i', ..] => "an SQLite database",
        _ => "a binary file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], first: u64, wanted: usize) -> (String, u64, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, text).unwrap();
        let text = Text::of(File::open(path).unwrap(), first, wanted).unwrap();
        (text.shown, text.shown_lines, text.lines)
    }

    #[test]
    fn whole_lines_from_where_they_were_asked_for() {
        assert_eq!(lines(b"a\nb\nc\n", 2, 1), ("b\n".into(), 1, 3));
        assert_eq!(lines(b"a\nb\nc", 3, 9), ("c".into(), 1, 3));
        assert_eq!(lines(b"", 1, 9), (String::new(), 0, 0));
        assert_eq!(lines(b"a\n", 5, 9), (String::new(), 0, 1));
        assert_eq!(lines(b"\xff\xfe\n", 1, 9).0, "\u{fffd}\u{fffd}\n");
    }

    /// One line of a gigabyte, or a million lines: neither fills the model's window.
    #[test]
    fn long_lines_and_long_files_are_cut() {
        let (shown, _, all) = lines(&vec![b'x'; 100_000], 1, 9);
        assert_eq!(all, 1);
        assert!(shown.ends_with("x [... 98000 more characters]"), "{}", &shown[1990..]);
        let (shown, count, all) = lines(&b"0123456789\n".repeat(100_000), 1, 2000);
        assert_eq!((count, all), (2000, 100_000));
        assert_eq!(shown.len(), 22_000);
        let (shown, count, _) = lines(&[&[b'y'; 1500][..], b"\n"].concat().repeat(100), 1, 2000);
        assert!(shown.len() <= MAX_RESULT_BYTES && count == 21, "{count}");
    }
}
