//! Serves commands on the control socket; the protocol is in [`crate::supervise::channel`].

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use super::dispatcher::Input;
use crate::{
    failure::{Exit, Failure},
    supervise::{
        channel::{Answer, PROTOCOL, Request},
        model::Snapshot,
    },
};

pub const MOST_AT_ONCE: usize = 64;
const LONGEST_QUESTION: u64 = 64 << 10;
/// How long a question may take to arrive, and a snapshot to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Until the supervisor ends.
pub async fn run(
    listener: UnixListener,
    heard: mpsc::Sender<Input>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    room: Arc<Semaphore>,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of descriptors: there are some again when somebody leaves.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let own = nix::unistd::geteuid().as_raw();
        let known = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
        let Ok(place) = room.clone().try_acquire_owned() else {
            continue;
        };
        if !known {
            continue;
        }
        let (heard, snapshots) = (heard.clone(), snapshots.clone());
        tokio::spawn(async move {
            // Who hung up does not want an answer.
            let _gone = serve(stream, heard, snapshots).await;
            drop(place);
        });
    }
}

async fn serve(
    stream: UnixStream,
    heard: mpsc::Sender<Input>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LONGEST_QUESTION));
    timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let request: Request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => return say(&mut writer, &refuse(Failure::usage(format!("not a question: {error}")))).await,
    };
    if request.protocol != PROTOCOL {
        let said = format!(
            "the supervisor (nexus {}) uses protocol version {PROTOCOL}, this command version {}",
            env!("CARGO_PKG_VERSION"),
            request.protocol
        );
        let failure = Failure::new(Exit::Failed, said).hint("stop it with the nexus that started it: nexus down");
        return say(&mut writer, &refuse(failure)).await;
    }
    let follow = request.follow;
    let (reply, answer) = oneshot::channel();
    if heard.send(Input::Command { request, reply }).await.is_err() {
        return Ok(());
    }
    let Ok(answer) = answer.await else { return Ok(()) };
    let mut told = match answer {
        Ok(snapshot) => snapshot,
        Err(failure) => return say(&mut writer, &refuse(failure)).await,
    };
    say(&mut writer, &Answer::Snapshot(Box::new((*told).clone()))).await?;
    if !follow {
        return Ok(());
    }
    let mut byte = [0];
    loop {
        let now = snapshots.borrow_and_update().clone();
        if !Arc::ptr_eq(&now, &told) {
            told = now;
            say(&mut writer, &Answer::Snapshot(Box::new((*told).clone()))).await?;
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return Ok(()) },
            // Who follows says nothing more: this is the end.
            _ = reader.read(&mut byte) => return Ok(()),
        }
    }
}

fn refuse(failure: Failure) -> Answer {
    Answer::Refused {
        exit: failure.exit as u8,
        message: failure.message,
        hint: failure.hint,
    }
}

async fn say(writer: &mut tokio::net::unix::OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await?
}
