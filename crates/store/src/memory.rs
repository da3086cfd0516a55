//! A store in memory, for tests: it behaves like an engine behind a connection.
//!
//! Everything is gone with the last clone. With [`Faults`] a commit answers *unknown* now and then, sometimes after it
//! happened and sometimes before, as a server does whose connection is lost; and asking what became of it may be answered
//! so too. Many groups are remembered, since the same group may come again.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::backend::{Backend, Commit, GroupId, Head, Lease, Op, Outcome, Read, Row, Table, Write};
use crate::{Error, Stamp};

/// Groups whose outcome is remembered.
const REMEMBERED: usize = 1024;

/// How often a commit or a question about one comes back without an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Of a hundred.
    pub unknown: u64,
    /// The same seed gives the same faults.
    pub seed: u64,
}

/// Clones are the same store.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    log: BTreeMap<u64, Row>,
    /// Numbered rows by stream and number.
    numbered: BTreeMap<(u64, u64), u64>,
    documents: BTreeMap<(Table, Bytes), Bytes>,
    changes: BTreeMap<Table, (u64, Option<(u64, Stamp)>)>,
    newest: u64,
    trimmed: u64,
    lease: u64,
    open: bool,
    groups: VecDeque<(GroupId, Vec<u64>)>,
    faults: Faults,
    drawn: u64,
}

impl Memory {
    /// An empty store whose commits fail as `faults` says.
    pub fn with(faults: Faults) -> Self {
        let memory = Memory::default();
        memory.lock().faults = faults;
        memory
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes the lease from the present writer, as another host does that believes it dead.
    pub fn take_over(&self) -> Box<dyn Write> {
        let mut kept = self.lock();
        kept.lease += 1;
        kept.open = true;
        Box::new(MemoryWrite {
            lease: Lease(kept.lease),
            store: self.clone(),
        })
    }

    /// How many documents a table holds.
    pub fn count(&self, table: Table) -> usize {
        self.lock().documents.keys().filter(|(of, _)| *of == table).count()
    }
}

impl Kept {
    /// True where this answer is lost.
    fn is_lost(&mut self) -> bool {
        // SplitMix64: a sequence that looks like chance and is the same for the same seed.
        self.drawn = self.drawn.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.drawn ^ self.faults.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 100 < self.faults.unknown
    }

    fn remembered(&self, id: GroupId) -> Option<&Vec<u64>> {
        self.groups.iter().find(|(known, _)| *known == id).map(|(_, seqs)| seqs)
    }

    /// Whether a group gives a place in a stream that is taken.
    fn collides(&self, group: &[&[Op]]) -> bool {
        let mut given = std::collections::BTreeSet::new();
        let mut numbered = group.iter().flat_map(|ops| ops.iter()).filter_map(|op| match op {
            Op::Append { stream, n: Some(n), .. } => Some((*stream, *n)),
            _ => None,
        });
        numbered.any(|place| self.numbered.contains_key(&place) || !given.insert(place))
    }

    fn apply(&mut self, id: GroupId, group: &[&[Op]]) -> Vec<u64> {
        let mut seqs = Vec::with_capacity(group.len());
        for ops in group {
            let mut first = None;
            for op in *ops {
                self.change(op, &mut first);
            }
            seqs.push(first.unwrap_or(self.newest));
        }
        self.groups.push_back((id, seqs.clone()));
        if self.groups.len() > REMEMBERED {
            self.groups.pop_front();
        }
        seqs
    }

    fn change(&mut self, op: &Op, first: &mut Option<u64>) {
        match op.clone() {
            Op::Append {
                stream,
                n,
                time,
                kind,
                body,
            } => {
                self.newest += 1;
                first.get_or_insert(self.newest);
                let seq = self.newest;
                let row = Row {
                    seq,
                    stream,
                    n,
                    time,
                    kind,
                    body,
                };
                self.log.insert(seq, row);
                if let Some(n) = n {
                    self.numbered.insert((stream, n), seq);
                }
            }
            Op::Put { table, key, value } => {
                self.documents.insert((table, key), value);
                self.changed(table, 1);
            }
            Op::Delete { table, key } => {
                let gone = self.documents.remove(&(table, key)).is_some();
                self.changed(table, u64::from(gone));
            }
            Op::DeleteRange { table, from, to } => {
                let before = self.documents.len();
                self.documents
                    .retain(|(of, key), _| *of != table || *key < from || *key >= to);
                self.changed(table, (before - self.documents.len()) as u64);
            }
            Op::Erase { stream } => {
                self.log.retain(|_, row| row.stream != stream);
                self.numbered.retain(|(of, _), _| *of != stream);
            }
            Op::Trim { through } => {
                self.log.retain(|seq, row| row.n.is_some() || *seq > through);
                self.trimmed = self.trimmed.max(through);
            }
            Op::Stamp { table, stamp } => {
                let entry = self.changes.entry(table).or_default();
                entry.1 = Some((entry.0, stamp));
            }
        }
    }

    fn changed(&mut self, table: Table, by: u64) {
        self.changes.entry(table).or_default().0 += by;
    }
}

struct MemoryWrite {
    store: Memory,
    lease: Lease,
}

impl Backend for Memory {
    fn open_write(&self) -> Result<Box<dyn Write>, Error> {
        if self.lock().open {
            return Err(Error::InUse { path: "memory".into() });
        }
        Ok(self.take_over())
    }

    fn open_read(&self) -> Result<Box<dyn Read>, Error> {
        Ok(Box::new(self.clone()))
    }

    fn directory(&self) -> Option<&Path> {
        None
    }
}

impl Drop for MemoryWrite {
    fn drop(&mut self) {
        let mut kept = self.store.lock();
        if kept.lease == self.lease.0 {
            kept.open = false;
        }
    }
}

impl Write for MemoryWrite {
    fn log_id(&self) -> String {
        "memory".into()
    }

    fn lease(&self) -> Lease {
        self.lease
    }

    fn commit(&mut self, id: GroupId, group: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Commit {
        let mut kept = self.store.lock();
        if lease.0 != kept.lease {
            return Commit::Refused(Error::LeaseLost);
        }
        if let Some(known) = kept.remembered(id) {
            seqs.extend(known);
            return Commit::Done;
        }
        let lost = Error::Io {
            path: "memory".into(),
            doing: "hear of a commit",
            cause: "the connection was lost".into(),
        };
        if kept.collides(group) {
            return Commit::Refused(Error::Io {
                path: "memory".into(),
                doing: "append a row",
                cause: "its place in the stream is taken".into(),
            });
        }
        // The way there and the way back are lost alike.
        if kept.is_lost() {
            return Commit::Unknown(lost);
        }
        let given = kept.apply(id, group);
        if kept.is_lost() {
            return Commit::Unknown(lost);
        }
        seqs.extend(given);
        Commit::Done
    }

    fn outcome(&mut self, id: GroupId, _: &[&[Op]], lease: Lease, seqs: &mut Vec<u64>) -> Outcome {
        let mut kept = self.store.lock();
        if lease.0 != kept.lease {
            return Outcome::Refused(Error::LeaseLost);
        }
        if kept.is_lost() {
            return Outcome::Unknown;
        }
        match kept.remembered(id) {
            Some(known) => {
                seqs.extend(known);
                Outcome::Done
            }
            None => Outcome::Never,
        }
    }

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Read for Memory {
    fn log(&mut self, after: u64, limit: usize, max_bytes: usize) -> Result<Vec<Row>, Error> {
        let kept = self.lock();
        let (mut found, mut bytes) = (Vec::new(), 0);
        for row in kept
            .log
            .range(after.saturating_add(1)..)
            .map(|(_, row)| row)
            .take(limit)
        {
            bytes += row.body.len();
            found.push(row.clone());
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(found)
    }

    fn stream(&mut self, stream: u64, after: u64, before: u64, limit: usize, newest: bool) -> Result<Vec<Row>, Error> {
        let (first, end) = ((stream, after.saturating_add(1)), (stream, before));
        if first >= end {
            return Ok(Vec::new());
        }
        let kept = self.lock();
        let places = kept.numbered.range(first..end).map(|(_, seq)| seq);
        let skipped = if newest {
            places.clone().count().saturating_sub(limit)
        } else {
            0
        };
        let rows = places.skip(skipped).take(limit).filter_map(|seq| kept.log.get(seq));
        Ok(rows.cloned().collect())
    }

    fn heads(&mut self, streams: &[u64]) -> Result<Vec<Option<Head>>, Error> {
        let kept = self.lock();
        let head = |stream: &u64| {
            let (place, seq) = kept.numbered.range((*stream, 0)..=(*stream, u64::MAX)).next_back()?;
            let time = kept.log.get(seq)?.time;
            Some(Head { n: place.1, time })
        };
        Ok(streams.iter().map(head).collect())
    }

    fn get(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let key = (table, Bytes::copy_from_slice(key));
        Ok(self.lock().documents.get(&key).cloned())
    }

    fn scan(&mut self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if from >= to {
            return Ok(Vec::new());
        }
        let kept = self.lock();
        let (from, to) = (Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
        let found = kept.documents.range((table, from)..(table, to)).take(limit);
        Ok(found.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn last(&mut self, table: Table) -> Result<Option<Bytes>, Error> {
        let kept = self.lock();
        let after = Table(table.0.saturating_add(1));
        let of = kept.documents.range((table, Bytes::new())..(after, Bytes::new()));
        Ok(of.map(|((_, key), _)| key.clone()).next_back())
    }

    fn stamped(&mut self, table: Table) -> Result<Option<Stamp>, Error> {
        let kept = self.lock();
        let found = kept.changes.get(&table);
        Ok(found.and_then(|(changes, stamp)| stamp.filter(|(at, _)| at == changes).map(|(_, stamp)| stamp)))
    }

    fn newest(&mut self) -> Result<u64, Error> {
        Ok(self.lock().newest)
    }

    fn trimmed(&mut self) -> Result<u64, Error> {
        Ok(self.lock().trimmed)
    }

    fn before(&mut self, time: i64) -> Result<u64, Error> {
        let kept = self.lock();
        let earlier = kept.log.values().take_while(|row| row.time < time).last();
        Ok(earlier.map_or(0, |row| row.seq))
    }

    fn size(&mut self) -> Result<u64, Error> {
        let kept = self.lock();
        let rows: usize = kept.log.values().map(|row| row.body.len()).sum();
        let documents: usize = kept
            .documents
            .iter()
            .map(|((_, key), value)| key.len() + value.len())
            .sum();
        Ok((rows + documents) as u64)
    }

    fn verify(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
