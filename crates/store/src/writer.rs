//! The writer thread: takes what has queued up, commits it as one group, and hands the receipts back in order.
//!
//! A failed group poisons what was built on it. Its transactions, and all later ones of the same epoch, come back with
//! an error; the owner rebuilds its state from the store and goes on in the next epoch.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::{Backend, Commit, Error, GroupId, Op, Options, Outcome, Room, Write};

/// What the owner wants back after a commit.
pub trait Receipt: Send + 'static {
    /// Called on the writer thread, before the group is handed back: the place for work that needs the sequence.
    fn committed(&mut self, first_seq: u64);
}

/// Changes that happen together, and whom to tell.
#[derive(Debug)]
pub struct Transaction<T> {
    /// Rises with each rebuild of the owner's state.
    pub epoch: u64,
    /// False for changes that must work on a disk that is nearly full: closing, deleting, trimming.
    pub grows: bool,
    /// The changes, in order: all happen, or none.
    pub ops: Vec<Op>,
    /// Handed back when the outcome is known.
    pub receipt: T,
}

/// The outcome of one group: receipts in the order in which they were sent.
#[derive(Debug)]
pub struct Committed<T> {
    /// Each receipt with the outcome of its transaction.
    pub receipts: Vec<(T, Result<(), Error>)>,
    /// The changes, for the owner to drop: memory given back by the thread that took it is given back without a lock.
    pub spent: Vec<Vec<Op>>,
}

/// Cheap to clone. The writer stops when the last clone is gone.
#[derive(Debug)]
pub struct Writer<T> {
    queue: mpsc::Sender<Transaction<T>>,
    /// Its sender lives on the writer thread and is dropped last.
    alive: watch::Receiver<()>,
}

impl<T> Clone for Writer<T> {
    fn clone(&self) -> Self {
        Writer {
            queue: self.queue.clone(),
            alive: self.alive.clone(),
        }
    }
}

/// A reserved slot of the queue, so that sending cannot wait or fail.
#[derive(Debug)]
pub struct Permit<'a, T>(mpsc::Permit<'a, Transaction<T>>);

impl<T> Permit<'_, T> {
    /// Queues the transaction, behind all that were sent before.
    pub fn send(self, transaction: Transaction<T>) {
        self.0.send(transaction);
    }
}

impl<T: Receipt> Writer<T> {
    /// Waits for a free slot of the queue.
    pub async fn reserve(&self) -> Result<Permit<'_, T>, Error> {
        self.queue.reserve().await.map(Permit).map_err(|_| Error::Closed)
    }

    /// A place in the queue if there is one now.
    pub fn try_reserve(&self) -> Result<Permit<'_, T>, Error> {
        self.queue.try_reserve().map(Permit).map_err(|e| match e {
            mpsc::error::TrySendError::Full(()) => Error::Busy,
            mpsc::error::TrySendError::Closed(()) => Error::Closed,
        })
    }

    /// Waits until the writer has ended, which it does once every other clone is gone. False if the budget ran out.
    pub async fn closed(self, budget: Duration) -> bool {
        let Writer { queue, mut alive } = self;
        drop(queue);
        let gone = async { while alive.changed().await.is_ok() {} };
        tokio::time::timeout(budget, gone).await.is_ok()
    }

    pub(crate) fn spawn(
        backend: Arc<dyn Backend>,
        write: Box<dyn Write>,
        options: &Options,
        room: Option<Room>,
        committed: impl FnMut(Committed<T>) + Send + 'static,
    ) -> Result<Self, Error> {
        let (queue, transactions) = mpsc::channel(options.queue);
        let (life, alive) = watch::channel(());
        let batch = options.batch;
        let path = backend.directory().map(Into::into).unwrap_or_default();
        std::thread::Builder::new()
            .name("store-writer".into())
            .stack_size(512 << 10)
            .spawn(move || {
                run(transactions, write, room, batch, committed);
                drop(life);
            })
            .map_err(|e| Error::Io {
                path,
                doing: "start the writer",
                cause: e.to_string(),
            })?;
        Ok(Writer { queue, alive })
    }
}

fn charge(room: &Room, ops: &[Op]) -> Result<(), Error> {
    room.charge(ops.len(), ops.iter().map(Op::bytes).sum())
}

/// How long the outcome of a commit is asked for, and the first and the longest pause between two questions.
const ASK_FOR: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Commits a group and does not rest before it is known what became of it: after an answer that was lost the group is asked
/// for by its id, and sent again if it never arrived.
///
/// # Errors
/// Nothing of the group has happened; or, with [`Error::Unknown`], that could not be found out in time.
pub fn commit(write: &mut dyn Write, group: &[&[Op]], seqs: &mut Vec<u64>) -> Result<(), Error> {
    let (id, lease) = (group_id(), write.lease());
    let (mut left, mut pause) = (ASK_FOR, PAUSE);
    let mut answer = write.commit(id, group, lease, seqs);
    loop {
        let cause = match answer {
            Commit::Done => return Ok(()),
            Commit::Refused(error) => return Err(error),
            Commit::Unknown(cause) => cause,
        };
        tracing::warn!(%cause, "the answer to a commit was lost; asking for its outcome");
        answer = match write.outcome(id, group, lease, seqs) {
            Outcome::Done => return Ok(()),
            Outcome::Refused(error) => return Err(error),
            Outcome::Never => write.commit(id, group, lease, seqs),
            Outcome::Unknown if left.is_zero() => {
                return Err(Error::Unknown {
                    waited_s: ASK_FOR.as_secs(),
                    cause: cause.to_string(),
                });
            }
            Outcome::Unknown => {
                let wait = pause.min(left);
                std::thread::sleep(wait);
                left -= wait;
                pause = (pause * 2).min(LONGEST_PAUSE);
                Commit::Unknown(cause)
            }
        };
    }
}

/// Never given twice: a count within this process beside what is drawn for the process.
fn group_id() -> GroupId {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let process = *PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    GroupId(u128::from(process) << 64 | u128::from(count))
}

fn run<T: Receipt>(
    mut queue: mpsc::Receiver<Transaction<T>>,
    mut write: Box<dyn Write>,
    room: Option<Room>,
    batch: usize,
    mut committed: impl FnMut(Committed<T>),
) {
    let mut group = Vec::with_capacity(batch);
    let mut seqs = Vec::with_capacity(batch);
    let mut failed_epoch = None;
    let mut full = false;
    while queue.blocking_recv_many(&mut group, batch) > 0 {
        let mut receipts: Vec<(T, Result<(), Error>)> = Vec::with_capacity(group.len());
        let mut spent: Vec<Vec<Op>> = Vec::with_capacity(group.len());
        let mut refused: Vec<(T, Result<(), Error>)> = Vec::new();
        let mut newest_epoch = None;
        for Transaction {
            epoch,
            grows,
            ops,
            receipt,
        } in group.drain(..)
        {
            if failed_epoch.is_some_and(|failed| epoch <= failed) {
                refused.push((receipt, Err(Error::Superseded)));
            } else if let Some(low) = room
                .as_ref()
                .filter(|_| grows)
                .and_then(|room| charge(room, &ops).err())
            {
                failed_epoch = Some(epoch);
                refused.push((receipt, Err(low)));
            } else {
                newest_epoch = Some(epoch);
                spent.push(ops);
                receipts.push((receipt, Ok(())));
            }
        }
        if !receipts.is_empty() {
            seqs.clear();
            let ops: Vec<&[Op]> = spent.iter().map(Vec::as_slice).collect();
            match commit(write.as_mut(), &ops, &mut seqs) {
                Ok(()) => {
                    if std::mem::take(&mut full) {
                        tracing::info!("the disk has room again");
                    }
                    for ((receipt, _), seq) in receipts.iter_mut().zip(&seqs) {
                        receipt.committed(*seq);
                    }
                }
                Err(error) => {
                    // A disk stays full for a while; that it is full is told once.
                    if !(full && error.is_space()) {
                        tracing::error!(%error, transactions = receipts.len(), "failed to commit");
                    }
                    full = error.is_space();
                    failed_epoch = newest_epoch;
                    for (_, result) in &mut receipts {
                        *result = Err(error.clone());
                    }
                }
            }
        }
        if let Some(room) = &room {
            room.committed();
        }
        receipts.append(&mut refused);
        committed(Committed { receipts, spent });
    }
    if let Err(error) = write.close() {
        tracing::warn!(%error, "failed to close the store tidily");
    }
}
