//! Readers beside the writer: a few connections, opened when first needed, used from blocking threads.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::{Backend, Error, Head, Options, Read, Row, Table};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Arc<dyn Backend>,
    idle: Mutex<Vec<Box<dyn Read>>>,
    turns: Arc<Semaphore>,
    deadline: Duration,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new(backend: Arc<dyn Backend>, options: &Options) -> Self {
        Reader {
            inner: Arc::new(Inner {
                backend,
                idle: Mutex::new(Vec::new()),
                turns: Arc::new(Semaphore::new(options.readers)),
                deadline: options.read_deadline,
            }),
        }
    }

    /// Runs `f` on this thread: for the start of a process, before it serves.
    pub fn now<R>(&self, f: impl FnOnce(&mut dyn Read) -> Result<R, Error>) -> Result<R, Error> {
        let mut read = self.inner.take()?;
        let result = f(read.as_mut());
        self.inner.give_back(read);
        result
    }

    /// Runs `f` on a blocking thread, once a reader is free.
    pub async fn run<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut dyn Read) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let turn = tokio::time::timeout(self.inner.deadline, self.inner.turns.clone().acquire_owned());
        let turn = turn.await.map_err(|_| Error::Busy)?.map_err(|_| Error::Closed)?;
        let this = self.clone();
        let job = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            this.now(f)
        });
        job.await.map_err(|_| Error::Closed)?
    }

    /// Rows after the sequence `after`, in log order: at most `limit`, and none after `max_bytes` of bodies are
    /// passed.
    pub async fn log(&self, after: u64, limit: usize, max_bytes: usize) -> Result<Vec<Row>, Error> {
        self.run(move |r| r.log(after, limit, max_bytes)).await
    }

    /// Numbered rows of a stream with `after < n < before`, oldest first; with `newest` the last `limit` of them.
    pub async fn stream(
        &self,
        stream: u64,
        after: u64,
        before: u64,
        limit: usize,
        newest: bool,
    ) -> Result<Vec<Row>, Error> {
        self.run(move |r| r.stream(stream, after, before, limit, newest)).await
    }

    /// One document; `None` if there is none of this key.
    pub async fn get(&self, table: Table, key: Vec<u8>) -> Result<Option<Bytes>, Error> {
        self.run(move |r| r.get(table, &key)).await
    }

    /// Documents with `from <= key < to` in key order, at most `limit`.
    pub async fn scan(
        &self,
        table: Table,
        from: Vec<u8>,
        to: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.run(move |r| r.scan(table, &from, &to, limit)).await
    }

    /// The newest numbered row of each stream, in their order; `None` for a stream without one.
    pub async fn heads(&self, streams: Vec<u64>) -> Result<Vec<Option<Head>>, Error> {
        self.run(move |r| r.heads(&streams)).await
    }

    /// The last trimmed sequence, 0 if none ever was.
    pub async fn trimmed(&self) -> Result<u64, Error> {
        self.run(|r| r.trimmed()).await
    }

    /// The newest sequence whose time (nanoseconds since the epoch) is before `time`, 0 if there is none.
    pub async fn before(&self, time: i64) -> Result<u64, Error> {
        self.run(move |r| r.before(time)).await
    }

    /// Bytes that the store takes on disk.
    pub async fn size(&self) -> Result<u64, Error> {
        self.run(|r| r.size()).await
    }

    /// Checks every page; [`Error::Damaged`] says what is wrong.
    pub async fn verify(&self) -> Result<(), Error> {
        self.run(|r| r.verify()).await
    }
}

impl Inner {
    fn take(&self) -> Result<Box<dyn Read>, Error> {
        let idle = self
            .idle
            .lock()
            .expect("no reader panics while it holds the list")
            .pop();
        idle.map_or_else(|| self.backend.open_read(), Ok)
    }

    fn give_back(&self, read: Box<dyn Read>) {
        self.idle
            .lock()
            .expect("no reader panics while it holds the list")
            .push(read);
    }
}
