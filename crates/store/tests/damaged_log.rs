//! A write-ahead log that was damaged or shortened behind a dead process's back.

#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use nexus_store::{Backend, Durability, Error, Op, Sqlite, Table, copy};

const PAGE: usize = 4096;
const FRAME: usize = 24 + PAGE;
const COMMITS: usize = 40;

/// The files of a store as `kill -9` leaves them, with [`COMMITS`] transactions in the write-ahead log.
fn killed() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live.db");
    let store = Sqlite::new(&live, Durability::Full);
    let mut write = store.open_write().unwrap();
    for number in 0..COMMITS {
        let op = Op::Put {
            table: Table(1),
            key: Bytes::from(number.to_be_bytes().to_vec()),
            value: Bytes::from(vec![7; 900]),
        };
        nexus_store::commit(write.as_mut(), &[&[op]], &mut Vec::new()).unwrap();
    }
    let left = dir.path().join("left.db");
    for end in ["", "-wal", "-shm"] {
        let from = format!("{}{end}", live.display());
        fs::copy(from, format!("{}{end}", left.display())).unwrap();
    }
    drop(write);
    (dir, left)
}

fn wal(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", database.display()))
}

fn shm(database: &Path) -> PathBuf {
    PathBuf::from(format!("{}-shm", database.display()))
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// What is told when it is opened, and told again afterwards.
fn told(database: &Path) -> Option<String> {
    let before = copy::lost(database).unwrap();
    let store = Sqlite::new(database, Durability::Full);
    drop(store.open_write().unwrap());
    let after = copy::lost(database).unwrap();
    match (before, after) {
        (Some(before), Some(after)) => {
            assert!(after.contains(&before), "{before}\n{after}");
            Some(before)
        }
        (before, after) => {
            assert_eq!(before, after, "an open neither finds more nor forgets");
            before
        }
    }
}

#[test]
fn what_a_killed_process_left_is_whole() {
    let (_dir, database) = killed();
    assert_eq!(told(&database), None);
}

#[test]
fn a_frame_in_the_middle_that_was_overwritten_is_told() {
    for with_index in [true, false] {
        let (_dir, database) = killed();
        change(&wal(&database), |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
        });
        if !with_index {
            fs::remove_file(shm(&database)).unwrap();
        }
        let told = told(&database).unwrap();
        assert!(
            told.contains("is damaged at frame") || told.contains("good frames of"),
            "{told}"
        );
        assert!(told.contains("left.db-wal"), "{told}");
    }
}

#[test]
fn a_damaged_header_is_told() {
    let (_dir, database) = killed();
    fs::remove_file(shm(&database)).unwrap();
    change(&wal(&database), |bytes| bytes[17] ^= 1);
    assert!(told(&database).unwrap().contains("header"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_log_that_was_cut_is_told_wherever_it_was_cut() {
    let whole = fs::metadata(wal(&killed().1)).unwrap().len() as usize;
    let frames = (whole - 32) / FRAME;
    assert_eq!(whole, 32 + frames * FRAME);
    for keep in [
        0,
        20,
        32,
        32 + FRAME * (frames / 2),
        32 + FRAME * (frames / 2) + 100,
        whole - 1,
    ] {
        let (_dir, database) = killed();
        change(&wal(&database), |bytes| bytes.truncate(keep));
        assert!(told(&database).is_some(), "cut to {keep} of {whole}");
    }
    let (_dir, database) = killed();
    fs::remove_file(wal(&database)).unwrap();
    assert!(told(&database).is_some(), "removed");
}

/// What a power cut may leave of a transaction that nobody was told of.
#[test]
fn an_unfinished_transaction_at_the_end_is_no_loss() {
    let (_dir, database) = killed();
    fs::remove_file(shm(&database)).unwrap();
    change(&wal(&database), |bytes| {
        let begin = bytes.len() - FRAME;
        // The same round's salts, and a page that did not reach the disk whole.
        let mut torn = bytes[begin..].to_vec();
        torn[24..].fill(0);
        bytes.extend(torn);
        bytes.extend([1; 100]);
    });
    assert_eq!(told(&database), None);
}

#[test]
fn a_full_disk_is_told_as_one() {
    let low = Error::LowDisk {
        path: "/db".into(),
        free: 1,
        needed: 2,
    };
    for error in [Error::Full { path: "/db".into() }, low] {
        assert!(error.is_space());
        let said = error.to_string();
        assert!(said.contains("/db") && said.contains("make room"), "{said}");
    }
}
