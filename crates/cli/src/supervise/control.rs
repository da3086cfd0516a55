//! The supervisor's own socket, and the task that answers on it. Programs that clean up old files may remove the socket's
//! file; then the path is bound again, and connections that are open go on.

use std::{io, os::unix::net::UnixStream, path::PathBuf, sync::Arc};

use nexus_daemon::listener::Kept;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};

use super::{dispatcher::Input, executor, server};
use crate::supervise::model::Snapshot;

pub struct Control {
    path: PathBuf,
    /// `None` while the path cannot be bound.
    kept: Option<Kept>,
    answering: JoinHandle<()>,
    heard: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    room: Arc<Semaphore>,
}

/// What became of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Ours,
    /// Another supervisor listens at the path.
    Taken,
}

impl Control {
    pub fn new(
        path: PathBuf,
        kept: Kept,
        heard: mpsc::Sender<Input>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        room: Arc<Semaphore>,
    ) -> io::Result<Control> {
        let listener = executor::listen(&kept)?;
        let answering = server::run(listener, heard.clone(), snapshots.clone(), room.clone());
        Ok(Control {
            path,
            kept: Some(kept),
            answering: tokio::spawn(answering),
            heard,
            snapshots,
            room,
        })
    }

    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Binds the path again if its file is gone.
    pub fn keep(&mut self) -> Held {
        if self.kept.as_ref().is_some_and(Kept::is_there) {
            return Held::Ours;
        }
        if UnixStream::connect(&self.path).is_ok() {
            return Held::Taken;
        }
        // Given up first: its lock is ours, and would be in our own way.
        self.kept = None;
        let bound = Kept::bind(&self.path, 0o600, None).map_err(io::Error::other);
        match bound.and_then(|kept| Ok((executor::listen(&kept)?, kept))) {
            Ok((listener, kept)) => {
                self.answering.abort();
                let (heard, snapshots) = (self.heard.clone(), self.snapshots.clone());
                self.answering = tokio::spawn(server::run(listener, heard, snapshots, self.room.clone()));
                self.kept = Some(kept);
                eprintln!("the socket {} was gone, and is bound again", self.path.display());
            }
            // Tried again with the next look.
            Err(error) => eprintln!(
                "the socket {} is gone and cannot be bound again: {error}",
                self.path.display()
            ),
        }
        Held::Ours
    }

    /// Nobody new is heard, and the path is free.
    pub fn close(self) {
        self.answering.abort();
    }
}
