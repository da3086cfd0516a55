//! What every engine must do, run against each: a new engine adds one line to `backends`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nexus_store::{
    Backend, Commit, Committed, Durability, Error, Faults, GroupId, Lease, Memory, Op, Options, Outcome, Receipt,
    Sqlite, Store, Table, Transaction,
};

const NOTES: Table = Table(1);

#[derive(Debug)]
struct Ticket {
    number: u64,
    seq: u64,
}

impl Receipt for Ticket {
    fn committed(&mut self, first_seq: u64) {
        self.seq = first_seq;
    }
}

/// The store in memory of a directory: opening it again finds what was stored.
fn memory(dir: &Path, unknown: u64) -> Arc<dyn Backend> {
    static OPEN: Mutex<BTreeMap<PathBuf, Memory>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().expect("no test panics while it holds the lock");
    let made = || Memory::with(Faults { unknown, seed: 7 });
    Arc::new(open.entry(dir.to_owned()).or_insert_with(made).clone())
}

type Open = fn(&Path) -> Arc<dyn Backend>;

fn backends() -> Vec<(&'static str, Open)> {
    vec![
        ("sqlite, full", |dir| {
            Arc::new(Sqlite::new(dir.join("store.db"), Durability::Full))
        }),
        ("sqlite, process", |dir| {
            Arc::new(Sqlite::new(dir.join("store.db"), Durability::Process))
        }),
        ("memory", |dir| memory(dir, 0)),
        ("memory, answers lost", |dir| memory(dir, 40)),
    ]
}

struct Harness {
    store: Store<Ticket>,
    groups: mpsc::Receiver<Committed<Ticket>>,
    runtime: tokio::runtime::Runtime,
}

impl Harness {
    fn open(backend: Arc<dyn Backend>, options: &Options) -> Result<Self, Error> {
        let (tell, groups) = mpsc::channel();
        let store = Store::open(backend, options, move |group| drop(tell.send(group)))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        Ok(Harness { store, groups, runtime })
    }

    fn send(&self, number: u64, epoch: u64, grows: bool, ops: Vec<Op>) {
        let transaction = Transaction {
            epoch,
            grows,
            ops,
            receipt: Ticket { number, seq: 0 },
        };
        self.runtime.block_on(async {
            self.store
                .writer
                .reserve()
                .await
                .expect("the writer runs")
                .send(transaction)
        });
    }

    fn outcome(&self, of: usize) -> Vec<(Ticket, Result<(), Error>)> {
        let mut all = Vec::new();
        while all.len() < of {
            all.extend(
                self.groups
                    .recv_timeout(Duration::from_secs(10))
                    .expect("a group in ten seconds")
                    .receipts,
            );
        }
        all
    }

    fn commit(&self, ops: Vec<Op>) -> u64 {
        self.send(0, 1, true, ops);
        let (ticket, result) = self.outcome(1).pop().expect("an outcome");
        result.expect("a commit");
        ticket.seq
    }

    fn close(self) {
        assert!(self.runtime.block_on(self.store.writer.closed(Duration::from_secs(10))));
    }
}

fn row(stream: u64, n: Option<u64>, time: i64, body: &str) -> Op {
    Op::Append {
        stream,
        n,
        time,
        kind: 7,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put {
        table: NOTES,
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn everywhere(test: impl Fn(&dyn Fn() -> Arc<dyn Backend>, PathBuf)) {
    for (name, open) in backends() {
        println!("engine: {name}");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_owned();
        test(&|| open(&path), path.clone());
    }
}

#[test]
fn receipts_come_back_in_order_with_their_place_in_the_log() {
    everywhere(|backend, _| {
        let h = Harness::open(backend(), &Options::default()).unwrap();
        for number in 0..200 {
            h.send(
                number,
                1,
                true,
                vec![row(3, Some(number + 1), 1, "a"), row(3, None, 1, "b")],
            );
        }
        let all = h.outcome(200);
        for (expected, (ticket, result)) in all.iter().enumerate() {
            assert!(result.is_ok());
            assert_eq!(ticket.number, expected as u64);
            assert_eq!(ticket.seq, 2 * expected as u64 + 1);
        }
        h.close();
    });
}

#[test]
fn what_was_committed_is_there_after_a_reopen_and_the_sequence_goes_on() {
    everywhere(|backend, _| {
        let h = Harness::open(backend(), &Options::default()).unwrap();
        let log_id = h.store.log_id.clone();
        assert_eq!(h.commit(vec![row(1, Some(1), 10, "one"), put("k", "v")]), 1);
        h.close();
        let h = Harness::open(backend(), &Options::default()).unwrap();
        assert_eq!(h.store.log_id, log_id);
        assert_eq!(h.commit(vec![row(1, Some(2), 20, "two")]), 2);
        let rows = h.store.reader.now(|r| r.log(0, 10, usize::MAX)).unwrap();
        let bodies: Vec<_> = rows.iter().map(|r| (r.seq, r.n, r.time, &r.body[..])).collect();
        assert_eq!(bodies, [(1, Some(1), 10, &b"one"[..]), (2, Some(2), 20, &b"two"[..])]);
        assert_eq!(h.store.reader.now(|r| r.get(NOTES, b"k")).unwrap().unwrap(), "v");
        h.close();
    });
}

#[test]
fn a_transaction_happens_whole_or_not_at_all_and_poisons_what_was_built_on_it() {
    everywhere(|backend, _| {
        let h = Harness::open(backend(), &Options::default()).unwrap();
        h.commit(vec![row(1, Some(1), 1, "one")]);
        h.send(
            1,
            1,
            true,
            vec![put("half", "done"), row(1, Some(1), 1, "the same place again")],
        );
        assert!(h.outcome(1)[0].1.is_err());
        h.send(2, 1, true, vec![row(1, Some(2), 1, "built on the failed one")]);
        assert!(matches!(h.outcome(1)[0].1, Err(Error::Superseded)));
        assert_eq!(h.store.reader.now(|r| r.get(NOTES, b"half")).unwrap(), None);
        h.send(3, 2, true, vec![row(1, Some(2), 1, "in the next epoch")]);
        assert!(h.outcome(1)[0].1.is_ok());
        h.close();
    });
}

#[test]
fn streams_are_read_by_their_own_numbers() {
    everywhere(|backend, _| {
        let h = Harness::open(backend(), &Options::default()).unwrap();
        for n in 1..=10 {
            h.commit(vec![
                row(1, Some(n), n as i64, &n.to_string()),
                row(2, Some(n), 0, "other"),
                row(1, None, 0, "x"),
            ]);
        }
        let numbers = |after, before, limit, newest| {
            let rows = h
                .store
                .reader
                .now(|r| r.stream(1, after, before, limit, newest))
                .unwrap();
            rows.iter().map(|r| r.n.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(0, u64::MAX, 3, false), [1, 2, 3]);
        assert_eq!(numbers(0, u64::MAX, 3, true), [8, 9, 10]);
        assert_eq!(numbers(4, 7, 100, false), [5, 6]);
        let heads = h.store.reader.now(|r| r.heads(&[1, 9])).unwrap();
        assert_eq!(heads[0].unwrap().n, 10);
        assert_eq!(heads[1], None);
        h.close();
    });
}

#[test]
fn documents_are_read_in_the_order_of_their_keys() {
    everywhere(|backend, _| {
        let h = Harness::open(backend(), &Options::default()).unwrap();
        assert_eq!(h.store.reader.now(|r| r.last(NOTES)).unwrap(), None);
        h.commit(vec![put("b", "2"), put("c", "3"), put("a", "1")]);
        let pairs = h.store.reader.now(|r| r.scan(NOTES, b"a", b"c", 10)).unwrap();
        assert_eq!(pairs, [("a".into(), "1".into()), ("b".into(), "2".into())]);
        assert_eq!(h.store.reader.now(|r| r.last(NOTES)).unwrap().unwrap(), "c");
        h.close();
    });
}

#[test]
fn trimming_keeps_messages_and_says_how_far_it_went() {
    everywhere(|backend, _| {
        let h = Harness::open(backend(), &Options::default()).unwrap();
        for n in 1..=5 {
            h.commit(vec![
                row(1, Some(n), n as i64, "message"),
                row(1, None, n as i64, "event"),
            ]);
        }
        h.commit(vec![Op::Trim { through: 6 }]);
        assert_eq!(h.store.reader.now(|r| r.trimmed()).unwrap(), 6);
        let left = h.store.reader.now(|r| r.log(0, 100, usize::MAX)).unwrap();
        assert_eq!(left.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 3, 5, 7, 8, 9, 10]);
        h.close();
    });
}

#[test]
fn erased_streams_leave_nothing_and_never_give_their_sequence_away() {
    everywhere(|backend, directory| {
        let canary = "a canary that must not be found again";
        let h = Harness::open(backend(), &Options::default()).unwrap();
        h.commit(vec![row(1, Some(1), 1, "stays")]);
        let last = h.commit(vec![row(2, Some(1), 1, canary)]);
        h.commit(vec![Op::Erase { stream: 2 }]);
        h.close();
        for file in std::fs::read_dir(&directory).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(canary.len()).any(|w| w == canary.as_bytes()));
        }
        let h = Harness::open(backend(), &Options::default()).unwrap();
        assert!(h.commit(vec![row(1, Some(2), 1, "next")]) > last);
        h.close();
    });
}

#[test]
fn time_finds_its_place_in_the_log() {
    everywhere(|backend, _| {
        let h = Harness::open(backend(), &Options::default()).unwrap();
        for n in 1..=50 {
            h.commit(vec![row(1, Some(n), 10 * n as i64, "x")]);
        }
        for (time, before) in [
            (0, 0),
            (10, 0),
            (11, 1),
            (250, 24),
            (255, 25),
            (500, 49),
            (501, 50),
            (i64::MAX, 50),
        ] {
            assert_eq!(h.store.reader.now(|r| r.before(time)).unwrap(), before, "before {time}");
        }
        h.close();
    });
}

#[test]
fn a_second_writer_is_kept_out() {
    everywhere(|backend, _| {
        let h = Harness::open(backend(), &Options::default()).unwrap();
        assert!(matches!(
            Harness::open(backend(), &Options::default()),
            Err(Error::InUse { .. })
        ));
        h.close();
        Harness::open(backend(), &Options::default()).unwrap().close();
    });
}

#[test]
fn a_nearly_full_disk_takes_only_what_does_not_grow_it() {
    everywhere(|backend, _| {
        if backend().directory().is_none() {
            return; // it keeps nothing on a disk of ours
        }
        let h = Harness::open(
            backend(),
            &Options {
                low_disk: u64::MAX,
                ..Options::default()
            },
        )
        .unwrap();
        h.send(1, 1, true, vec![row(1, Some(1), 1, "grows")]);
        assert!(matches!(h.outcome(1)[0].1, Err(Error::LowDisk { .. })));
        h.send(2, 2, false, vec![put("closing", "is allowed")]);
        assert!(h.outcome(1)[0].1.is_ok());
        h.close();
    });
}

#[test]
fn a_group_that_is_sent_again_under_its_id_happens_once() {
    everywhere(|backend, _| {
        let backend = backend();
        let mut write = backend.open_write().unwrap();
        let lease = write.lease();
        let mut read = backend.open_read().unwrap();
        for n in 1..=200 {
            let ops = [row(1, Some(n), 1, "once"), put("k", &n.to_string())];
            let (group, id) = ([&ops[..]], GroupId(u128::from(n)));
            let mut seqs = Vec::new();
            let mut answer = write.commit(id, &group, lease, &mut seqs);
            while let Commit::Unknown(_) = answer {
                answer = match write.outcome(id, &group, lease, &mut seqs) {
                    Outcome::Done => Commit::Done,
                    Outcome::Never => write.commit(id, &group, lease, &mut seqs),
                    Outcome::Refused(error) => Commit::Refused(error),
                    Outcome::Unknown => continue,
                };
            }
            assert!(matches!(answer, Commit::Done));
            assert_eq!(seqs, [n]);
        }
        let rows = read.log(0, 1000, usize::MAX).unwrap();
        let numbers: Vec<_> = rows.iter().map(|row| (row.seq, row.n.unwrap())).collect();
        assert_eq!(numbers, (1..=200).map(|n| (n, n)).collect::<Vec<_>>());
    });
}

#[test]
fn a_writer_whose_lease_another_has_taken_is_refused() {
    everywhere(|backend, _| {
        let backend = backend();
        let mut write = backend.open_write().unwrap();
        let before = Lease(write.lease().0 - 1);
        let ops = [put("k", "v")];
        for (lease, id) in [(before, 1), (Lease(write.lease().0 + 1), 2)] {
            let refused = write.commit(GroupId(id), &[&ops], lease, &mut Vec::new());
            assert!(matches!(refused, Commit::Refused(Error::LeaseLost)), "{refused:?}");
        }
        nexus_store::commit(write.as_mut(), &[&ops], &mut Vec::new()).unwrap();
        drop(write);
        assert!(backend.open_write().unwrap().lease() > before);
    });
    let memory = Memory::default();
    let mut first = memory.open_write().unwrap();
    let mut second = memory.take_over();
    let ops = [put("k", "v")];
    let refused = nexus_store::commit(first.as_mut(), &[&ops], &mut Vec::new());
    assert!(matches!(refused, Err(Error::LeaseLost)), "{refused:?}");
    nexus_store::commit(second.as_mut(), &[&ops], &mut Vec::new()).unwrap();
}

#[test]
fn a_stamp_is_void_once_somebody_changes_the_table_without_it() {
    everywhere(|backend, _| {
        let h = Harness::open(backend(), &Options::default()).unwrap();
        let stamp = || Op::Stamp { table: NOTES, stamp: 3 };
        let stamped = |h: &Harness| h.store.reader.now(|r| r.stamped(NOTES)).unwrap();
        h.commit(vec![put("a", "1")]);
        assert_eq!(stamped(&h), None);
        h.commit(vec![put("b", "1"), stamp()]);
        assert_eq!(stamped(&h), Some(3));
        h.commit(vec![row(1, Some(1), 1, "a row is no document")]);
        assert_eq!(stamped(&h), Some(3));
        let delete = |key: &'static str| Op::Delete {
            table: NOTES,
            key: Bytes::from_static(key.as_bytes()),
        };
        for change in [put("c", "1"), put("c", "2"), delete("c")] {
            h.commit(vec![change]);
            assert_eq!(stamped(&h), None);
            h.commit(vec![stamp()]);
            assert_eq!(stamped(&h), Some(3));
        }
        h.close();
    });
}

#[test]
fn a_damaged_file_is_told_from_a_missing_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    std::fs::write(
        &path,
        b"this is no database, and it is longer than the header of one is: it goes on and on and on",
    )
    .unwrap();
    let backend = Arc::new(Sqlite::new(&path, Durability::Full));
    assert!(matches!(
        Harness::open(backend, &Options::default()),
        Err(Error::Damaged { .. })
    ));
    assert!(
        std::fs::read(&path).unwrap().starts_with(b"this is no database"),
        "it is left as it was"
    );
}

#[test]
fn a_page_that_was_overwritten_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let open = || Arc::new(Sqlite::new(&path, Durability::Full));
    let h = Harness::open(open(), &Options::default()).unwrap();
    for n in 1..=200 {
        h.commit(vec![row(1, Some(n), 1, &"x".repeat(400))]);
    }
    h.close();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let h = Harness::open(open(), &Options::default()).unwrap();
    assert!(matches!(h.store.reader.now(|r| r.verify()), Err(Error::Damaged { .. })));
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    Harness::open(Arc::new(Sqlite::new(&path, Durability::Full)), &Options::default())
        .unwrap()
        .close();
    // It does not say which older ones may work with it, so none may.
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("DELETE FROM mark WHERE name = 'oldest'; PRAGMA user_version = 9;")
        .unwrap();
    let again = Harness::open(Arc::new(Sqlite::new(&path, Durability::Full)), &Options::default());
    assert!(matches!(again, Err(Error::TooNew { found: 9, .. })));
}

/// A newer version has expanded it: this one reads and writes on, and leaves the newer tables as they are. When a later
/// one has contracted it, it is left alone.
#[test]
fn a_store_that_a_newer_version_expanded_is_worked_with_until_one_contracts_it() {
    use nexus_store::copy;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let backend = || Arc::new(Sqlite::new(&path, Durability::Full));
    let h = Harness::open(backend(), &Options::default()).unwrap();
    h.commit(vec![row(1, Some(1), 10, "before"), put("a", "1")]);
    h.close();
    assert_eq!(copy::tables(&path).unwrap(), Some(copy::KNOWN));

    let newer = |sql: &str| rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let known = copy::KNOWN.schema;
    newer(&format!(
        "ALTER TABLE log ADD COLUMN author INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE document ADD COLUMN changed INTEGER NOT NULL DEFAULT 0;
         CREATE TABLE later (x);
         PRAGMA user_version = {};",
        known + 1
    ));
    let h = Harness::open(backend(), &Options::default()).unwrap();
    h.commit(vec![row(1, Some(2), 20, "after"), put("a", "2"), put("b", "3")]);
    let bodies = h
        .store
        .reader
        .now(|r| r.stream(1, 0, u64::MAX, 10, false))
        .unwrap()
        .into_iter()
        .map(|row| row.body)
        .collect::<Vec<_>>();
    assert_eq!(bodies, ["before", "after"]);
    h.close();
    let found = copy::tables(&path).unwrap().unwrap();
    assert_eq!(
        (found.schema, found.oldest),
        (known + 1, copy::KNOWN.oldest),
        "it stays as new as it was"
    );
    assert_eq!(copy::inspect(&path).unwrap().newest, Some(2));

    newer(&format!("UPDATE mark SET value = {} WHERE name = 'oldest'", known + 1));
    let refused = Harness::open(backend(), &Options::default()).err().unwrap();
    assert!(matches!(refused, Error::TooNew { .. }), "{refused}");
    assert!(
        refused.to_string().contains(&format!("schema {}", known + 1)),
        "{refused}"
    );
    assert!(matches!(copy::inspect(&path), Err(Error::TooNew { .. })));
}

#[test]
fn a_copy_is_whole_while_the_store_is_written_and_a_damaged_one_is_found() {
    use nexus_store::copy;
    let dir = tempfile::tempdir().unwrap();
    let (path, copied) = (dir.path().join("store.db"), dir.path().join("copy.db"));
    let backend = Sqlite::new(&path, Durability::Process);
    let mut write = backend.open_write().unwrap();
    let append = |n: u64| Op::Append {
        stream: 1,
        n: Some(n),
        time: 1,
        kind: 1,
        body: Bytes::from(vec![7; 2000]),
    };
    for n in 1..=100 {
        nexus_store::commit(write.as_mut(), &[&[append(n)]], &mut Vec::new()).unwrap();
    }
    // The writer is open and its log not written back: the copy has what was committed all the same.
    copy::copy(&path, &copied).unwrap();
    nexus_store::commit(write.as_mut(), &[&[append(101)]], &mut Vec::new()).unwrap();
    assert!(copy::is_database(&copied).unwrap());
    assert!(
        matches!(copy::copy(&path, &copied), Err(Error::Io { .. })),
        "it never writes over a file"
    );
    assert_eq!(copy::inspect(&path).unwrap().newest, Some(101));
    let found = copy::inspect(&copied).unwrap();
    assert_eq!((found.newest, found.ours), (Some(100), true));

    let name = |path: &Path| Sqlite::new(path, Durability::Process).open_write().unwrap().log_id();
    let log_id = write.log_id();
    assert_eq!(name(&copied), log_id);
    assert!(copy::renew(&copied).unwrap());
    assert_ne!(name(&copied), log_id, "a reader of the other log starts over");

    let mut bytes = std::fs::read(&copied).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    std::fs::write(&copied, bytes).unwrap();
    assert!(copy::inspect(&copied).is_err());
    std::fs::write(&copied, "no database").unwrap();
    assert!(!copy::is_database(&copied).unwrap());
}
