//! Builds and stops a daemon. The same code runs in the process and in tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use crate::daemon::{Boot, BootError, Built, Daemon, Reload, chain};
use crate::serve::ServeError;
use crate::settings::Plan;
use crate::wake::Clock;
use crate::{Health, OwnToken, Stop, Wake, listener, metrics, serve, token};

/// A daemon that serves.
pub(crate) struct Started<C> {
    pub socket: PathBuf,
    pub tcp: Option<std::net::SocketAddr>,
    pub reload: Option<Reload<C>>,
    pub wake: Wake,
    serving: JoinHandle<Result<(), ServeError>>,
    flush: Option<BoxFuture<'static, ()>>,
    flush_budget: Duration,
}

/// Binds, builds, serves; ready when it returns. `None`: a stop came first.
pub(crate) async fn start<D: Daemon>(
    plan: &Plan<D>,
    health: &Health,
    stop: &Stop,
    clock: Arc<dyn Clock>,
) -> Result<Option<Started<D::Config>>, BootError> {
    plan.root.create().map_err(|error| BootError::Failed(chain(&error)))?;
    match token::sweep(&plan.root.token_file()) {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "removed leftovers of killed commands beside the token file"),
        Err(error) => tracing::warn!(reason = chain(&error), "failed to remove leftovers of a killed command"),
    }
    let own_token = own_token(plan)?;
    // Before the store is opened: whoever holds the socket holds the store.
    let listeners = listener::bind(&plan.listen).await?;
    let (every, threshold) = (plan.common.wake_check, plan.common.wake_threshold);
    let wake = Wake::new(clock, every, threshold, health.clone(), stop.clone());
    let boot = Boot {
        config: plan.config.clone(),
        common: plan.common.clone(),
        root: plan.root.clone(),
        service: plan.service.clone(),
        socket: listeners.socket().to_path_buf(),
        health: health.clone(),
        own_token: own_token.clone(),
        stop: stop.clone(),
        wake: wake.clone(),
    };
    let Built {
        services,
        reload,
        flush,
    } = tokio::select! {
        built = D::build(boot) => built?,
        () = stop.requested() => return Ok(None),
    };
    health.follow(D::NAME);
    health.follow(&plan.service);
    let (socket, tcp) = (listeners.socket().to_path_buf(), listeners.tcp());
    health.ready();
    let serving = tokio::spawn(serve::serve(
        listeners,
        services,
        serve::ServeOptions {
            own_token,
            ..plan.serve.clone()
        },
        health.clone(),
        stop.clone(),
    ));
    tokio::spawn(wake.clone().watch());
    if let Some(bind) = plan.metrics.clone() {
        tokio::spawn(show_metrics(bind, health.clone(), stop.clone()));
    }
    let flush_budget = plan.common.stop_budget.saturating_sub(plan.serve.stop_budget);
    Ok(Some(Started {
        socket,
        tcp,
        reload,
        wake,
        serving,
        flush,
        flush_budget,
    }))
}

fn own_token<D: Daemon>(plan: &Plan<D>) -> Result<Option<OwnToken>, BootError> {
    if !plan.common.require_token {
        return Ok(None);
    }
    let path = plan.root.own_token_file();
    let found = OwnToken::establish(&path).map_err(|error| {
        let path = path.display();
        BootError::Failed(format!(
            "[common] require_token needs a token of Nexus' own in {path}: {error}; stop all daemons, then remove it"
        ))
    });
    found.map(Some)
}

async fn show_metrics(bind: metrics::MetricsBind, health: Health, stop: Stop) {
    if let Err(error) = metrics::expose(bind, stop).await {
        let reason = chain(&error);
        tracing::error!(reason, "metrics are not served");
        health.degrade("metrics", Some(reason));
    }
}

impl<C> Started<C> {
    /// Until the last call has ended after a stop, or serving failed.
    pub async fn served(&mut self) -> Result<(), BootError> {
        match (&mut self.serving).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(BootError::Config(vec![chain(&error)])),
            Err(error) => Err(BootError::Failed(format!("serving ended by a bug: {error}"))),
        }
    }

    /// After [`Started::served`]: what must reach the disk does, within what is left of the budget.
    pub async fn flushed(self) -> Result<(), BootError> {
        let Some(flush) = self.flush else { return Ok(()) };
        tokio::time::timeout(self.flush_budget, flush).await.map_err(|_| {
            BootError::Failed(format!(
                "the flush did not end within {:?}, a quarter of stop_budget",
                self.flush_budget
            ))
        })
    }
}
