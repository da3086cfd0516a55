//! Notifies the service manager: READY once, RELOADING, STOPPING, and a watchdog driven by real work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::{Health, Stop};

/// What every HTTP/2 client says first: the preface and an empty SETTINGS frame.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

pub(crate) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "failed to notify the service manager");
    }
}

pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Answered by [`ready`] when the reload is over.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "failed to notify the service manager of the reload"),
    }
}

/// Feeds the watchdog, if the service manager has one, for as long as this daemon really answers.
pub(crate) async fn watchdog(socket: PathBuf, health: Health, stop: Stop) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    feed(limit, socket, health, stop, || tell(&[NotifyState::Watchdog])).await;
}

async fn feed(limit: Duration, socket: PathBuf, health: Health, stop: Stop, ping: impl Fn()) {
    let mut tick = tokio::time::interval(limit / 3);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.requested() => return,
        }
        match (health.is_serving(""), answers(&socket, limit / 3).await) {
            (Some(true), Ok(())) => ping(),
            (_, Err(reason)) => tracing::error!(reason, "the watchdog is not notified"),
            (_, Ok(())) if stop.is_requested() => return,
            (_, Ok(())) => tracing::error!("the watchdog is not notified: the daemon is not serving"),
        }
    }
}

/// Whether a caller would be heard: a connection to our own socket is accepted and spoken to. One closed at
/// once counts, since that is how a daemon with too many connections answers.
async fn answers(socket: &Path, limit: Duration) -> Result<(), String> {
    let greeting = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(HELLO).await?;
        let mut first = [0; 9];
        stream.read(&mut first).await
    };
    match timeout(limit, greeting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error))
            if matches!(
                error.kind(),
                std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        Ok(Err(error)) => Err(format!("our own socket cannot be reached: {error}")),
        Err(_) => Err("our own socket does not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::UnixListener;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(90);

    #[tokio::test]
    async fn an_answering_daemon_feeds_and_a_stop_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            }
        });
        let (health, stop) = (Health::new(), Stop::new());
        health.ready();
        let (fed, seen) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (pings, count) = (fed.clone(), seen.clone());
        let feeding = tokio::spawn(feed(LIMIT, path, health, stop.clone(), move || {
            count.fetch_add(1, Ordering::Relaxed);
            pings.add_permits(1);
        }));
        drop(
            timeout(Duration::from_secs(10), fed.acquire_many(2))
                .await
                .unwrap()
                .unwrap(),
        );
        stop.trigger();
        timeout(Duration::from_secs(10), feeding).await.unwrap().unwrap();
        accepting.abort();
    }

    #[tokio::test]
    async fn a_socket_that_is_not_served_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert!(answers(&path, LIMIT).await.unwrap_err().contains("cannot be reached"));
        // Listening is not enough: nobody accepts here.
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(answers(&path, LIMIT).await.unwrap_err().contains("does not answer"));
    }
}
