//! Docker and Podman, over the HTTP API that both speak on a socket.
//!
//! The version is negotiated when the connection is made: a client that does not is refused by an older engine in the
//! middle of its work. Neither engine is asked to restart containers or to remove them by itself: what follows from an
//! exit is decided elsewhere.

mod address;
mod archive;
mod convert;
mod create;
mod end;
mod exec;
mod images;
mod input;
mod probe;
mod read;
mod reference;
mod seccomp;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::query_parameters as query;
use futures_util::{FutureExt, StreamExt, TryStreamExt};

pub(crate) use address::{Address, Environment};
use probe::Kind;

use crate::{
    Chunks, ContainerSpec, Engine, Error, Events, ExecOutput, ExecSpec, ExitInfo, Image, ImageLimits, Info, Input,
    LogOptions, Probe, PullOrder, Pulled, Result, State, Stats, Work,
};

/// How long Podman may take to clean up after an exit.
const EXITING_TRIES: u32 = 500;
const EXITING_PAUSE: Duration = Duration::from_millis(20);

/// A Docker or a Podman that answered.
#[derive(Debug)]
pub(crate) struct Docker {
    client: bollard::Docker,
    place: Address,
    kind: Kind,
    rootless: bool,
    counts: bool,
    /// The runtime's own, for the file that Podman reads.
    directory: PathBuf,
    image_limits: ImageLimits,
    inputs: input::Inputs,
}

impl Docker {
    /// Dials, and asks what is there. `directory` is the runtime's own.
    pub async fn connect(place: Address, image_limits: ImageLimits, directory: &Path) -> Result<Self> {
        let client = place.dial()?;
        let seen = probe::look(&client, &place).await?;
        Ok(Docker {
            client: seen.client,
            place,
            kind: seen.kind,
            rootless: seen.rootless,
            counts: seen.counts,
            directory: directory.to_owned(),
            image_limits,
            inputs: input::Inputs::default(),
        })
    }

    /// One more hand on the same engine.
    fn again(&self) -> Self {
        Docker {
            client: self.client.clone(),
            place: self.place.clone(),
            kind: self.kind,
            rootless: self.rootless,
            counts: self.counts,
            directory: self.directory.clone(),
            image_limits: self.image_limits,
            inputs: self.inputs.clone(),
        }
    }

    fn failed(&self, error: bollard::errors::Error) -> Error {
        convert::failed(self.kind.name(), error)
    }

    /// An error about a container: not there, or not in a state for this.
    fn failed_at(&self, id: &str, error: bollard::errors::Error) -> Error {
        match convert::answered(&error) {
            Some((404, _)) => Error::NotFound(id.into()),
            Some((409, why)) => Error::State {
                id: id.into(),
                why: why.into(),
            },
            // Podman has its own opinion on what a conflict is.
            Some((500, why)) if why.contains("container state improper") || why.contains("is not running") => {
                Error::State {
                    id: id.into(),
                    why: why.into(),
                }
            }
            _ => self.failed(error),
        }
    }

    async fn start_it(&self, id: &str) -> Result<()> {
        let started = self.client.start_container(id, None).await;
        started.map_err(|error| match convert::answered(&error) {
            Some((400 | 500, why)) if convert::is_bad_command(why) => Error::Invalid(convert::bad_command(why)),
            _ => self.failed_at(id, error),
        })
    }

    async fn stop_it(&self, id: &str, timeout: Duration) -> Result<()> {
        // Whole seconds, rounded up: the API has no finer ones.
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let options = query::StopContainerOptions {
            signal: None,
            t: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
        };
        match self.client.stop_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) => match self.failed_at(id, error) {
                // It was made and never started, or ended meanwhile.
                Error::State { .. } if self.inspect_it(id).await?.state != State::Running => Ok(()),
                other => Err(other),
            },
        }
    }

    async fn kill_it(&self, id: &str, signal: i32) -> Result<()> {
        let options = query::KillContainerOptions {
            signal: signal.to_string(),
        };
        let killed = self.client.kill_container(id, Some(options)).await;
        killed.map_err(|error| self.failed_at(id, error))
    }

    async fn remove_it(&self, id: &str, force: bool) -> Result<()> {
        self.inputs.forget(id).await;
        let options = query::RemoveContainerOptions {
            v: true,
            force,
            link: false,
        };
        let Err(error) = self.client.remove_container(id, Some(options)).await else {
            return Ok(());
        };
        match self.failed_at(id, error) {
            Error::NotFound(_) if force => Ok(()),
            // Somebody else asked for it a moment ago.
            Error::State { why, .. } if why.contains("already in progress") => self.removed(id).await,
            Error::Failed { why, .. } if !force && why.contains("running") => Err(Error::State { id: id.into(), why }),
            other => Err(other),
        }
    }

    async fn removed(&self, id: &str) -> Result<()> {
        let options = query::WaitContainerOptions {
            condition: "removed".into(),
        };
        let mut wait = Box::pin(self.client.wait_container(id, Some(options)));
        match wait.next().await {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => match self.failed_at(id, error) {
                Error::NotFound(_) => Ok(()),
                Error::Failed { why, .. } if why.starts_with("Docker container wait error") => Ok(()),
                other => Err(other),
            },
        }
    }

    async fn wait_for(&self, id: &str) -> Result<ExitInfo> {
        loop {
            let info = self.inspect_it(id).await?;
            let condition = match info.state {
                State::Exited | State::Removing => return Ok(info.exit.unwrap_or_default()),
                State::Created => "next-exit",
                State::Running | State::Paused | State::Restarting => "not-running",
            };
            let options = query::WaitContainerOptions {
                condition: condition.into(),
            };
            let mut wait = Box::pin(self.client.wait_container(id, Some(options)));
            match wait.next().await {
                None | Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })) => {}
                Some(Err(error)) => return Err(self.failed_at(id, error)),
            }
        }
    }

    async fn inspect_it(&self, id: &str) -> Result<Info> {
        let found = self.once_exited(|| self.client.inspect_container(id, None)).await;
        found.map(convert::info).map_err(|error| self.failed_at(id, error))
    }

    /// Podman has a state of its own between running and exited, which the API has no word for: it is over in a moment.
    async fn once_exited<T, F>(&self, ask: impl Fn() -> F) -> std::result::Result<T, bollard::errors::Error>
    where
        F: Future<Output = std::result::Result<T, bollard::errors::Error>>,
    {
        let mut tries = 0;
        loop {
            match ask().await {
                Err(bollard::errors::Error::JsonDataError { message, .. })
                    if message.contains("`stopped`") && tries < EXITING_TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(EXITING_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    async fn list_them(&self, labels: &BTreeMap<String, String>) -> Result<Vec<Info>> {
        let wanted = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let options = query::ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), wanted)])),
            ..query::ListContainersOptions::default()
        };
        let found = self
            .once_exited(|| self.client.list_containers(Some(options.clone())))
            .await;
        let mut all = Vec::new();
        for summary in found.map_err(|error| self.failed(error))? {
            let id = summary.id.unwrap_or_default();
            match self.inspect_it(&id).await {
                Ok(info) => all.push(info),
                Err(Error::NotFound(_)) => {} // removed between the two looks
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

impl Engine for Docker {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn probe(&self) -> Work<'_, Probe> {
        async { probe::look(&self.client, &self.place).await.map(|seen| seen.probe) }.boxed()
    }

    fn create<'a>(&'a self, spec: &'a ContainerSpec) -> Work<'a, String> {
        self.create_it(spec).boxed()
    }

    fn start<'a>(&'a self, id: &'a str) -> Work<'a, ()> {
        self.start_it(id).boxed()
    }

    fn stop<'a>(&'a self, id: &'a str, timeout: Duration) -> Work<'a, ()> {
        self.stop_it(id, timeout).boxed()
    }

    fn kill<'a>(&'a self, id: &'a str, signal: i32) -> Work<'a, ()> {
        self.kill_it(id, signal).boxed()
    }

    fn remove<'a>(&'a self, id: &'a str, force: bool) -> Work<'a, ()> {
        self.remove_it(id, force).boxed()
    }

    fn wait<'a>(&'a self, id: &'a str) -> Work<'a, ExitInfo> {
        self.wait_for(id).boxed()
    }

    fn inspect<'a>(&'a self, id: &'a str) -> Work<'a, Info> {
        self.inspect_it(id).boxed()
    }

    fn list<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> Work<'a, Vec<Info>> {
        self.list_them(labels).boxed()
    }

    fn logs<'a>(&'a self, id: &'a str, options: LogOptions) -> Work<'a, Chunks> {
        self.read_logs(id, options).boxed()
    }

    fn input<'a>(&'a self, id: &'a str, input: Input) -> Work<'a, ()> {
        self.pass_input(id, input).boxed()
    }

    fn exec<'a>(&'a self, id: &'a str, exec: ExecSpec) -> Work<'a, ExecOutput> {
        self.exec_in(id, exec).boxed()
    }

    fn stats<'a>(&'a self, id: &'a str) -> Work<'a, Stats> {
        self.read_stats(id).boxed()
    }

    fn events(&self) -> Work<'_, Events> {
        let name = self.kind.name();
        let filters = HashMap::from([("type".to_owned(), vec!["container".to_owned()])]);
        let options = query::EventsOptions {
            filters: Some(filters),
            ..query::EventsOptions::default()
        };
        let events = self.client.events(Some(options));
        let events = events
            .map_err(move |error| convert::failed(name, error))
            .try_filter_map(|event| async move { Ok(convert::event(event)) });
        async move { Ok(Box::pin(events) as Events) }.boxed()
    }

    fn images(&self) -> Work<'_, Vec<Image>> {
        self.list_images().boxed()
    }

    fn pull_order<'a>(&'a self, order: PullOrder<'a>) -> Work<'a, Pulled> {
        self.pull_image(order).boxed()
    }

    fn import<'a>(&'a self, from: &'a Path, reference: &'a str) -> Work<'a, Image> {
        self.import_image(from, reference).boxed()
    }

    fn remove_image<'a>(&'a self, reference: &'a str, force: bool) -> Work<'a, ()> {
        self.remove_image_of(reference, force).boxed()
    }

    fn prune_images(&self, all: bool) -> Work<'_, u64> {
        self.prune(all).boxed()
    }
}
