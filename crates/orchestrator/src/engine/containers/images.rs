//! Images of the engine in use.

use std::path::Path;

use nexus_proto::orchestrator::v1::Image as Wire;
use nexus_runtime::{Image, Progress, PullPolicy, Pulled};
use tokio::sync::mpsc;

use super::Containers;
use crate::domain::Error;
use crate::domain::container::check_reference;
use crate::domain::event::timestamp;

impl Containers {
    /// The engine's name, and what it has.
    pub async fn images(&self) -> Result<(&'static str, Vec<Wire>), Error> {
        let found = self.inner.runtime.main().await.map_err(Error::Runtime)?;
        let all = self.ask(&found, "list images", found.engine.images()).await?;
        Ok((found.engine.name(), all.into_iter().map(wire).collect()))
    }

    pub async fn pull(
        &self,
        reference: &str,
        policy: &str,
        steps: mpsc::Sender<Progress>,
    ) -> Result<(Wire, bool), Error> {
        let policy = match policy {
            "" => self.options().pull,
            "missing" => PullPolicy::Missing,
            "always" => PullPolicy::Always,
            "never" => PullPolicy::Never,
            _ => return Err(Error::Invalid("policy must be missing, always or never".into())),
        };
        named(reference)?;
        let found = self.inner.runtime.main().await.map_err(Error::Runtime)?;
        let login = nexus_runtime::login(reference).map_err(Error::Runtime)?;
        let pull = found.engine.pull(reference, policy, login.as_ref(), Some(steps));
        let Pulled { image, fetched } = self
            .ask_for(&found, "get an image", self.options().pull_timeout, pull)
            .await?;
        Ok((wire(image), fetched))
    }

    pub async fn import(&self, path: &str, reference: &str) -> Result<Wire, Error> {
        named(reference)?;
        if !Path::new(path).is_absolute() {
            return Err(Error::Invalid(
                "path must be absolute: the orchestrator reads it".into(),
            ));
        }
        let found = self.inner.runtime.main().await.map_err(Error::Runtime)?;
        let import = found.engine.import(Path::new(path), reference);
        self.ask_for(&found, "take in an image", self.options().pull_timeout, import)
            .await
            .map(wire)
    }

    pub async fn remove_image(&self, reference: &str, force: bool) -> Result<(), Error> {
        named(reference)?;
        let found = self.inner.runtime.main().await.map_err(Error::Runtime)?;
        self.ask(&found, "remove an image", found.engine.remove_image(reference, force))
            .await
    }

    pub async fn prune_images(&self, all: bool) -> Result<u64, Error> {
        let found = self.inner.runtime.main().await.map_err(Error::Runtime)?;
        self.ask_for(
            &found,
            "remove images",
            self.options().pull_timeout,
            found.engine.prune_images(all),
        )
        .await
    }
}

fn named(reference: &str) -> Result<(), Error> {
    if reference.is_empty() {
        return Err(Error::Required("reference"));
    }
    check_reference("reference", reference)
}

fn wire(image: Image) -> Wire {
    Wire {
        id: image.id,
        references: image.references,
        size_bytes: i64::try_from(image.bytes).unwrap_or(i64::MAX),
        created_at: image.created.and_then(super::time).map(timestamp),
    }
}
