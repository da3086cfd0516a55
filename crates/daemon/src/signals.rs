//! Signals have a thread of their own, so that a second one ends even a daemon whose runtime hangs.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::Stop;

/// From here on SIGTERM and SIGINT stop, a second one exits at once; SIGHUP wakes `hangup`.
pub(crate) fn listen(stop: Stop, hangup: Arc<Notify>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (terminate, interrupt, hup) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        )
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || runtime.block_on(forward(terminate, interrupt, hup, stop, hangup)))?;
    Ok(())
}

async fn forward(mut terminate: Signal, mut interrupt: Signal, mut hup: Signal, stop: Stop, hangup: Arc<Notify>) {
    loop {
        let (name, code) = tokio::select! {
            Some(()) = terminate.recv() => ("SIGTERM", 143),
            Some(()) = interrupt.recv() => ("SIGINT", 130),
            Some(()) = hup.recv() => {
                hangup.notify_one();
                continue;
            }
            else => return,
        };
        if stop.is_requested() {
            tracing::warn!(signal = name, "asked a second time, leaving at once");
            std::process::exit(code);
        }
        tracing::info!(signal = name, "stopping; a second signal ends at once");
        stop.trigger();
    }
}
