//! Queries of the store, in the engine's terms.

use bytes::Bytes;
use nexus_proto::agent::v1::{Task as WireTask, TaskFilter};
use nexus_proto::orchestrator::v1::{Event, Message};
use nexus_store::{Read, Reader, Row};
use prost::Message as _;

use super::index::numbers;
use super::{
    Answer, CHOSEN, CLOSED, CLOSED_BY_CREATOR, CLOSED_BY_OWNER, Changes, END, EVENT, FIRST, FIRST_EXPIRES,
    FIRST_OF_SESSION, MESSAGE, OVER, TASK, TASK_ENDED, TASK_OF_AGENT, TASK_OF_SESSION, above, damaged, docs, index,
    key, load, number, number_at, pair, text, time, under,
};
use crate::domain::session::Session;
use crate::domain::task::{Task, matches};
use crate::domain::turn::TurnEnd;
use crate::domain::{Error, Rules, State, Time, event, ids};

/// Index documents read at once.
const PAGE: usize = 512;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stored {
    pub(super) reader: Reader,
}

/// A row of the log.
#[derive(Debug)]
pub struct Logged {
    pub seq: u64,
    /// Of which session, 0 for none.
    pub session: u64,
    pub time: Time,
    pub what: RecordBody,
}

#[derive(Debug)]
pub enum RecordBody {
    Message(Message),
    Event(Event),
}

/// Whose closed sessions are asked for.
#[derive(Clone, Debug)]
pub enum ClosedOf {
    Everybody,
    Creator(String),
    Owner(String),
}

/// Which tasks are asked for.
#[derive(Clone, Debug)]
pub struct TasksOf {
    pub agent_id: String,
    pub filter: TaskFilter,
}

impl Stored {
    pub fn new(reader: Reader) -> Self {
        Stored { reader }
    }

    /// The newest row of the log: its sequence and its time.
    pub fn newest(&self) -> Result<(u64, Time), nexus_store::Error> {
        self.reader.now(|read| {
            let newest = read.newest()?;
            let row = read.log(newest.saturating_sub(1), 1, 1)?;
            Ok((newest, row.last().map_or(0, |row| row.time)))
        })
    }

    /// The state as it is on disk, and the highest key in use.
    pub fn load(&self, rules: Rules, now: Time) -> Result<(State, u64), nexus_store::Error> {
        self.reader.now(|read| load::load(read, rules, now))
    }

    /// How the turn of a message ended; `None` while it is open, or if it opened none.
    pub async fn ended_turn(&self, session: u64, n: u64) -> Result<Option<TurnEnd>, Error> {
        let kept = self.reader.get(OVER, pair(session, n).to_vec()).await?;
        kept.map(|value| docs::turn_end(&value)).transpose()
    }

    /// The number of the message to which a client gave this id.
    pub async fn sent_id(&self, session: u64, id: &str) -> Result<Option<u64>, Error> {
        let kept = self.reader.get(CHOSEN, text(session, id.as_bytes()).to_vec()).await?;
        Ok(kept.map(|value| number(&value)).transpose()?)
    }

    /// Ids that clients gave to messages of a session, with their numbers, at most `limit`.
    pub async fn sent_ids(&self, session: u64, limit: usize) -> Result<Vec<(String, u64)>, Error> {
        let (from, to) = (key(session).to_vec(), above(session).to_vec());
        let found = self.reader.scan(CHOSEN, from, to, limit).await?;
        let decoded = found.iter().map(|(key, n)| -> Result<_, Error> {
            let id = key.get(8..).unwrap_or_default();
            let id = String::from_utf8(id.to_vec()).map_err(|e| damaged(format!("a message id: {e}")))?;
            Ok((id, number(n)?))
        });
        decoded.collect()
    }

    /// Messages with `after < n < before`, oldest first; with `newest` the last `limit` of them.
    pub async fn messages(
        &self,
        session: u64,
        after: u64,
        before: u64,
        limit: usize,
        newest: bool,
    ) -> Result<Vec<Message>, Error> {
        let rows = self.reader.stream(session, after, before, limit, newest).await?;
        Ok(rows.iter().map(message).collect::<Result<_, _>>()?)
    }

    /// A session, closed or not, as it stands on disk.
    pub async fn session(&self, key: u64) -> Result<Option<Session>, Error> {
        Ok(self.reader.run(move |read| load::find_session(read, key)).await?)
    }

    /// Closed sessions after a key, in the order of their making, at most `limit`. They come without what stands beside
    /// their documents: heads, messages, what is kept of them.
    pub async fn closed_sessions(&self, of: ClosedOf, after: u64, limit: usize) -> Result<Vec<Session>, Error> {
        let read = move |read: &mut dyn Read| {
            let documents = match &of {
                ClosedOf::Everybody => read.scan(CLOSED, &above(after), &END, limit)?,
                ClosedOf::Creator(text) => listed(read, CLOSED_BY_CREATOR, text, after, limit)?,
                ClosedOf::Owner(text) => listed(read, CLOSED_BY_OWNER, text, after, limit)?,
            };
            let sessions = documents.iter().map(|(key, value)| docs::session(key, value));
            sessions.collect::<Result<Vec<_>, _>>().map_err(load::damaged)
        };
        Ok(self.reader.run(read).await?)
    }

    /// A task that is stored, open or not.
    pub async fn task(&self, task: u64) -> Result<Option<WireTask>, Error> {
        let kept = self.reader.get(TASK, key(task).to_vec()).await?;
        let task = kept.map(|value| docs::task(&key(task), &value)).transpose()?;
        Ok(task.map(|task| task.wire))
    }

    /// Tasks that a filter takes, oldest first, after a key, and the key of the last that was looked at; `None` after the
    /// last one.
    pub async fn tasks(&self, of: TasksOf, after: u64) -> Result<(Vec<WireTask>, Option<u64>), Error> {
        let read = move |read: &mut dyn Read| page_of_tasks(read, &of, after);
        Ok(self.reader.run(read).await?)
    }

    /// The first answer to a call.
    pub async fn first_answer(&self, key: &Bytes) -> Result<Option<Answer>, Error> {
        let kept = self.reader.get(FIRST, key.to_vec()).await?;
        Ok(kept.map(|value| Answer::decode(key.clone(), value)).transpose()?)
    }

    /// Rows of the log after a sequence, at most `limit`, and fewer where they are large.
    pub async fn log(&self, after: u64, limit: usize, bytes: usize) -> Result<(Vec<Logged>, u64, bool), Error> {
        let read = move |read: &mut dyn Read| {
            let rows = read.log(after, limit, bytes)?;
            let short = rows.len() < limit && rows.iter().map(|row| row.body.len()).sum::<usize>() < bytes;
            let rows = rows.into_iter().map(logged).collect::<Result<Vec<_>, _>>()?;
            Ok((rows, read.trimmed()?, short))
        };
        Ok(self.reader.run(read).await?)
    }

    /// The newest sequence before a time.
    pub async fn before(&self, time: Time) -> Result<u64, Error> {
        Ok(self.reader.before(time).await?)
    }

    pub async fn trimmed(&self) -> Result<u64, Error> {
        Ok(self.reader.trimmed().await?)
    }

    pub async fn size(&self) -> Result<u64, Error> {
        Ok(self.reader.size().await?)
    }

    /// Looks at every page of the store.
    pub async fn verify(&self) -> Result<(), Error> {
        Ok(self.reader.verify().await?)
    }

    /// Removes first answers that expired, at most `limit`.
    pub async fn forget_expired(&self, now: Time, limit: usize, changes: &mut Changes) -> Result<(), Error> {
        let read = move |read: &mut dyn Read| {
            let found = read.scan(FIRST_EXPIRES, &[], &key(time(now)), limit)?;
            let mut ops = Vec::new();
            for (entry, _) in found {
                let first = Bytes::copy_from_slice(entry.get(8..).unwrap_or_default());
                if let Some(value) = read.get(FIRST, &first)? {
                    let answer = Answer::decode(first, value)?;
                    // The same key may have a newer answer since.
                    if time(answer.expires) == number(&entry)? {
                        answer.delete(&mut ops);
                        continue;
                    }
                }
                ops.push(index::delete((FIRST_EXPIRES, entry)));
            }
            Ok(ops)
        };
        let ops = self.reader.run(read).await?;
        if !ops.is_empty() {
            changes.stamp(index::FIRST_STAMP);
            changes.ops.extend(ops);
        }
        Ok(())
    }

    /// Removes tasks that ended before a time, at most `limit`.
    pub async fn forget_tasks(&self, before: Time, limit: usize, changes: &mut Changes) -> Result<(), Error> {
        let read = move |read: &mut dyn Read| {
            let found = read.scan(TASK_ENDED, &[], &key(time(before)), limit)?;
            let mut ops = Vec::new();
            for (entry, _) in found {
                let task = number_at(&entry, 8)?;
                if let Some(value) = read.get(TASK, &key(task))? {
                    let task = docs::task(&key(task), &value).map_err(load::damaged)?;
                    ops.extend(index::of_task(&task).into_iter().map(index::delete));
                }
                ops.push(index::delete((TASK, key(task))));
                ops.push(index::delete((TASK_ENDED, entry)));
            }
            Ok(ops)
        };
        let ops = self.reader.run(read).await?;
        if !ops.is_empty() {
            changes.stamp(index::TASK_STAMP);
            changes.ops.extend(ops);
        }
        Ok(())
    }

    /// Removes first answers that name a session: they hold its words. At most `limit` of them; whether there may be more.
    pub async fn forget_answers(&self, session: u64, limit: usize, changes: &mut Changes) -> Result<bool, Error> {
        let read = move |read: &mut dyn Read| {
            let found = read.scan(FIRST_OF_SESSION, &key(session), &above(session), limit)?;
            let more = found.len() == limit;
            let mut ops = Vec::new();
            for (entry, _) in found {
                let first = Bytes::copy_from_slice(entry.get(8..).unwrap_or_default());
                if let Some(value) = read.get(FIRST, &first)? {
                    Answer::decode(first, value)?.delete(&mut ops);
                }
                ops.push(index::delete((FIRST_OF_SESSION, entry)));
            }
            Ok((ops, more))
        };
        let (ops, more) = self.reader.run(read).await?;
        if !ops.is_empty() {
            changes.stamp(index::FIRST_STAMP);
            changes.ops.extend(ops);
        }
        Ok(more)
    }
}

/// Documents of closed sessions that stand in an index under a text.
fn listed(
    read: &mut dyn Read,
    table: nexus_store::Table,
    text: &str,
    after: u64,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, nexus_store::Error> {
    let (from, to) = (under(text, after.saturating_add(1)), under(text, u64::MAX));
    let mut found = Vec::new();
    for session in numbers(read, table, &from, &to, limit)? {
        if let Some(value) = read.get(CLOSED, &key(session))? {
            found.push((key(session), value));
        }
    }
    Ok(found)
}

/// One page of tasks, by the index that fits the filter best. A key is never below the time of making, which bounds it too.
fn page_of_tasks(
    read: &mut dyn Read,
    of: &TasksOf,
    after: u64,
) -> Result<(Vec<WireTask>, Option<u64>), nexus_store::Error> {
    let filter = &of.filter;
    let least = filter
        .created_after
        .as_ref()
        .map_or(0, |at| ids::least(event::time(at)));
    let from = least.max(after + 1);
    let keys = match (ids::number(&of.agent_id), filter.session_id.as_str()) {
        (None, "") if of.agent_id.is_empty() => numbers(read, TASK, &key(from), &END, PAGE)?,
        (None, session) if of.agent_id.is_empty() => {
            let (from, to) = (under(session, from), under(session, u64::MAX));
            numbers(read, TASK_OF_SESSION, &from, &to, PAGE)?
        }
        (None, _) => Vec::new(),
        (Some(agent), "") => numbers(read, TASK_OF_AGENT, &pair(agent, from), &pair(agent, u64::MAX), PAGE)?,
        (Some(_), session) => numbers(
            read,
            TASK_OF_SESSION,
            &under(session, from),
            &under(session, u64::MAX),
            PAGE,
        )?,
    };
    let last = keys.last().copied().filter(|_| keys.len() == PAGE);
    let mut tasks = Vec::new();
    for task in keys {
        let Some(value) = read.get(TASK, &key(task))? else {
            continue;
        };
        let task: Task = docs::task(&key(task), &value).map_err(load::damaged)?;
        if (of.agent_id.is_empty() || task.wire.agent_id == of.agent_id) && matches(&task.wire, filter) {
            tasks.push(task.wire);
        }
    }
    Ok((tasks, last))
}

fn message(row: &Row) -> Result<Message, nexus_store::Error> {
    Message::decode(row.body.clone()).map_err(|e| damaged(format!("row {}: {e}", row.seq)))
}

fn logged(row: Row) -> Result<Logged, nexus_store::Error> {
    let what = match row.kind {
        MESSAGE => RecordBody::Message(message(&row)?),
        EVENT => {
            let event = Event::decode(row.body.clone());
            RecordBody::Event(event.map_err(|e| damaged(format!("row {}: {e}", row.seq)))?)
        }
        other => return Err(damaged(format!("row {} is of kind {other}", row.seq))),
    };
    Ok(Logged {
        seq: row.seq,
        session: row.stream,
        time: row.time,
        what,
    })
}
