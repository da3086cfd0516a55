//! Images of the engine, which stores and fetches them itself.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use bollard::auth::DockerCredentials;
use bollard::models::ImageInspect;
use bollard::query_parameters as query;
use futures_util::StreamExt;

use super::{Docker, archive, convert, reference};
use crate::images;
use crate::{Error, Image, Progress, PullOrder, PullPolicy, Pulled, Result};

impl Docker {
    pub(super) async fn list_images(&self) -> Result<Vec<Image>> {
        let options: Option<query::ListImagesOptions> = None;
        let found = self
            .client
            .list_images(options)
            .await
            .map_err(|error| self.failed(error))?;
        let all = found.into_iter().map(|one| Image {
            id: one.id,
            references: one.repo_tags.into_iter().filter(|tag| tag != "<none>:<none>").collect(),
            bytes: u64::try_from(one.size).unwrap_or(0),
            created: u64::try_from(one.created)
                .ok()
                .map(|at| UNIX_EPOCH + Duration::from_secs(at)),
        });
        Ok(all.collect())
    }

    async fn image(&self, reference: &str) -> Result<Image> {
        match self.client.inspect_image(reference).await {
            Ok(found) => Ok(image(found)),
            Err(error) => Err(match convert::answered(&error) {
                Some((404, why)) => missing(reference, why),
                Some((500, why)) if why.contains("no such image") || why.contains("image not known") => {
                    missing(reference, why)
                }
                _ => self.failed(error),
            }),
        }
    }

    pub(super) async fn pull_image(&self, order: PullOrder<'_>) -> Result<Pulled> {
        let name = order.reference;
        let before = match self.image(name).await {
            Ok(image) => Some(image),
            Err(Error::ImageNotFound { .. }) if order.policy != PullPolicy::Never => None,
            Err(error) => return Err(error),
        };
        if let (Some(image), true) = (&before, order.policy != PullPolicy::Always) {
            let image = image.clone();
            return Ok(Pulled { image, fetched: false });
        }
        // In full: which registry a short name means is not for the engine's own settings to say.
        let full = images::full(name)?;
        self.fetch(&full, &order).await?;
        let image = match self.image(name).await {
            Err(Error::ImageNotFound { .. }) => self.image(&full).await?,
            found => found?,
        };
        let most = order.max_bytes.unwrap_or(u64::MAX).min(self.image_limits.max_bytes);
        if image.bytes > most {
            self.take_back(&full, &image, before.as_ref()).await?;
            return Err(Error::Pull {
                image: name.into(),
                why: format!(
                    "it has {} bytes, more than the {most} that are allowed (orchestrator.container_image_max_size)",
                    image.bytes
                ),
            });
        }
        Ok(Pulled { image, fetched: true })
    }

    /// The name means what it meant before, and what came instead is gone.
    async fn take_back(&self, full: &str, image: &Image, before: Option<&Image>) -> Result<()> {
        match before {
            Some(before) if before.id == image.id => Ok(()),
            Some(before) => {
                let (repository, tag) = reference::split(full);
                self.tag(&before.id, repository, tag).await?;
                self.remove_image_of(&image.id, false).await
            }
            None => self.remove_image_of(full, false).await,
        }
    }

    async fn fetch(&self, full: &str, order: &PullOrder<'_>) -> Result<()> {
        let (from, tag) = reference::split(full);
        let options = query::CreateImageOptions {
            from_image: Some(from.to_owned()),
            tag: Some(tag.to_owned()),
            ..query::CreateImageOptions::default()
        };
        let credentials = order.credentials.map(|known| DockerCredentials {
            username: Some(known.username.clone()),
            password: Some(known.password.clone()),
            ..DockerCredentials::default()
        });
        let mut steps = Box::pin(self.client.create_image(Some(options), None, credentials));
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| self.not_pulled(order.reference, error))?;
            if let Some(progress) = &order.progress {
                let detail = step.progress_detail.unwrap_or_default();
                let count = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
                // A reader that does not keep up misses steps, and the pull goes on.
                let _full = progress.try_send(Progress {
                    what: step.id.unwrap_or_default(),
                    status: step.status.unwrap_or_default().to_lowercase(),
                    bytes: count(detail.current),
                    total: count(detail.total),
                });
            }
        }
        Ok(())
    }

    fn not_pulled(&self, name: &str, error: bollard::errors::Error) -> Error {
        let why = match &error {
            bollard::errors::Error::DockerStreamError { error } => error.clone(),
            other => match convert::answered(other) {
                Some((_, why)) => why.to_owned(),
                None => return self.failed(error),
            },
        };
        // The engine repeats what the registry wrote: that is for its log, and told here in our own words.
        let shown: String = why.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        tracing::info!(engine = self.kind.name(), image = name, why = %shown, "an image was not pulled");
        match reason(&why.replace(name, "")) {
            Reason::Absent => missing(name, "its registry does not have it, or requires a login for it"),
            Reason::Known(why) => Error::Pull {
                image: name.into(),
                why: why.into(),
            },
            Reason::Other => Error::Pull {
                image: name.into(),
                why: format!(
                    "{} could not pull it; the log of the orchestrator says why",
                    self.kind.name()
                ),
            },
        }
    }

    pub(super) async fn import_image(&self, from: &Path, name: &str) -> Result<Image> {
        let (repository, tag) = reference::split(name);
        let archive = archive::open(from).await?;
        let bytes = archive.bytes;
        if archive.holds_image {
            let options = query::ImportImageOptions::default();
            let mut steps = Box::pin(self.client.import_image_stream(options, bytes, None));
            let mut loaded = None;
            while let Some(step) = steps.next().await {
                let step = step.map_err(|error| self.failed(error))?;
                let said = step.stream.unwrap_or_default();
                if let Some((_, what)) = said.trim().split_once("Loaded image") {
                    let what = what.trim_start_matches(" ID").trim_start_matches("(s)");
                    loaded = Some(what.trim_start_matches(':').trim().to_owned());
                }
            }
            let loaded = loaded.ok_or_else(|| Error::Invalid(format!("{} holds no image", from.display())))?;
            self.tag(&loaded, repository, tag).await?;
        } else {
            let options = query::CreateImageOptions {
                from_src: Some("-".into()),
                ..query::CreateImageOptions::default()
            };
            let body = bollard::body_try_stream(bytes);
            let mut steps = Box::pin(self.client.create_image(Some(options), Some(body), None));
            // The last word is the image's id. Podman would not hear of a tag here.
            let mut made = None;
            while let Some(step) = steps.next().await {
                let step = step.map_err(|error| self.failed(error))?;
                made = step.id.or(step.status).or(made);
            }
            let made = made.ok_or_else(|| Error::Invalid(format!("{} made no image", from.display())))?;
            self.tag(made.trim(), repository, tag).await?;
        }
        self.image(name).await
    }

    async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<()> {
        let options = query::TagImageOptions {
            repo: Some(repository.to_owned()),
            tag: Some(tag.to_owned()),
        };
        let tagged = self.client.tag_image(image, Some(options)).await;
        tagged.map_err(|error| self.failed(error))
    }

    pub(super) async fn remove_image_of(&self, name: &str, force: bool) -> Result<()> {
        let options = query::RemoveImageOptions {
            force,
            ..query::RemoveImageOptions::default()
        };
        let removed = self.client.remove_image(name, Some(options), None).await;
        removed.map(drop).map_err(|error| match convert::answered(&error) {
            Some((404, why)) => missing(name, why),
            Some((409, why)) => Error::State {
                id: name.into(),
                why: why.into(),
            },
            Some((500, why)) if why.contains("in use") => Error::State {
                id: name.into(),
                why: why.into(),
            },
            _ => self.failed(error),
        })
    }

    pub(super) async fn prune(&self, all: bool) -> Result<u64> {
        let dangling = if all { "false" } else { "true" };
        let options = query::PruneImagesOptions {
            filters: Some(HashMap::from([("dangling".to_owned(), vec![dangling.to_owned()])])),
        };
        let pruned = self
            .client
            .prune_images(Some(options))
            .await
            .map_err(|error| self.failed(error))?;
        Ok(pruned
            .space_reclaimed
            .and_then(|bytes| u64::try_from(bytes).ok())
            .unwrap_or(0))
    }
}

/// Most characters of an engine's words that are logged.
const SHOWN: usize = 500;

enum Reason {
    Absent,
    Known(&'static str),
    Other,
}

/// Why an engine did not pull an image, by the words that Docker and Podman have for it.
fn reason(why: &str) -> Reason {
    let why = why.to_lowercase();
    let says = |signs: &[&str]| signs.iter().any(|sign| why.contains(sign));
    let known: [(&[&str], &str); 7] = [
        (&["no space left"], "there is no room on the disk of the engine"),
        (
            &[
                "no matching manifest",
                "no image found in manifest list",
                "no image found in image index",
            ],
            "there is no image for the platform of this machine in it",
        ),
        (
            &["unauthorized", "authentication required", "no basic auth", "denied"],
            "its registry wants another login (docker login, podman login), or does not have it",
        ),
        (
            &["toomanyrequests", "too many requests"],
            "its registry wants fewer requests; try again later",
        ),
        (
            &["x509", "certificate", "http response to https", "tls:"],
            "its registry does not speak TLS that is trusted",
        ),
        (
            &["no such host", "connection refused", "no route", "unreachable"],
            "its registry is not reached",
        ),
        (
            &[
                "timeout",
                "deadline exceeded",
                ": eof",
                "unexpected eof",
                "reset by peer",
            ],
            "its registry broke off, or took too long",
        ),
    ];
    if says(&["manifest unknown", "name unknown", "no such image", "does not exist"]) {
        return Reason::Absent;
    }
    match known.iter().find(|(signs, _)| says(signs)) {
        Some((_, told)) => Reason::Known(told),
        None if says(&["not found"]) => Reason::Absent,
        None => Reason::Other,
    }
}

fn missing(reference: &str, why: &str) -> Error {
    Error::ImageNotFound {
        image: reference.into(),
        why: why.into(),
    }
}

fn image(found: ImageInspect) -> Image {
    Image {
        id: found.id.unwrap_or_default(),
        references: found.repo_tags.unwrap_or_default(),
        bytes: found.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        created: found.created.as_deref().and_then(convert::time),
    }
}
