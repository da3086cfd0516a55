//! Implements the engine trait for the sandbox, over `containers`, `helper` and the image store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nexus_sandbox::Join;

use super::containers::Containers;
use super::helper::{self, Order, failed, unusable};
use super::record::{Record, now_ms};
use super::{bare, convert, input, logs, stats};
use crate::engine::{Chunks, Engine, Events, Work};
use crate::images::{self, Store, pull};
use crate::{
    Choice, Collected, Config, ContainerSpec, Error, ExecOutput, ExecSpec, ExitInfo, Image, ImageLimits, Info, Input,
    Limit, LogOptions, NetworkMode, Probe, PullOrder, Pulled, Result, Stats,
};

const NAME: &str = "sandbox";
/// The same without the isolation: the records, the logs and the limits around a command on the bare host.
const BARE: &str = "host-unsafe";
/// Who commands run as where the daemon is root and nobody says anything.
const USER: u32 = 1000;
const MAX_NAME: usize = 128;

/// The built-in engine, with its containers and images below one directory.
#[derive(Debug)]
pub struct Sandbox {
    /// Nothing isolates: the config names it so.
    bare: bool,
    helper: PathBuf,
    containers: Arc<Containers>,
    images: Arc<Store>,
    image_limits: ImageLimits,
    probe: Probe,
}

impl Sandbox {
    /// Finds the helper, sees whether it works here, and takes over the containers that are there.
    pub async fn open(config: &Config) -> Result<Sandbox> {
        let bare = config.backend == Choice::HostUnsafe;
        let helper = helper::find(config)?;
        let found = helper::probe(&helper).await?;
        if let Some(failure) = found.failure.as_ref().filter(|_| !bare) {
            return Err(unusable(failure));
        }
        let dir = std::path::absolute(&config.directory).map_err(failed)?;
        let dir = resolved(&dir)?;
        Ok(Sandbox {
            bare,
            probe: describe(&found, &helper, bare),
            helper,
            containers: Containers::open(&dir.join(if bare { BARE } else { "containers" }))?,
            images: Arc::new(match &config.images {
                Some(shared) => Store::open_shared(shared)?,
                None => Store::open(&dir.join("images"))?,
            }),
            image_limits: config.image_limits,
        })
    }

    fn own_user(&self) -> u32 {
        let uid = rustix::process::geteuid();
        if uid.is_root() { USER } else { uid.as_raw() }
    }

    /// An image's own files need a root of their own.
    fn own_images(&self, reference: &str) -> Result<()> {
        if self.bare && !reference.is_empty() && reference != images::HOST {
            return Err(Error::Unsupported {
                engine: BARE,
                what: format!(
                    "use the image {reference}: it has this host's own programs, {}",
                    images::HOST
                ),
            });
        }
        Ok(())
    }

    fn bounds(&self) -> images::LayerBounds {
        images::LayerBounds {
            bytes: self.image_limits.max_bytes,
            ratio: self.image_limits.max_ratio,
            ..images::LayerBounds::default()
        }
    }

    fn uses(&self, digest: &str) -> bool {
        self.containers.all().iter().any(|record| record.digest == digest)
    }
}

/// The helper goes over no link: the directory is named as it really is.
fn resolved(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir)
        .and_then(|()| dir.canonicalize())
        .map_err(|error| failed(format!("{}: {error}", dir.display())))
}

fn describe(found: &nexus_sandbox::Probe, helper: &Path, bare: bool) -> Probe {
    let holds = |name: &str| match bare {
        true => found.cgroups.contains_key(name),
        false => found.enforced.get(name).copied().unwrap_or(false),
    };
    let limits = [Limit::Memory, Limit::Cpu, Limit::Pids];
    let unenforced: BTreeSet<Limit> = limits.into_iter().filter(|limit| !holds(limit.name())).collect();
    let mut notes = vec![if bare {
        "nothing is isolated: commands see, change and reach whatever their user can".to_string()
    } else {
        "containers have no network; Docker or Podman can give them one".to_string()
    }];
    if !unenforced.is_empty() {
        let names: Vec<&str> = unenforced.iter().map(|limit| limit.name()).collect();
        notes.push(format!(
            "limits on {} are not enforced for this user; delegate control groups to it (systemd: Delegate=yes) or \
             run as root",
            names.join(" and ")
        ));
    }
    Probe {
        engine: if bare { BARE } else { NAME },
        version: found.version.clone(),
        place: helper.display().to_string(),
        unenforced,
        rootless: found.uid != 0,
        isolates: !bare,
        network: bare,
        tells_oom: true,
        notes,
    }
}

fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(fine) || name.starts_with('.') {
        return Err(Error::Invalid(format!(
            "{name:?} is not a valid container name: letters, digits, -, _ and . are"
        )));
    }
    Ok(())
}

fn random_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(hex::encode(bytes))
}

impl Engine for Sandbox {
    fn name(&self) -> &'static str {
        self.probe.engine
    }

    fn probe(&self) -> Work<'_, Probe> {
        Box::pin(async { Ok(self.probe.clone()) })
    }

    fn create<'a>(&'a self, spec: &'a ContainerSpec) -> Work<'a, String> {
        Box::pin(async move {
            check_name(&spec.name)?;
            self.own_images(&spec.image)?;
            let image = self.images.resolve(&spec.image)?;
            let id = random_id()?;
            let dir = self.containers.dir.join(&id);
            let run = convert::run(spec, &image, self.own_user(), dir.clone())?;
            let mut run = if self.bare {
                bare::run(spec, run)?
            } else {
                convert::isolated(spec)?;
                run
            };
            if let (NetworkMode::Container(other), false) = (&spec.network, self.bare) {
                let (_, started) = self.containers.running(other)?;
                run.network_of = Some(Box::new(started));
            }
            self.containers.create(Record {
                id,
                name: spec.name.clone(),
                image: if spec.image.is_empty() {
                    images::HOST.into()
                } else {
                    spec.image.clone()
                },
                digest: image.digest,
                labels: spec.labels.clone(),
                created_ms: now_ms(),
                run,
                dir,
            })
        })
    }

    fn start<'a>(&'a self, id: &'a str) -> Work<'a, ()> {
        Box::pin(self.containers.start(id, &self.helper))
    }

    fn stop<'a>(&'a self, id: &'a str, timeout: Duration) -> Work<'a, ()> {
        Box::pin(self.containers.stop(id, timeout))
    }

    fn kill<'a>(&'a self, id: &'a str, signal: i32) -> Work<'a, ()> {
        Box::pin(async move { self.containers.signal(id, signal) })
    }

    fn remove<'a>(&'a self, id: &'a str, force: bool) -> Work<'a, ()> {
        Box::pin(self.containers.remove(id, force))
    }

    fn wait<'a>(&'a self, id: &'a str) -> Work<'a, ExitInfo> {
        Box::pin(self.containers.wait(id))
    }

    fn inspect<'a>(&'a self, id: &'a str) -> Work<'a, Info> {
        Box::pin(async move { self.containers.get(id)?.info().map_err(failed) })
    }

    fn list<'a>(&'a self, labels: &'a BTreeMap<String, String>) -> Work<'a, Vec<Info>> {
        Box::pin(async move {
            let carries = |record: &Record| labels.iter().all(|(key, value)| record.labels.get(key) == Some(value));
            let all = self.containers.all();
            all.iter()
                .filter(|record| carries(record))
                .map(|record| record.info().map_err(failed))
                .collect()
        })
    }

    fn logs<'a>(&'a self, id: &'a str, options: LogOptions) -> Work<'a, Chunks> {
        Box::pin(async move { Ok(logs::stream(self.containers.get(id)?, options)) })
    }

    fn collected(&self, id: &str) -> Option<Collected> {
        let record = self.containers.get(id).ok()?;
        record.run.collect.map(|_| Collected::of(&record.dir))
    }

    fn input<'a>(&'a self, id: &'a str, input: Input) -> Work<'a, ()> {
        Box::pin(async move { input::write(&self.containers.running(id)?.0, input) })
    }

    fn exec<'a>(&'a self, id: &'a str, exec: ExecSpec) -> Work<'a, ExecOutput> {
        Box::pin(async move {
            let (record, started) = self.containers.running(id)?;
            let image = match record.digest.as_str() {
                "" => self.images.resolve(""),
                digest => self.images.resolve(digest),
            };
            let mut run = convert::join(&record.run, &exec, image.ok().as_ref())?;
            if self.bare {
                run.workdir = bare::place(&record.run.mounts, &run.workdir).unwrap_or(run.workdir);
            }
            let max_output = exec.output_limit();
            let order = Order {
                join: Join { started, run },
                stdin: exec.stdin,
                max_output,
                timeout: exec.timeout,
                dir: &record.dir,
                id: &random_id()?,
            };
            helper::join(&self.helper, order).await
        })
    }

    fn stats<'a>(&'a self, id: &'a str) -> Work<'a, Stats> {
        Box::pin(async move {
            let (record, started) = self.containers.running(id)?;
            let stats = tokio::task::spawn_blocking(move || stats::stats(&record.run, &started));
            stats.await.map_err(failed)
        })
    }

    fn events(&self) -> Work<'_, Events> {
        Box::pin(async move {
            let receiver = self.containers.subscribe();
            let stream = futures_util::stream::unfold(Some(receiver), |receiver| async {
                let mut receiver = receiver?;
                match receiver.recv().await {
                    Ok(event) => Some((Ok(event), Some(receiver))),
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => None,
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(count)) => Some((
                        Err(failed(format!("{count} events were lost: the reader is too slow"))),
                        None,
                    )),
                }
            });
            Ok(Box::pin(stream) as Events)
        })
    }

    fn images(&self) -> Work<'_, Vec<Image>> {
        Box::pin(async {
            let mut images = self.images.list()?;
            if self.bare {
                images.retain(|image| image.id == images::HOST);
            }
            Ok(images)
        })
    }

    fn pull_order<'a>(&'a self, order: PullOrder<'a>) -> Work<'a, Pulled> {
        Box::pin(async move {
            self.own_images(order.reference)?;
            pull::pull(&self.images, order, self.bounds()).await
        })
    }

    fn import<'a>(&'a self, from: &'a Path, reference: &'a str) -> Work<'a, Image> {
        let (store, from, reference) = (Arc::clone(&self.images), from.to_path_buf(), reference.to_string());
        Box::pin(async move {
            self.own_images(&reference)?;
            let bounds = self.bounds();
            let (waiting, stop) = images::Waiting::new();
            let imported =
                tokio::task::spawn_blocking(move || images::import::import(&store, &from, &reference, bounds, &stop));
            let imported = imported.await.map_err(failed)?;
            drop(waiting);
            imported
        })
    }

    fn remove_image<'a>(&'a self, reference: &'a str, force: bool) -> Work<'a, ()> {
        Box::pin(async move {
            self.own_images(reference)?;
            self.images.remove(reference, &|digest| self.uses(digest), force)
        })
    }

    fn prune_images(&self, all: bool) -> Work<'_, u64> {
        Box::pin(async move {
            if self.bare {
                return Ok(0);
            }
            self.images.prune(&|digest| self.uses(digest), all)
        })
    }
}
