//! The log of a sandbox: stdout and stderr, marked and in order, in files of a bounded total.
//!
//! Files `log.0`, `log.1`, ... hold records; the oldest file is removed when the total would pass the bound. A reader
//! goes from one number to the next; a number that is gone is output that was dropped.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// One write, at most [`MAX_RECORD`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub stderr: bool,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub bytes: Vec<u8>,
}

pub const MAX_RECORD: usize = 64 << 10;
pub const HEADER: usize = 16;
/// The number of files that the bound is divided into.
pub const SEGMENTS: u64 = 8;

pub fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("log.{number}"))
}

/// The numbers of the files that are there, rising.
pub fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("log."));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub fn header(stderr: bool, at_ms: u64, length: usize) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = 1 + u8::from(stderr);
    header[1..4].copy_from_slice(&(length as u32).to_le_bytes()[..3]);
    header[8..].copy_from_slice(&at_ms.to_le_bytes());
    header
}

/// Takes whole records off the front; what is left is the beginning of one, or nothing. `None` for a damaged file.
pub fn parse(bytes: &[u8]) -> Option<(Vec<Record>, usize)> {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER) {
        let stderr = match header[0] {
            1 => false,
            2 => true,
            _ => return None,
        };
        let length = u32::from_le_bytes([header[1], header[2], header[3], 0]) as usize;
        let at_ms = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
        let Some(body) = bytes.get(at + HEADER..at + HEADER + length) else {
            break;
        };
        records.push(Record {
            stderr,
            at_ms,
            bytes: body.to_vec(),
        });
        at += HEADER + length;
    }
    Some((records, at))
}

/// Reads what there is of a file into `pending`, at most `limit` bytes.
pub fn read_more(file: &mut impl Read, pending: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    file.take(limit as u64).read_to_end(pending)
}
