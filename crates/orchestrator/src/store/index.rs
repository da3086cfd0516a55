//! Index documents: built where they are missing, and validated by a stamp.
//!
//! Each transaction that changes tasks, sessions or first answers stamps their table. A version that knows no index
//! documents stamps nothing, so its changes make the stamp void, and the next start makes the index again.

use bytes::Bytes;
use nexus_store::{Error, Op, Read, Stamp, Table, Write};
use prost::Message as _;

use super::docs::{self, UserUsage};
use super::{
    Answer, CLOSED, CLOSED_BY_CREATOR, CLOSED_BY_OWNER, END, FIRST, FIRST_EXPIRES, FIRST_OF_SESSION, TASK, TASK_ENDED,
    TASK_OF_AGENT, TASK_OF_SESSION, TASK_OPEN, USER_USAGE, damaged, key, number, pair, time, under,
};
use crate::domain::session::Session;
use crate::domain::task::Task;

/// Rises when what an index document looks like changes.
const VERSION: Stamp = 1;

pub(super) const TASK_STAMP: u8 = 1;
pub(super) const SESSION_STAMP: u8 = 2;
pub(super) const FIRST_STAMP: u8 = 4;
const STAMPS: [(u8, Table); 3] = [(TASK_STAMP, TASK), (SESSION_STAMP, CLOSED), (FIRST_STAMP, FIRST)];

/// Documents read, and changes written, at once while an index is made.
const PAGE: usize = 2048;
const WRITTEN: usize = 16 << 10;

pub(super) fn stamp(stamps: u8, out: &mut Vec<Op>) {
    let wanted = STAMPS.iter().filter(|(bit, _)| stamps & bit != 0);
    out.extend(wanted.map(|(_, table)| Op::Stamp {
        table: *table,
        stamp: VERSION,
    }));
}

/// The index documents of a task.
pub(super) fn of_task(task: &Task) -> Vec<(Table, Bytes)> {
    let mut all = vec![(TASK_OF_SESSION, under(&task.wire.session_id, task.key))];
    all.extend(task.agent.map(|agent| (TASK_OF_AGENT, pair(agent, task.key))));
    all.push(life_of_task(task));
    all
}

/// That of its life: open, or ended at some time.
pub(super) fn life_of_task(task: &Task) -> (Table, Bytes) {
    if task.is_over() {
        (TASK_ENDED, pair(time(task.ended()), task.key))
    } else {
        (TASK_OPEN, key(task.key))
    }
}

/// The index documents of a closed session.
pub(super) fn of_closed(creator: &str, owner: &str, session: u64) -> [(Table, Bytes); 2] {
    [
        (CLOSED_BY_CREATOR, under(creator, session)),
        (CLOSED_BY_OWNER, under(owner, session)),
    ]
}

pub(super) fn put((table, key): (Table, Bytes)) -> Op {
    Op::Put {
        table,
        key,
        value: Bytes::new(),
    }
}

pub(super) fn delete((table, key): (Table, Bytes)) -> Op {
    Op::Delete { table, key }
}

/// Makes the index documents that are missing, or no longer known to be right.
pub fn prepare(write: &mut dyn Write, read: &mut dyn Read) -> Result<(), Error> {
    for (bit, table) in STAMPS {
        if read.stamped(table)? == Some(VERSION) {
            continue;
        }
        tracing::info!(table = table.0, "building the index of the store");
        let mut making = Making { write, ops: Vec::new() };
        match bit {
            TASK_STAMP => making.tasks(read)?,
            SESSION_STAMP => making.sessions(read)?,
            _ => making.answers(read)?,
        }
        // An interrupted one left no stamp, and is made again from the beginning.
        stamp(bit, &mut making.ops);
        making.flush()?;
    }
    Ok(())
}

struct Making<'a> {
    write: &'a mut dyn Write,
    ops: Vec<Op>,
}

impl Making<'_> {
    fn tasks(&mut self, read: &mut dyn Read) -> Result<(), Error> {
        self.clear(&[TASK_OPEN, TASK_ENDED, TASK_OF_AGENT, TASK_OF_SESSION])?;
        self.each(read, TASK, |making, key, value| {
            let task = docs::task(key, value).map_err(super::load::damaged)?;
            making.ops.extend(of_task(&task).into_iter().map(put));
            Ok(())
        })
    }

    fn sessions(&mut self, read: &mut dyn Read) -> Result<(), Error> {
        self.clear(&[CLOSED_BY_CREATOR, CLOSED_BY_OWNER])?;
        let mut closed = std::collections::BTreeMap::<Box<str>, u64>::new();
        self.each(read, CLOSED, |making, key, value| {
            let session: Session = docs::session(key, value).map_err(super::load::damaged)?;
            let index = of_closed(&session.creator, &session.metadata.owner_id, session.key);
            making.ops.extend(index.into_iter().map(put));
            *closed.entry((*session.creator).into()).or_default() += 1;
            Ok(())
        })?;
        for (user, value) in read.scan(USER_USAGE, &[], &END, usize::MAX)? {
            let text = String::from_utf8_lossy(&user);
            let mut usage = UserUsage::decode(value).map_err(|e| damaged(format!("what is kept of a user: {e}")))?;
            usage.closed = closed.remove(&*text).unwrap_or(0);
            self.put_usage(user, &usage);
        }
        for (user, closed) in closed {
            let usage = UserUsage { stored: 0, closed };
            self.put_usage(Bytes::copy_from_slice(user.as_bytes()), &usage);
        }
        Ok(())
    }

    fn put_usage(&mut self, user: Bytes, usage: &UserUsage) {
        self.ops.push(Op::Put {
            table: USER_USAGE,
            key: user,
            value: usage.encode_to_vec().into(),
        });
    }

    fn answers(&mut self, read: &mut dyn Read) -> Result<(), Error> {
        self.clear(&[FIRST_EXPIRES, FIRST_OF_SESSION])?;
        self.each(read, FIRST, |making, key, value| {
            let answer = Answer::decode(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))?;
            answer.put_index(&mut making.ops);
            Ok(())
        })
    }

    fn clear(&mut self, tables: &[Table]) -> Result<(), Error> {
        for table in tables {
            self.ops.push(Op::DeleteRange {
                table: *table,
                from: Bytes::new(),
                to: Bytes::copy_from_slice(&END),
            });
        }
        self.flush()
    }

    fn each(
        &mut self,
        read: &mut dyn Read,
        table: Table,
        mut make: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut from = Vec::new();
        loop {
            let page = read.scan(table, &from, &END, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            from = [last, &[0][..]].concat();
            for (key, value) in &page {
                make(self, key, value)?;
            }
            if self.ops.len() >= WRITTEN {
                self.flush()?;
            }
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let ops = std::mem::take(&mut self.ops);
        nexus_store::commit(self.write, &[&ops], &mut Vec::new())
    }
}

/// Keys of tasks that stand in an index under a prefix.
pub(super) fn numbers(
    read: &mut dyn Read,
    table: Table,
    from: &[u8],
    to: &[u8],
    limit: usize,
) -> Result<Vec<u64>, Error> {
    let found = read.scan(table, from, to, limit)?;
    found.iter().map(|(key, _)| super::last_number(key)).collect()
}

/// Keys in the table of open tasks.
pub(super) fn open_tasks(read: &mut dyn Read) -> Result<Vec<u64>, Error> {
    let found = read.scan(TASK_OPEN, &[], &END, usize::MAX)?;
    found.iter().map(|(key, _)| number(key)).collect()
}
