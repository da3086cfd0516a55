//! What logind says of sleep, where there is one. Of all daemons only this one listens: the others learn of a wake by
//! their own clocks, as this one does without logind.
//!
//! ```text
//!   take the delay lock ─▶ PrepareForSleep(true): flush, tell ─▶ let the lock go ─▶ the host sleeps
//!            ▲                                                                             │
//!            └───────────── look at the clocks ◀── PrepareForSleep(false) ◀────────────────┘
//! ```

use std::time::Duration;

use futures_util::StreamExt;
use nexus_daemon::Wake;
use tokio_util::sync::CancellationToken;
use zbus::zvariant::OwnedFd;
use zbus::{Connection, MatchRule, MessageStream, message};

const NAME: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
/// Pause before a lost bus is connected again; until then sleeps are detected by the clocks alone.
const AGAIN: Duration = Duration::from_secs(60);
const CALL_WITHIN: Duration = Duration::from_secs(10);

pub async fn follow(wake: Wake, stop: CancellationToken) {
    let listen = async {
        let mut said = false;
        loop {
            if let Err(error) = listen(&wake).await
                && !std::mem::replace(&mut said, true)
            {
                tracing::info!(%error, "no logind here: a sleep is noticed by the clocks");
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    stop.run_until_cancelled(listen).await;
}

async fn listen(wake: &Wake) -> zbus::Result<()> {
    let bus = zbus::connection::Builder::system()?
        .method_timeout(CALL_WITHIN)
        .build()
        .await?;
    let rule = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender(NAME)?
        .path(PATH)?
        .interface(MANAGER)?
        .member("PrepareForSleep")?
        .build();
    let mut signals = MessageStream::for_match_rule(rule, &bus, Some(8)).await?;
    let mut lock = Some(inhibit(&bus).await?);
    tracing::info!("logind tells us before the host sleeps");
    while let Some(signal) = signals.next().await {
        let before: bool = signal?.body().deserialize()?;
        if before {
            wake.sleeping().await;
            // The host sleeps once all such locks are gone.
            drop(lock.take());
        } else {
            wake.look();
            lock = Some(inhibit(&bus).await?);
        }
    }
    drop(lock);
    Ok(())
}

/// The host waits with its sleep, up to logind's own limit, while this is held.
async fn inhibit(bus: &Connection) -> zbus::Result<OwnedFd> {
    let why = ("sleep", "Nexus", "flushing what is under way", "delay");
    let answer = bus
        .call_method(Some(NAME), PATH, Some(MANAGER), "Inhibit", &why)
        .await?;
    answer.body().deserialize()
}
