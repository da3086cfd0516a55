//! Images from a registry.

use std::fs::File;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::store::{Parts, Store, failed};
use super::unpack::Bounds;
use super::{Credentials, HOST, Progress, PullPolicy, Pulled, name};
use crate::{Error, Image, Result};

const CONNECT: Duration = Duration::from_secs(15);
/// Longest without a byte.
const SILENCE: Duration = Duration::from_secs(60);
/// The largest config that is taken.
const MAX_CONFIG: u64 = 8 << 20;

pub struct Order<'a> {
    pub reference: &'a str,
    pub policy: PullPolicy,
    pub credentials: Option<&'a Credentials>,
    pub progress: Option<mpsc::Sender<Progress>>,
}

pub async fn pull(store: &Arc<Store>, order: Order<'_>) -> Result<Pulled> {
    let Order { reference, policy, .. } = order;
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
    let image = fetch(store, &order).await?;
    Ok(Pulled { image, fetched: true })
}

async fn fetch(store: &Arc<Store>, order: &Order<'_>) -> Result<Image> {
    let named = name::parse(order.reference)?;
    let auth = match order.credentials {
        Some(known) => RegistryAuth::Basic(known.username.clone(), known.password.clone()),
        None => RegistryAuth::Anonymous,
    };
    let wrong = |error: OciDistributionError| explain(order.reference, error);
    let client = client(&named);
    let (manifest, digest) = client.pull_image_manifest(&named, &auth).await.map_err(wrong)?;
    if store.manifest_of(order.reference)?.contains(&digest)
        && let Some(image) = store.image(order.reference)?
    {
        return Ok(image);
    }
    let size = u64::try_from(manifest.config.size).unwrap_or(u64::MAX);
    let total: u64 = manifest
        .layers
        .iter()
        .map(|layer| u64::try_from(layer.size).unwrap_or(u64::MAX))
        .fold(0, u64::saturating_add);
    let bounds = Bounds::default();
    if size > MAX_CONFIG || total > bounds.bytes {
        return Err(Error::Pull {
            image: order.reference.into(),
            why: format!("it has {total} bytes, more than the {} that are taken", bounds.bytes),
        });
    }
    let mut config = Vec::new();
    client
        .pull_blob(
            &named,
            &manifest.config,
            Most {
                into: &mut config,
                left: MAX_CONFIG,
            },
        )
        .await
        .map_err(wrong)?;
    let work = store.workplace()?;
    let mut layers = Vec::new();
    for (index, layer) in manifest.layers.iter().enumerate() {
        let told = Told {
            progress: order.progress.as_ref(),
            what: layer.digest.clone(),
            total: u64::try_from(layer.size).unwrap_or(0),
        };
        told.say("downloading", 0);
        let path = work.dir.join(format!("layer-{index}"));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        let into = tokio::fs::File::from_std(file.try_clone().map_err(failed)?);
        // More than was announced is an attack or a mistake; its digest would not fit either.
        let mut counted = Counted {
            into,
            told: &told,
            done: 0,
            said: 0,
        };
        client.pull_blob(&named, layer, &mut counted).await.map_err(wrong)?;
        told.say("downloaded", told.total);
        std::io::Seek::rewind(&mut &file).map_err(failed)?;
        layers.push(file);
    }
    let parts = Parts {
        config,
        layers,
        manifest: Some(digest),
    };
    let store = Arc::clone(store);
    let reference = order.reference.to_string();
    let progress = order.progress.clone();
    let installed = tokio::task::spawn_blocking(move || {
        let say = |index: usize| {
            if let Some(progress) = &progress {
                let what = format!("layer {}", index + 1);
                let _ = progress.try_send(Progress {
                    what,
                    status: "unpacking".into(),
                    bytes: 0,
                    total: 0,
                });
            }
        };
        store.install(&reference, parts, bounds, &say)
    });
    let installed = installed.await.map_err(failed)?;
    drop(work);
    installed
}

/// Plain HTTP is for this machine only.
fn client(named: &Reference) -> Client {
    // Someone else in this process may have chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let registry = named.resolve_registry().to_string();
    let host = registry.rsplit_once(':').map_or(registry.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let protocol = if loopback {
        ClientProtocol::HttpsExcept(vec![registry])
    } else {
        ClientProtocol::Https
    };
    Client::new(ClientConfig {
        protocol,
        read_timeout: Some(SILENCE),
        connect_timeout: Some(CONNECT),
        user_agent: "nexus",
        ..ClientConfig::default()
    })
}

fn explain(reference: &str, error: OciDistributionError) -> Error {
    let gone = |code: &OciErrorCode| {
        matches!(
            code,
            OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
        )
    };
    let missing = match &error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| gone(&error.code)),
        OciDistributionError::ServerError { code, .. } => *code == 404,
        _ => false,
    };
    let image = reference.to_string();
    let why = chain(&error);
    if missing {
        Error::ImageNotFound { image, why }
    } else {
        Error::Pull { image, why }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

struct Told<'a> {
    progress: Option<&'a mpsc::Sender<Progress>>,
    what: String,
    total: u64,
}

impl Told<'_> {
    /// As far as the receiver keeps up.
    fn say(&self, status: &str, bytes: u64) {
        if let Some(progress) = self.progress {
            let _ = progress.try_send(Progress {
                what: self.what.clone(),
                status: status.into(),
                bytes,
                total: self.total,
            });
        }
    }
}

/// A file that says how much was written, and takes no more than was announced.
struct Counted<'a> {
    into: tokio::fs::File,
    told: &'a Told<'a>,
    done: u64,
    said: u64,
}

/// Between two words on progress.
const STEP: u64 = 1 << 20;

impl AsyncWrite for Counted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        if self.done + bytes.len() as u64 > self.told.total {
            return Poll::Ready(Err(std::io::Error::other("the layer is larger than its manifest says")));
        }
        let wrote = std::task::ready!(Pin::new(&mut self.into).poll_write(cx, bytes))?;
        self.done += wrote as u64;
        if self.done - self.said >= STEP {
            self.said = self.done;
            self.told.say("downloading", self.done);
        }
        Poll::Ready(Ok(wrote))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.into).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.into).poll_shutdown(cx)
    }
}

/// Memory, but not without end.
struct Most<'a> {
    into: &'a mut Vec<u8>,
    left: u64,
}

impl AsyncWrite for Most<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.left.checked_sub(bytes.len() as u64) {
            Some(left) => {
                self.left = left;
                self.into.extend_from_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            None => Poll::Ready(Err(std::io::Error::other("the config of the image is too large"))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
