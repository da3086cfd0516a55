//! `nexus images`: the container images of the backend that the orchestrator uses.

use clap::Subcommand;
use nexus_proto::orchestrator::v1::container_service_client::ContainerServiceClient;
use nexus_proto::orchestrator::v1::*;
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    output::{
        Output,
        table::table,
        time::{ago, exact},
    },
};

#[derive(Debug, Subcommand)]
pub enum ImagesCommand {
    /// List images
    List,
    /// Fetch an image; logins of `docker login` and `podman login` are used
    Pull {
        /// Such as alpine:3.20 or ghcr.io/us/tool@sha256:...
        reference: String,
        /// When the registry is asked: missing, always, never [default: as the config says]
        #[arg(long, default_value = "", hide_default_value = true)]
        policy: String,
    },
    /// Take in a root filesystem (tar), an image archive, or an OCI layout directory
    Import {
        path: std::path::PathBuf,
        /// What it will be called
        reference: String,
    },
    /// Remove an image
    Rm {
        reference: String,
        /// Also where a container uses it
        #[arg(short, long)]
        force: bool,
    },
    /// Remove images without a name that no container uses
    Prune {
        /// Every image that no container uses
        #[arg(long)]
        all: bool,
    },
}

fn shown(image: &Image) -> Value {
    json!({
        "id": image.id, "references": image.references, "size_bytes": image.size_bytes,
        "created_at": exact(image.created_at.as_ref()),
    })
}

pub async fn run(context: &Context, command: ImagesCommand, output: &Output) -> Result<Exit, Failure> {
    let mut client = ContainerServiceClient::new(context.connection().channel());
    match command {
        ImagesCommand::List => {
            let answer = client.list_images(ListImagesRequest {}).await?.into_inner();
            if output.json {
                let images: Vec<_> = answer.images.iter().map(shown).collect();
                output.value(&json!({ "backend": answer.backend, "images": images }))?;
                return Ok(Exit::Ok);
            }
            if answer.images.is_empty() {
                output.note(&format!(
                    "no images in {}; fetch one with: nexus images pull alpine:3",
                    answer.backend
                ));
                return Ok(Exit::Ok);
            }
            let rows = answer.images.iter().map(|image| {
                let size = format!("{:.1} MiB", image.size_bytes as f64 / 1_048_576.0);
                [
                    image.references.join(" "),
                    size,
                    ago(image.created_at.as_ref()),
                    image.id.clone(),
                ]
            });
            output.line(table(output, ["IMAGE", "SIZE", "CREATED", "ID"], rows))?;
        }
        ImagesCommand::Pull { reference, policy } => {
            let mut request = tonic::Request::new(PullImageRequest { reference, policy });
            request.set_timeout(std::time::Duration::from_secs(3600));
            let mut steps = client.pull_image(request).await?.into_inner();
            let mut said = String::new();
            while let Some(step) = steps.message().await? {
                if output.json {
                    let image = step.image.as_ref().map(shown);
                    output.record(&json!({
                        "what": step.what, "status": step.status, "bytes": step.bytes, "total": step.total,
                        "image": image, "fetched": step.fetched,
                    }))?;
                    continue;
                }
                if let Some(image) = step.image {
                    let how = if step.fetched { "fetched" } else { "here already" };
                    output.line(format!("{} ({how})", image.id))?;
                } else if said != step.status {
                    output.note(&format!("{} {}", step.what, step.status));
                    said = step.status;
                }
            }
        }
        ImagesCommand::Import { path, reference } => {
            let path = std::path::absolute(&path).map_err(|error| Failure::file("read", &path, &error))?;
            let path = path.to_string_lossy().into_owned();
            let mut request = tonic::Request::new(ImportImageRequest { path, reference });
            request.set_timeout(std::time::Duration::from_secs(3600));
            let image = client
                .import_image(request)
                .await?
                .into_inner()
                .image
                .unwrap_or_default();
            if output.json {
                output.value(&shown(&image))?;
            } else {
                output.line(&image.id)?;
            }
        }
        ImagesCommand::Rm { reference, force } => {
            let gone = client
                .remove_image(RemoveImageRequest { reference, force })
                .await?
                .into_inner()
                .reference;
            if output.json {
                output.value(&json!({ "removed": gone }))?;
            } else {
                output.line(gone)?;
            }
        }
        ImagesCommand::Prune { all } => {
            let freed = client
                .prune_images(PruneImagesRequest { all })
                .await?
                .into_inner()
                .freed_bytes;
            if output.json {
                output.value(&json!({ "freed_bytes": freed }))?;
            } else {
                output.line(format!("freed {:.1} MiB", freed as f64 / 1_048_576.0))?;
            }
        }
    }
    Ok(Exit::Ok)
}
