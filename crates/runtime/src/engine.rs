//! The trait that every backend implements, and that the conformance suite in `tests/` holds them to.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use futures_core::future::BoxFuture;
use tokio::sync::mpsc;

use crate::{
    Chunk, Collected, ContainerSpec, Credentials, Event, ExecOutput, ExecSpec, ExitInfo, Image, Info, Input,
    LogOptions, Probe, Progress, PullOrder, PullPolicy, Pulled, Result, Stats,
};

/// What an engine is asked to do. Dropping it gives up the wait, not always the deed.
pub type Work<'a, T> = BoxFuture<'a, Result<T>>;
/// What a container wrote, in the order the engine saw it. Ends with the container unless it is not followed.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk>> + Send>>;
/// Ends, or fails, when the engine went away: come back, and look at everything once.
pub type Events = Pin<Box<dyn Stream<Item = Result<Event>> + Send>>;

/// A backend. `id` is what [`Engine::create`] returned; it stays valid until [`Engine::remove`], also over restarts of
/// this process and of the engine.
///
/// No call has a deadline of its own, but for the one it is given: the caller sets one.
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// `docker`, `podman`, `sandbox` or `host-unsafe`.
    fn name(&self) -> &'static str;

    /// What this engine is and can do here. Fails where it does not work, with what to do about it.
    fn probe(&self) -> Work<'_, Probe>;

    /// Makes a container of an image that is here, and does not start it. One that fails leaves nothing behind.
    /// [`Error::ImageNotFound`](crate::Error::ImageNotFound) if the image is not here: nothing is pulled.
    /// [`Error::Exists`](crate::Error::Exists) if the name is taken.
    fn create<'a>(&'a self, spec: &'a ContainerSpec) -> Work<'a, String>;

    /// Starts it, also again after it ended: the same files, a new process. A command that cannot be executed is
    /// [`Error::Invalid`](crate::Error::Invalid).
    fn start<'a>(&'a self, id: &'a str) -> Work<'a, ()>;

    /// TERM, and KILL after `timeout`. Returns once it has ended; one that is not running is no error.
    fn stop<'a>(&'a self, id: &'a str, timeout: Duration) -> Work<'a, ()>;

    /// Sends a signal by its number. [`Error::State`](crate::Error::State) if it is not running.
    fn kill<'a>(&'a self, id: &'a str, signal: i32) -> Work<'a, ()>;

    /// Forgets it and its files. [`Error::State`](crate::Error::State) if it runs and `force` is not given. With `force`
    /// one that is not there is no error.
    fn remove<'a>(&'a self, id: &'a str, force: bool) -> Work<'a, ()>;

    /// Waits until it has ended; at once if it has. One that was never started is waited for.
    fn wait<'a>(&'a self, id: &'a str) -> Work<'a, ExitInfo>;

    /// What it is now. [`Error::NotFound`](crate::Error::NotFound) if it is not there.
    fn inspect<'a>(&'a self, id: &'a str) -> Work<'a, Info>;

    /// All containers, running or not, that carry all of these labels.
    fn list<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> Work<'a, Vec<Info>>;

    /// Everything that it wrote, stdout and stderr apart.
    fn logs<'a>(&'a self, id: &'a str, options: LogOptions) -> Work<'a, Chunks>;

    /// The files in which the engine collects what a container with [`ContainerSpec::collect`] writes, whether or not this
    /// process lives. `None`: the output is in [`Engine::logs`] alone.
    fn collected(&self, _id: &str) -> Option<Collected> {
        None
    }

    /// Passes input to a container that has one. [`Error::State`](crate::Error::State) if it is closed, or so much of it
    /// waits that nothing more is taken.
    fn input<'a>(&'a self, id: &'a str, input: Input) -> Work<'a, ()>;

    /// Runs one more command in a running container, as its user unless told otherwise, and waits for it.
    fn exec<'a>(&'a self, id: &'a str, exec: ExecSpec) -> Work<'a, ExecOutput>;

    /// What it uses now. [`Error::State`](crate::Error::State) if it is not running.
    fn stats<'a>(&'a self, id: &'a str) -> Work<'a, Stats>;

    /// What happens to containers of this engine from now on, whoever did it.
    fn events(&self) -> Work<'_, Events>;

    /// All images that are here.
    fn images(&self) -> Work<'_, Vec<Image>>;

    /// Sees to it that an image is here, as ordered.
    /// [`Error::ImageNotFound`](crate::Error::ImageNotFound) with [`PullPolicy::Never`], or if the registry has none;
    /// [`Error::Pull`](crate::Error::Pull) if the image is larger than the order or the limits of the engine allow.
    fn pull_order<'a>(&'a self, order: PullOrder<'a>) -> Work<'a, Pulled>;

    /// [`Engine::pull_order`] without a bound of its own on the size.
    fn pull<'a>(
        &'a self,
        reference: &'a str,
        policy: PullPolicy,
        credentials: Option<&'a Credentials>,
        progress: Option<mpsc::Sender<Progress>>,
    ) -> Work<'a, Pulled> {
        self.pull_order(PullOrder {
            reference,
            policy,
            credentials,
            progress,
            max_bytes: None,
        })
    }

    /// Takes an image from a tar archive of a root filesystem, a `docker save` archive, an OCI archive or an OCI
    /// layout directory, under this reference.
    fn import<'a>(&'a self, from: &'a Path, reference: &'a str) -> Work<'a, Image>;

    /// Takes away a name, and the image with its last one. [`Error::State`](crate::Error::State) if a container uses it and
    /// `force` is not given.
    fn remove_image<'a>(&'a self, reference: &'a str, force: bool) -> Work<'a, ()>;

    /// Removes images that no container uses and, unless `all`, that have no name. Returns the bytes that freed.
    fn prune_images(&self, all: bool) -> Work<'_, u64>;
}
