//! After a sleep of the host: leases get a grace period, and the wake is recorded.

use nexus_daemon::Wake;
use nexus_daemon::wake::{Recovered, Signal};
use nexus_proto::words;
use tokio::sync::broadcast::error::RecvError;

use super::Engine;

impl Engine {
    /// Hears of wakes from here on, and writes them down until `wake` ends with its daemon.
    pub fn follow(&self, wake: &Wake) {
        let engine = self.clone();
        wake.on_wake("timers", move |_| {
            engine.look_mut(|ledger| {
                let now = ledger.now();
                ledger.state.woke(now);
                // Armed by a clock that stood still: looked at again by the wall clock.
                ledger.alarm.ring();
            });
            std::future::ready(())
        });
        // On disk, with everything before it, while logind still waits.
        wake.before_sleep("log", {
            let engine = self.clone();
            move || {
                let engine = engine.clone();
                async move {
                    if let Err(error) = engine.tell(words::event::SYSTEM_SLEEP, &[]).await {
                        tracing::warn!(%error, "failed to record that the host sleeps");
                    }
                }
            }
        });
        // The log has to tell of the network, so its changes are listened for.
        wake.on_network(|_| {});
        tokio::spawn(self.clone().write_down(wake.signals()));
        let _second = self.shared.wake.set(wake.clone());
    }

    /// For who is about to act on a deadline.
    pub(super) fn look_at_clocks(&self) {
        if let Some(wake) = self.shared.wake.get() {
            wake.look();
        }
    }

    /// The last wake of this run.
    pub fn last_wake(&self) -> Option<Recovered> {
        self.shared.wake.get()?.last()
    }

    async fn write_down(self, mut signals: tokio::sync::broadcast::Receiver<Signal>) {
        loop {
            let signal = match signals.recv().await {
                Ok(signal) => signal,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "wakes and network changes came too fast to be recorded");
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            let told = match signal {
                Signal::Recovered(recovered) => self.tell_wake(&recovered).await,
                Signal::Network { up } => {
                    let state = if up { "up" } else { "down" };
                    self.tell(words::event::SYSTEM_NETWORK, &[("state", state)]).await
                }
                Signal::Sleeping | Signal::Woke(_) => Ok(()),
            };
            if let Err(error) = told {
                tracing::warn!(%error, "failed to record a wake or a change of the network");
            }
        }
    }

    async fn tell_wake(&self, recovered: &Recovered) -> Result<(), crate::domain::Error> {
        let slept = recovered.woke.away.as_millis().to_string();
        let took = recovered.took.as_millis().to_string();
        let data = [
            ("kind", recovered.woke.kind.name()),
            ("slept_ms", &*slept),
            ("recovered_ms", &*took),
        ];
        self.tell(words::event::SYSTEM_WAKE, &data).await
    }
}
