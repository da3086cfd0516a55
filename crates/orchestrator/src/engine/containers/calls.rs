//! The calls about existing containers.

use std::time::Duration;

use nexus_proto::common::v1::ResourceUsage;
use nexus_proto::orchestrator::v1::{
    Container as Wire, ContainerFilter, ContainerState, ExecContainerRequest, ExecContainerResponse,
    RemoveContainerRequest, RemoveContainerResponse, StopContainerRequest, StopContainerResponse,
};
use nexus_runtime::{Chunks, ExecSpec, Found, LogOptions};

use super::{Containers, Requester, time};
use crate::domain::Error;
use crate::domain::container::{Container, Phase};
use crate::engine::Once;

/// How long a command may take that does not say.
const EXEC_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_EXEC: Duration = Duration::from_secs(24 * 3600);

impl Containers {
    fn find(&self, id: &str, who: &Requester) -> Result<Container, Error> {
        self.engine()
            .look(|ledger| ledger.state.containers.find(id, who.view()).cloned())
    }

    /// Its engine, and only if it runs.
    async fn running(&self, one: &Container, wanted: &'static str) -> Result<Found, Error> {
        if one.phase != Phase::Running {
            return Err(state(one, wanted));
        }
        self.engine_of(&one.engine).await
    }

    pub async fn get(&self, id: &str, who: &Requester) -> Result<Wire, Error> {
        let one = self.find(id, who)?;
        if one.phase == Phase::Running {
            match self.look_at(&one).await {
                Ok(_) => {}
                // It has ended, and that was not told yet.
                Err(Error::Runtime(nexus_runtime::Error::State { .. } | nexus_runtime::Error::NotFound(_))) => {
                    let found = self.engine_of(&one.engine).await?;
                    self.settle(&found, one.key, &one.engine_id).await?;
                }
                Err(error) => tracing::debug!(%error, container = id, "failed to see what a container uses"),
            }
        }
        // What was seen meanwhile may have changed it.
        match self.find(id, who) {
            Err(Error::ContainerNotFound(_)) => Ok(one.wire()),
            now => Ok(now?.wire()),
        }
    }

    pub fn list(&self, filter: &ContainerFilter, who: &Requester) -> Vec<Wire> {
        self.engine().look(|ledger| {
            let all = ledger.state.containers.iter();
            let shown =
                all.filter(|one| ledger.state.containers.find(&one.id, who.view()).is_ok() && one.shows(filter));
            shown.map(Container::wire).collect()
        })
    }

    pub fn active(&self) -> usize {
        self.engine().look(|ledger| {
            ledger
                .state
                .containers
                .iter()
                .filter(|one| one.phase == Phase::Running)
                .count()
        })
    }

    pub async fn stop(
        &self,
        once: Option<Once>,
        request: StopContainerRequest,
        who: &Requester,
    ) -> Result<StopContainerResponse, Error> {
        let timeout = match u64::try_from(request.timeout_ns) {
            Err(_) => return Err(Error::Invalid("timeout_ns must not be negative".into())),
            Ok(0) => self.options().stop_timeout,
            Ok(ns) => Duration::from_nanos(ns),
        };
        let stopped = async {
            let one = self.find(&request.container_id, who)?;
            let this = self.clone();
            let stopped = tokio::spawn(async move { this.stop_now(&one, timeout).await });
            let state = stopped
                .await
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            Ok(StopContainerResponse {
                container_id: request.container_id,
                state: state.into(),
            })
        };
        self.engine().once_done(once, stopped).await
    }

    pub(super) async fn stop_now(&self, one: &Container, timeout: Duration) -> Result<ContainerState, Error> {
        let _hold = self.held(one.key).await?;
        let key = one.key;
        let runs = self
            .engine()
            .write(|state, step| {
                let phase = state.containers.get(key).map(|one| one.phase);
                if !matches!(phase, Some(Phase::Exited | Phase::Lost | Phase::Removing) | None) {
                    state.stop_container(step, key);
                }
                Ok(matches!(phase, Some(Phase::Running | Phase::Paused)))
            })
            .await?;
        if runs {
            let found = self.engine_of(&one.engine).await?;
            let after = self.options().engine_timeout + timeout;
            let stopped = self
                .ask_for(
                    &found,
                    "stop a container",
                    after,
                    found.engine.stop(&one.engine_id, timeout),
                )
                .await;
            match stopped {
                Ok(()) | Err(Error::Runtime(nexus_runtime::Error::NotFound(_))) => {}
                Err(error) => return Err(error),
            }
            self.settle(&found, key, &one.engine_id).await?;
        }
        self.engine().look(|ledger| match ledger.state.containers.get(key) {
            Some(now) => Ok(now.state()),
            None => Ok(ContainerState::Exited),
        })
    }

    /// Once it is noted that a container is to be removed it will be, whatever becomes of this call.
    pub async fn remove(
        &self,
        once: Option<Once>,
        request: RemoveContainerRequest,
        who: &Requester,
    ) -> Result<RemoveContainerResponse, Error> {
        let answer = RemoveContainerResponse {
            container_id: request.container_id.clone(),
        };
        let Some(once) = once else {
            return self.remove_now(None, request, who).await.map(|()| answer);
        };
        let _gate = self.engine().gate(&once).await;
        match self.engine().first(&once).await? {
            Some(answer) => Ok(answer),
            None => self.remove_now(Some(once.clone()), request, who).await.map(|()| answer),
        }
    }

    async fn remove_now(
        &self,
        once: Option<Once>,
        request: RemoveContainerRequest,
        who: &Requester,
    ) -> Result<(), Error> {
        let one = self.find(&request.container_id, who)?;
        if !request.force && matches!(one.phase, Phase::Running | Phase::Paused | Phase::Restarting { .. }) {
            return Err(state(&one, "stop it first, or use force"));
        }
        let this = self.clone();
        let removed = tokio::spawn(async move {
            let key = one.key;
            let _hold = this.held(key).await?;
            let noted = this.engine().queue_with(
                |parts, step| {
                    parts.state.remove_container(step, key);
                    Ok(RemoveContainerResponse {
                        container_id: one.id.to_string(),
                    })
                },
                |answer| once.map(|once| once.keep(answer)),
            );
            noted.await?.done().await?;
            this.forget(&one).await
        });
        removed
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Has its engine forget it, and then forgets it too.
    pub(super) async fn forget(&self, one: &Container) -> Result<(), Error> {
        if !one.engine_id.is_empty() {
            let found = self.engine_of(&one.engine).await?;
            self.ask(&found, "remove a container", found.engine.remove(&one.engine_id, true))
                .await?;
        }
        let key = one.key;
        let gone = self.engine().write(|state, step| {
            if state.containers.get(key).is_some() {
                state.container_gone(step, key, None);
            }
            Ok(())
        });
        gone.await?;
        self.inner.samples.lock().remove(&key);
        Ok(())
    }

    /// Brings the record up to what its engine says of it.
    pub(super) async fn settle(&self, found: &Found, key: u64, engine_id: &str) -> Result<(), Error> {
        let info = match self
            .ask(found, "look at a container", found.engine.inspect(engine_id))
            .await
        {
            Ok(info) => Some(info),
            Err(Error::Runtime(nexus_runtime::Error::NotFound(_))) => None,
            Err(error) => return Err(error),
        };
        self.note(key, info.as_ref()).await
    }

    pub(super) async fn note(&self, key: u64, info: Option<&nexus_runtime::Info>) -> Result<(), Error> {
        use nexus_runtime::State as Engine;
        self.engine()
            .write(|state, step| {
                let Some(one) = state.containers.get_mut(key) else {
                    return Ok(());
                };
                match info {
                    None if matches!(one.phase, Phase::Running | Phase::Paused) => state.container_lost(step, key),
                    Some(info) if matches!(info.state, Engine::Exited | Engine::Removing) => {
                        let exit = info.exit.unwrap_or_default();
                        state.container_ended(step, key, exit.code, exit.oom, info.exited.and_then(time));
                    }
                    Some(info) => {
                        one.healthy = info.healthy;
                        match (one.phase, info.state) {
                            (Phase::Running, Engine::Paused) => one.phase = Phase::Paused,
                            (Phase::Paused, Engine::Running) => one.phase = Phase::Running,
                            _ => {}
                        }
                    }
                    None => {}
                }
                Ok(())
            })
            .await
    }

    pub async fn logs(&self, id: &str, options: LogOptions, who: &Requester) -> Result<Chunks, Error> {
        let one = self.find(id, who)?;
        let found = self.engine_of(&one.engine).await?;
        self.ask(&found, "read logs", found.engine.logs(&one.engine_id, options))
            .await
    }

    pub async fn exec(&self, request: ExecContainerRequest, who: &Requester) -> Result<ExecContainerResponse, Error> {
        let one = self.find(&request.container_id, who)?;
        if request.command.is_empty() {
            return Err(Error::Required("command"));
        }
        let timeout = match u64::try_from(request.timeout_ns) {
            Err(_) => return Err(Error::Invalid("timeout_ns must not be negative".into())),
            Ok(0) => EXEC_TIMEOUT,
            Ok(ns) => Duration::from_nanos(ns).min(LONGEST_EXEC),
        };
        let found = self.running(&one, "only a running one takes commands").await?;
        self.inner.runtime.allows(&one.engine).map_err(Error::Runtime)?;
        let spec = ExecSpec {
            command: request.command,
            env: request.env.into_iter().collect(),
            working_dir: request.working_dir,
            user: String::new(),
            stdin: request.stdin,
            max_output: 0,
            timeout: Some(timeout),
        };
        let after = timeout + self.options().engine_timeout;
        let done = self
            .ask_for(&found, "run a command", after, found.engine.exec(&one.engine_id, spec))
            .await?;
        Ok(ExecContainerResponse {
            exit_code: done.code,
            stdout: done.stdout,
            stderr: done.stderr,
            truncated: done.truncated,
            timed_out: done.timed_out,
        })
    }

    pub async fn stats(&self, id: &str, who: &Requester) -> Result<ResourceUsage, Error> {
        let one = self.find(id, who)?;
        self.running(&one, "only a running one uses anything").await?;
        self.look_at(&one).await
    }

    /// Sees what it uses, and tells where that passes a mark.
    pub(super) async fn look_at(&self, one: &Container) -> Result<ResourceUsage, Error> {
        let found = self.engine_of(&one.engine).await?;
        let stats = self
            .ask(&found, "read statistics", found.engine.stats(&one.engine_id))
            .await?;
        let usage = self.usage(one.key, &stats, one.started);
        let (key, marks) = (one.key, &self.options().marks);
        self.engine()
            .write(|state, step| {
                state.container_uses(step, key, usage, marks);
                Ok(())
            })
            .await?;
        Ok(usage)
    }
}

fn state(one: &Container, wanted: &'static str) -> Error {
    let state = match one.phase {
        Phase::Creating => "being made",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Restarting { .. } => "restarting",
        Phase::Exited => "exited",
        Phase::Removing => "being removed",
        Phase::Lost => "lost",
    };
    Error::ContainerState {
        id: one.id.to_string(),
        state,
        wanted,
    }
}
