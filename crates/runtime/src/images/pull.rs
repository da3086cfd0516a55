//! Fetches images from a registry into the sandbox's store.

use std::fs::File;
use std::io::Seek;
use std::sync::Arc;

use nexus_walk::Dir;
use oci_spec::distribution::Reference;

use super::config::ConfigFile;
use super::document::{Descriptor, Manifest, Search};
use super::registry::{Client, Failure, ProgressReport};
use super::store::{Parts, Store, Unpacking, failed};
use super::unpack::Bounds;
use super::{HOST, PullOrder, PullPolicy, Pulled, Waiting, name};
use crate::{Error, Image, Result};

/// The largest config that is taken, in bytes.
const MAX_CONFIG: u64 = 8 << 20;

/// Sees to it that an image is here, by the policy of the order.
pub async fn pull(store: &Arc<Store>, order: PullOrder<'_>, bounds: Bounds) -> Result<Pulled> {
    let (reference, policy) = (order.reference, order.policy);
    if reference.is_empty() || reference == HOST {
        let image = store.list()?.swap_remove(0);
        return Ok(Pulled { image, fetched: false });
    }
    match (store.image(reference)?, policy) {
        (Some(image), PullPolicy::Missing | PullPolicy::Never) => return Ok(Pulled { image, fetched: false }),
        (None, PullPolicy::Never) => {
            return Err(Error::ImageNotFound {
                image: reference.into(),
                why: "it is not here, and the policy is never to pull".into(),
            });
        }
        (_, PullPolicy::Missing | PullPolicy::Always) => {}
    }
    let bounds = Bounds {
        bytes: order.max_bytes.map_or(bounds.bytes, |most| most.min(bounds.bytes)),
        ..bounds
    };
    let image = fetch(store, &order, bounds).await?;
    Ok(Pulled { image, fetched: true })
}

async fn fetch(store: &Arc<Store>, order: &PullOrder<'_>, bounds: Bounds) -> Result<Image> {
    let named = name::parse(order.reference)?;
    let wrong = |failure: Failure| explain(order.reference, failure);
    let client = Client::open(&named, order.credentials).await.map_err(wrong)?;
    let work = store.workplace()?;
    let found = find(&client, &named, &work.dir).await.map_err(wrong)?;
    if store.manifest_of(order.reference)?.contains(&found.digest)
        && let Some(image) = store.image(order.reference)?
    {
        return Ok(image);
    }
    let total = found.manifest.layers.iter().map(|layer| layer.size);
    let total = total.fold(0, u64::saturating_add);
    if total > bounds.bytes {
        return Err(Error::Pull {
            image: order.reference.into(),
            why: format!(
                "its layers have {total} bytes, more than the {} that are allowed \
                 (orchestrator.container_image_max_size)",
                bounds.bytes
            ),
        });
    }
    let mut layers = Vec::new();
    for (index, layer) in found.manifest.layers.iter().enumerate() {
        let told = ProgressReport {
            progress: order.progress.as_ref(),
            what: format!("layer {}", index + 1),
            total: layer.size,
        };
        told.say("downloading", 0);
        let file = stored(&client, layer, &work.dir, &format!("layer-{index}"), &told).await;
        layers.push(file.map_err(wrong)?);
        told.say("downloaded", told.total);
    }
    let parts = Parts {
        config: found.config,
        layers,
        manifest: Some(found.digest),
    };
    let installed = install(store, order, parts, bounds).await;
    drop(work);
    installed
}

/// The image of this machine, as the registry describes it.
struct Found {
    manifest: Manifest,
    /// Of the manifest.
    digest: String,
    config: Vec<u8>,
}

async fn find(client: &Client, named: &Reference, work: &Dir) -> std::result::Result<Found, Failure> {
    let unusable = |error: super::document::Error| Failure::Final(error.to_string());
    let which = named.digest().or(named.tag()).unwrap_or("latest");
    let mut search = Search::of(which);
    loop {
        let (next, depth) = search.next().map_err(unusable)?;
        let document = client.document(&next.digest).await?;
        let Some(manifest) = search.take(&document.bytes, depth).map_err(unusable)? else {
            continue;
        };
        if manifest.config.size > MAX_CONFIG {
            return Err(Failure::Final(format!(
                "its config has {} bytes, more than the {MAX_CONFIG} that are taken",
                manifest.config.size
            )));
        }
        let told = ProgressReport {
            progress: None,
            what: String::new(),
            total: manifest.config.size,
        };
        let name = format!("config-{}", document.digest.trim_start_matches("sha256:"));
        let file = stored(client, &manifest.config, work, &name, &told).await?;
        let config = nexus_walk::read_bounded(&file, MAX_CONFIG).map_err(|error| Failure::Final(error.to_string()))?;
        let file: ConfigFile =
            serde_json::from_slice(&config).map_err(|_| Failure::Final("its config cannot be read".into()))?;
        if search.fits(&file) {
            return Ok(Found {
                manifest,
                digest: document.digest,
                config,
            });
        }
    }
}

/// A blob in a new file, which is read from its start.
async fn stored(
    client: &Client,
    blob: &Descriptor,
    work: &Dir,
    name: &str,
    told: &ProgressReport<'_>,
) -> std::result::Result<File, Failure> {
    let disk = |error: std::io::Error| Failure::Final(format!("a part of it cannot be stored: {error}"));
    // A manifest may be named twice by its indexes.
    if work.exists(name).map_err(disk)? {
        work.remove_file(name).map_err(disk)?;
    }
    let file = work.create_file(name, 0o600).map_err(disk)?;
    client.blob(blob, &file, told).await?;
    (&file).rewind().map_err(disk)?;
    Ok(file)
}

async fn install(store: &Arc<Store>, order: &PullOrder<'_>, parts: Parts, bounds: Bounds) -> Result<Image> {
    let (waiting, stop) = Waiting::new();
    let store = Arc::clone(store);
    let reference = order.reference.to_string();
    let progress = order.progress.clone();
    let installed = tokio::task::spawn_blocking(move || {
        let told = |index: usize| {
            let told = ProgressReport {
                progress: progress.as_ref(),
                what: format!("layer {}", index + 1),
                total: 0,
            };
            told.say("unpacking", 0);
        };
        let unpacking = Unpacking {
            bounds,
            told: &told,
            stop: &stop,
        };
        store.install(&reference, parts, unpacking)
    });
    let installed = installed.await.map_err(failed)?;
    drop(waiting);
    installed
}

fn explain(reference: &str, failure: Failure) -> Error {
    let image = reference.to_string();
    match failure {
        Failure::Unknown(why) => Error::ImageNotFound { image, why },
        Failure::Final(why) | Failure::Unreachable(why) | Failure::Passing(why) => Error::Pull { image, why },
    }
}
