//! Detects whether the write-ahead log of a dead process has lost committed transactions.
//!
//! SQLite reads a write-ahead log up to the first frame that is not what it should be, and forgets the rest without a
//! word: it cannot know whether that rest was ever committed. Often the files can tell. This looks before SQLite opens
//! them, and only reports what they prove:
//!
//! * A transaction is synchronized to disk before the next one begins. So if a later one follows in the file, the
//!   one before it was committed; when its frames are wrong, it was damaged afterwards.
//! * The index beside the log (`-shm`) counts the frames that were committed. If it was written since this host
//!   booted, and the log holds fewer good frames, the log was damaged or shortened.
//!
//! It cannot notice a log that was shortened at the end of a transaction, or removed, once the index is gone too; nor
//! pages of the database file itself, which carry no checksums.
//!
//! The format is that of <https://www.sqlite.org/fileformat2.html#the_write_ahead_log> and
//! <https://www.sqlite.org/walformat.html>.

use std::{
    fs::{File, Metadata},
    io::{self, BufReader, ErrorKind, Read},
    path::Path,
};

use super::copy::companions;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The last bit says in which order the words of a checksum are read.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// What a write-ahead log has lost, as a sentence for people. `None`: nothing that can be proved.
///
/// # Errors
/// A file is there and cannot be read.
pub fn lost(database: &Path) -> io::Result<Option<String>> {
    let [wal, shm, _] = companions(database);
    let index = Index::read(&shm);
    let (file, length) = match File::open(&wal) {
        Ok(file) => {
            let length = file.metadata()?.len();
            (Some(file), length)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => (None, 0),
        Err(error) => return Err(error),
    };
    let shown = wal.display();
    let Some(file) = file.filter(|_| length >= HEADER as u64) else {
        let missing = index.filter(|index| index.frames > index.copied);
        return Ok(missing.map(|index| {
            format!(
                "the write-ahead log {shown} has {length} bytes, and should hold {} committed frames",
                index.frames
            )
        }));
    };
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    let Some(log) = Log::of(&header) else {
        // A header alone may be one that was never synchronized.
        let frames = length > HEADER as u64;
        return Ok(frames.then(|| format!("the header of the write-ahead log {shown} is damaged")));
    };
    let found = log.walk(&mut file)?;
    if found.proven > 0 {
        return Ok(Some(format!(
            "the write-ahead log {shown} is damaged at frame {}, before the end of at least {} committed transactions",
            found.good + 1,
            found.proven
        )));
    }
    let known = index.filter(|index| index.salts == log.salts && u64::from(index.frames) > found.good);
    Ok(known.map(|index| {
        format!(
            "the write-ahead log {shown} holds {} good frames of {} that were committed",
            found.good, index.frames
        )
    }))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn native(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Goes on from `sum` over whole pairs of words.
fn checksum(bytes: &[u8], big_endian: bool, mut sum: (u32, u32)) -> (u32, u32) {
    let read = |bytes: &[u8]| {
        let word = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if big_endian {
            u32::from_be_bytes(word)
        } else {
            u32::from_le_bytes(word)
        }
    };
    for pair in bytes.chunks_exact(8) {
        sum.0 = sum.0.wrapping_add(read(pair)).wrapping_add(sum.1);
        sum.1 = sum.1.wrapping_add(read(&pair[4..])).wrapping_add(sum.0);
    }
    sum
}

/// A good header.
struct Log {
    big_endian: bool,
    page: usize,
    salts: [u32; 2],
    sum: (u32, u32),
}

/// What the frames prove.
struct Found {
    /// Good frames up to the end of the last good transaction.
    good: u64,
    /// Transactions behind the first bad frame that were certainly committed.
    proven: u64,
}

impl Log {
    fn of(header: &[u8; HEADER]) -> Option<Log> {
        let magic = word(header, 0);
        let big_endian = magic & 1 == 1;
        let sum = checksum(&header[..24], big_endian, (0, 0));
        let page = word(header, 8) as usize;
        let good = magic & !1 == MAGIC
            && word(header, 4) == VERSION
            && page.is_power_of_two()
            && (512..=65536).contains(&page)
            && sum == (word(header, 24), word(header, 28));
        good.then_some(Log {
            big_endian,
            page,
            salts: [word(header, 16), word(header, 20)],
            sum,
        })
    }

    fn walk(&self, file: &mut impl Read) -> io::Result<Found> {
        let mut frame = vec![0; FRAME_HEADER + self.page];
        let mut sum = self.sum;
        let (mut whole, mut number) = (true, 0);
        let mut found = Found { good: 0, proven: 0 };
        // Commits behind the first bad frame. The last of them may be one that was never synchronized.
        let (mut commits, mut after_commit) = (0, false);
        while read_whole(file, &mut frame)? {
            let ours = [word(&frame, 8), word(&frame, 12)] == self.salts;
            let ends = word(&frame, 4) != 0;
            if whole {
                sum = checksum(&frame[..8], self.big_endian, sum);
                sum = checksum(&frame[FRAME_HEADER..], self.big_endian, sum);
                whole = ours && word(&frame, 0) != 0 && sum == (word(&frame, 16), word(&frame, 20));
                number += 1;
                if whole {
                    if ends {
                        found.good = number;
                    }
                    continue;
                }
            }
            // Frames of an earlier round have other salts and mean nothing.
            if ours {
                if after_commit {
                    found.proven = commits;
                }
                commits += u64::from(ends);
                after_commit |= ends;
            }
        }
        Ok(found)
    }
}

/// False at the end, also within a frame.
fn read_whole(file: &mut impl Read, frame: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(frame) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the index beside the log says of it.
struct Index {
    /// Frames that were committed.
    frames: u32,
    /// Of them those that are in the database file too.
    copied: u32,
    salts: [u32; 2],
}

impl Index {
    /// `None` if there is none that can be believed. One that was written before the host booted may be older than the
    /// log: nothing synchronizes it.
    fn read(path: &Path) -> Option<Index> {
        let mut file = File::open(path).ok()?;
        if !is_of_this_boot(&file.metadata().ok()?) {
            return None;
        }
        let mut bytes = [0; 100];
        file.read_exact(&mut bytes).ok()?;
        let (first, second) = (&bytes[..48], &bytes[48..96]);
        let sum = checksum(&first[..40], cfg!(target_endian = "big"), (0, 0));
        let believed = first == second
            && native(first, 0) == VERSION
            && first[12] == 1
            && sum == (native(first, 40), native(first, 44));
        believed.then(|| Index {
            frames: native(first, 16),
            copied: native(&bytes, 96),
            // Copied as they stand in the log.
            salts: [word(first, 32), word(first, 36)],
        })
    }
}

#[cfg(target_os = "linux")]
fn is_of_this_boot(found: &Metadata) -> bool {
    use std::time::{Duration, SystemTime};

    use nix::time::{ClockId, clock_gettime};
    let Ok(up) = clock_gettime(ClockId::CLOCK_BOOTTIME) else {
        return false;
    };
    let booted = SystemTime::now().checked_sub(Duration::from(up));
    // The whole life of the file, where the file system keeps its beginning.
    let since = found.created().or_else(|_| found.modified());
    matches!((since, booted), (Ok(since), Some(booted)) if since > booted)
}

#[cfg(not(target_os = "linux"))]
fn is_of_this_boot(_found: &Metadata) -> bool {
    false
}
