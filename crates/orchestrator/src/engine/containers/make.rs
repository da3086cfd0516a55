//! Creates a container: recorded first, then created, then reported. A failure in between leaves nothing behind.

use std::net::{IpAddr, Ipv4Addr};

use nexus_proto::orchestrator::v1::{
    Container as Wire, ContainerConfig, CreateContainerRequest, CreateContainerResponse,
};
use nexus_runtime::{ContainerSpec, Found, Limit, Limits, NetworkMode, Port, Protocol, PullPolicy};

use super::mounts::ResolvedMounts;
use super::{CONTAINER, Containers, Hold, Requester, SESSION};
use crate::domain::Error;
use crate::domain::container::{Made, Phase};
use crate::engine::Once;

impl Containers {
    /// Makes and starts one. Goes on when the caller goes away.
    pub async fn create(
        &self,
        once: Option<Once>,
        who: Requester,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error> {
        let this = self.clone();
        let made = tokio::spawn(async move { this.create_once(once, &who, request).await });
        made.await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    async fn create_once(
        &self,
        once: Option<Once>,
        who: &Requester,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error> {
        let Some(once) = once else {
            return self.make(None, who, request).await;
        };
        let _gate = self.engine().gate(&once).await;
        match self.engine().first(&once).await? {
            Some(answer) => Ok(answer),
            None => self.make(Some(&once), who, request).await,
        }
    }

    async fn make(
        &self,
        once: Option<&Once>,
        who: &Requester,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error> {
        self.engine().room()?;
        let session = self.engine().open_session(&request.session_id, who.view()).await?;
        let config = request.config.ok_or(Error::Required("config"))?;
        let allowed = self.allowed(session, who, config).await;
        if let Err(Error::Forbidden(what)) = &allowed {
            self.violated(session, what).await?;
        }
        let (config, place) = allowed?;
        self.check_share(place.owner.uid)?;
        let found = self.inner.runtime.pick(&config.image).await.map_err(Error::Runtime)?;
        let limits = limits(&config);
        let unenforced: Vec<Limit> = found
            .probe
            .unenforced
            .iter()
            .copied()
            .filter(|limit| limit.is_in(&limits))
            .collect();
        let unenforced: Vec<String> = unenforced.into_iter().map(|limit| limit.name().to_owned()).collect();
        if self.options().require_limits && !unenforced.is_empty() {
            return Err(Error::Unenforced(unenforced.join(", ")));
        }
        let policy = &self.options().policy;
        let (key, id, session_id, _hold) = {
            let begun = self.engine().write(|state, step| {
                let key = state.begin_container(step, session, config.clone(), policy)?;
                let one = state.containers.get(key).expect("it was just made");
                // Taken while nobody else can know of it.
                let hold = self.hold(key).expect("nobody has heard of it");
                Ok((key, one.id.clone(), one.session_id.clone(), hold))
            });
            let begun = begun.await;
            if let Err(error @ Error::Limit { .. }) = &begun {
                self.violated(session, &error.to_string()).await?;
            }
            begun?
        };
        let mut labels = config
            .labels
            .clone()
            .into_iter()
            .collect::<std::collections::BTreeMap<_, _>>();
        labels.extend(self.own());
        labels.insert(CONTAINER.into(), id.to_string());
        labels.insert(SESSION.into(), session_id.to_string());
        let spec = ContainerSpec {
            name: format!("nexus-{id}"),
            image: config.image.clone(),
            entrypoint: config.command.clone(),
            args: config.args.clone(),
            env: config.env.clone().into_iter().collect(),
            working_dir: config.working_dir.clone(),
            user: self.user(&config, &found),
            deny_root: !self.options().policy.allow_root,
            owner: Some(place.owner.clone()),
            labels,
            mounts: place.mounts.clone(),
            network: match config.network_mode.as_str() {
                "" | "none" => NetworkMode::None,
                "bridge" | "default" => NetworkMode::Bridge,
                name => NetworkMode::Named(name.into()),
            },
            ports: ports(&config),
            limits,
            writable_rootfs: !config.read_only_rootfs,
            log_bytes: self.options().log_bytes,
            collect: None,
        };
        let built = self.build(&found, who, &spec, &place).await;
        if let Err(Error::Forbidden(what)) = &built {
            // Whether that can be told or not: what was begun is taken away below.
            if let Err(error) = self.violated(session, what).await {
                tracing::warn!(%error, container = %id, "failed to record that a policy forbids a container");
            }
        }
        let made = match built {
            Ok(engine_id) => Made {
                engine: found.engine.name().into(),
                engine_id,
                unenforced,
            },
            Err(error) => {
                self.unmake(&found, key, &id, Some(&error.to_string())).await;
                return Err(error);
            }
        };
        if !found.probe.isolates {
            tracing::warn!(container = %id, session = %session_id, "a container runs on the bare host, without isolation");
        }
        match self.tell(once, key, made).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => {
                self.unmake(&found, key, &id, Some("its session was closed")).await;
                Err(Error::SessionClosed {
                    doing: "make a container in",
                })
            }
            Err(error) => {
                self.unmake(&found, key, &id, Some(&error.to_string())).await;
                Err(error)
            }
        }
    }

    /// A request that the policy forbids is told to those who watch.
    async fn violated(&self, session: u64, what: &str) -> Result<(), Error> {
        let told = self.engine().write(|state, step| {
            state.policy_violated(step, session, what);
            Ok(())
        });
        told.await
    }

    /// The config as it will be carried out, and the host's files in it.
    async fn allowed(
        &self,
        session: u64,
        who: &Requester,
        config: ContainerConfig,
    ) -> Result<(ContainerConfig, ResolvedMounts), Error> {
        let (rules, id, creator) = self.engine().look(|ledger| {
            let found = ledger
                .state
                .sessions
                .get(session)
                .ok_or_else(|| crate::domain::sessions::session_not_found(session))?;
            if found.is_closed() {
                return Err(Error::SessionClosed {
                    doing: "make a container in",
                });
            }
            Ok((found.config.clone(), found.id.clone(), found.creator.clone()))
        })?;
        let config = self.options().policy.apply(&rules, config, who.admin)?;
        let policy = rules.policy.unwrap_or_default();
        let (this, asked) = (self.clone(), config.clone());
        let place = tokio::task::spawn_blocking(move || this.place((&id, &creator), &policy, &asked));
        let place = place
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        self.check_rights(&place).await?;
        Ok((config, place))
    }

    async fn build(
        &self,
        found: &Found,
        who: &Requester,
        spec: &ContainerSpec,
        place: &ResolvedMounts,
    ) -> Result<String, Error> {
        let (engine, image) = (&found.engine, &spec.image);
        let newest = self.options().pull == PullPolicy::Always
            && *image != crate::domain::container::policy::HOST_IMAGE
            // For a user whose image is not fetched again, the stored image is the only one.
            && self.options().policy.may_fetch(image, who.admin).is_ok();
        let id = match self.ask(found, "make a container", engine.create(spec)).await {
            Err(Error::Runtime(nexus_runtime::Error::ImageNotFound { .. }))
                if self.options().pull != PullPolicy::Never =>
            {
                self.fetch_for(found, who, image, PullPolicy::Missing).await?;
                self.ask(found, "make a container", engine.create(spec)).await?
            }
            Ok(id) if newest => {
                // It was made of what was here: what the registry has now decides.
                self.ask(found, "remove a container", engine.remove(&id, true)).await?;
                self.fetch_for(found, who, image, PullPolicy::Always).await?;
                self.ask(found, "make a container", engine.create(spec)).await?
            }
            other => other?,
        };
        place.check()?;
        self.ask(found, "start a container", engine.start(&id)).await?;
        Ok(id)
    }

    /// `None` if its session ended meanwhile.
    async fn tell(&self, once: Option<&Once>, key: u64, made: Made) -> Result<Option<CreateContainerResponse>, Error> {
        let answer = |container: Wire| CreateContainerResponse {
            container_id: container.id.clone(),
            container: Some(container),
        };
        let queued = self.engine().queue_with(
            |parts, step| {
                let runs = parts.state.container_runs(step, key, made)?;
                let container = parts.state.containers.get(key).filter(|_| runs);
                Ok(container.map(|one| answer(one.wire())))
            },
            |answer| once.zip(answer.as_ref()).map(|(once, answer)| once.keep(answer)),
        );
        queued.await?.done().await
    }

    /// Removes whatever its engine has of it. What cannot be reached now is found by its label later.
    pub(super) async fn unmake(&self, found: &Found, key: u64, id: &str, why: Option<&str>) {
        let labels = [(CONTAINER.to_owned(), id.to_owned())].into();
        let cleared = async {
            let all = self.ask(found, "list containers", found.engine.list(&labels)).await?;
            for one in all {
                self.ask(found, "remove a container", found.engine.remove(&one.id, true))
                    .await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = cleared.await {
            tracing::warn!(%error, container = id, "failed to remove what is left of a container; the next look does");
            return;
        }
        let gone = self.engine().write(|state, step| {
            if state
                .containers
                .get(key)
                .is_some_and(|one| one.phase != Phase::Running || why.is_some())
            {
                state.container_gone(step, key, why);
            }
            Ok(())
        });
        if let Err(error) = gone.await {
            tracing::warn!(%error, container = id, "failed to record that a container was removed");
        }
    }
}

fn limits(config: &ContainerConfig) -> Limits {
    let asked = config.resources.unwrap_or_default();
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    Limits {
        memory_bytes: number(asked.memory_bytes),
        memory_swap_bytes: number(asked.memory_swap),
        nano_cpus: number(asked.nano_cpus),
        pids: number(asked.pids_limit),
    }
}

fn ports(config: &ContainerConfig) -> Vec<Port> {
    let number = |n: i32| u16::try_from(n).unwrap_or(0);
    let each = config.ports.iter().map(|port| Port {
        container: number(port.container_port),
        host: number(port.host_port),
        host_ip: port.host_ip.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        protocol: if port.protocol == "udp" {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
    });
    each.collect()
}

/// Kept until the record can be seen by others.
impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hold({:x})", self.key)
    }
}
