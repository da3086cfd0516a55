//! The calls about images.

use std::path::Path;

use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::{Image as Wire, PullImageRequest};
use nexus_runtime::{Found, Image, Progress, PullOrder, PullPolicy, Pulled};
use tokio::sync::mpsc;

use super::{Containers, Requester};
use crate::domain::Error;
use crate::domain::access::may_change_images;
use crate::domain::container::check_reference;
use crate::domain::container::policy::HOST_IMAGE;
use crate::domain::event::timestamp;

impl Containers {
    /// The engine's name and its images.
    pub async fn images(&self) -> Result<(&'static str, Vec<Wire>), Error> {
        let found = self.inner.runtime.main().await.map_err(Error::Runtime)?;
        let all = self.ask(&found, "list images", found.engine.images()).await?;
        Ok((found.engine.name(), all.into_iter().map(wire).collect()))
    }

    /// Refuses a caller who may not pull at once; the pull itself is the future that this returns.
    pub fn pull(
        &self,
        caller: &Caller,
        request: PullImageRequest,
        steps: mpsc::Sender<Progress>,
    ) -> Result<impl Future<Output = Result<(Wire, bool), Error>> + Send + use<>, Error> {
        may_change_images(caller, "pull images")?;
        let this = self.clone();
        Ok(async move { this.pull_image(&request.reference, &request.policy, steps).await })
    }

    async fn pull_image(
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
        if policy != PullPolicy::Never && reference != HOST_IMAGE {
            self.options().policy.may_fetch(reference, true)?;
        }
        let found = self.inner.runtime.main().await.map_err(Error::Runtime)?;
        let login = nexus_runtime::login(reference).map_err(Error::Runtime)?;
        let pull = found.engine.pull(reference, policy, login.as_ref(), Some(steps));
        let Pulled { image, fetched } = self
            .ask_for(&found, "get an image", self.options().pull_timeout, pull)
            .await?;
        Ok((wire(image), fetched))
    }

    /// Fetches an image for a container of whoever asks, within what the policy and that user's share allow.
    pub(super) async fn fetch_for(
        &self,
        found: &Found,
        who: &Requester,
        reference: &str,
        policy: PullPolicy,
    ) -> Result<(), Error> {
        self.options().policy.may_fetch(reference, who.admin)?;
        if who.admin {
            return self.fetch(found, reference, policy, None).await.map(drop);
        }
        let (shares, engine) = (&self.inner.image_shares, found.engine.name());
        let _turn = shares.turn(&who.principal).await;
        let there = self.ask(found, "list images", found.engine.images()).await?;
        let most = self.options().user_image_bytes;
        let used = shares.used(engine, &who.principal, &there).map_err(unreadable)?;
        let Some(left) = most.checked_sub(used).filter(|left| *left > 0) else {
            return Err(Error::Limit {
                what: "image size per user (bytes)",
                max: usize::try_from(most).unwrap_or(usize::MAX),
                setting: "orchestrator.container_user_image_size",
            });
        };
        let pulled = self.fetch(found, reference, policy, Some(left)).await;
        let pulled = pulled.map_err(|error| match error {
            Error::Runtime(nexus_runtime::Error::Pull { image, why }) if used > 0 => {
                let why = format!(
                    "{why}; of the {most} bytes for images of one user, {left} are left \
                     (orchestrator.container_user_image_size)"
                );
                Error::Runtime(nexus_runtime::Error::Pull { image, why })
            }
            other => other,
        })?;
        if pulled.fetched {
            shares
                .note(engine, &who.principal, &pulled.image.id, &there)
                .map_err(unreadable)?;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        found: &Found,
        reference: &str,
        policy: PullPolicy,
        max_bytes: Option<u64>,
    ) -> Result<Pulled, Error> {
        let login = nexus_runtime::login(reference).map_err(Error::Runtime)?;
        let pull = found.engine.pull_order(PullOrder {
            reference,
            policy,
            credentials: login.as_ref(),
            progress: None,
            max_bytes,
        });
        self.ask_for(found, "get an image", self.options().pull_timeout, pull)
            .await
    }

    pub async fn import(&self, caller: &Caller, path: &str, reference: &str) -> Result<Wire, Error> {
        may_change_images(caller, "import images")?;
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

    pub async fn remove_image(&self, caller: &Caller, reference: &str, force: bool) -> Result<(), Error> {
        may_change_images(caller, "remove images")?;
        named(reference)?;
        let found = self.inner.runtime.main().await.map_err(Error::Runtime)?;
        self.ask(&found, "remove an image", found.engine.remove_image(reference, force))
            .await
    }

    pub async fn prune_images(&self, caller: &Caller, all: bool) -> Result<u64, Error> {
        may_change_images(caller, "remove images")?;
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

fn unreadable(error: std::io::Error) -> Error {
    Error::Runtime(nexus_runtime::Error::Failed {
        engine: "images",
        why: format!("failed to account for the images of a user: {error}"),
    })
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
