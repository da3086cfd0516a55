//! Containers: the five calls of `orchestrator.v1`, and the service of what clients need beside them.

use std::pin::Pin;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use nexus_daemon::Caller;
use nexus_proto::orchestrator::v1::container_service_server::ContainerService;
use nexus_proto::orchestrator::v1::*;
use nexus_runtime::{LogOptions, Source};
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status};

use super::once;
use super::status::refuse;
use crate::domain::{Error, event};
use crate::engine::containers::{Containers, Requester};

/// Steps of a pull that a slow reader may be behind.
const STEPS: usize = 64;

#[derive(Clone, Debug)]
pub struct Service {
    pub containers: Containers,
}

type Answer<T> = Result<Response<T>, Status>;

/// What a failure of an engine is to a caller.
pub fn code(error: &nexus_runtime::Error) -> (Code, &'static str) {
    use nexus_runtime::Error;
    match error {
        Error::NotFound(_) => (Code::NotFound, "CONTAINER_NOT_FOUND"),
        Error::Exists(_) => (Code::AlreadyExists, "CONTAINER_EXISTS"),
        Error::ImageNotFound { .. } => (Code::NotFound, "IMAGE_NOT_FOUND"),
        Error::Pull { .. } => (Code::FailedPrecondition, "IMAGE_PULL"),
        Error::Invalid(_) => (Code::InvalidArgument, "INVALID"),
        Error::State { .. } => (Code::FailedPrecondition, "CONTAINER_STATE"),
        Error::Denied(_) => (Code::PermissionDenied, "CONTAINER_FORBIDDEN"),
        Error::Unsupported { .. } => (Code::FailedPrecondition, "ENGINE_UNSUPPORTED"),
        Error::Unavailable { .. } => (Code::Unavailable, "ENGINE_AWAY"),
        Error::Timeout { .. } => (Code::Unavailable, "ENGINE_TIMEOUT"),
        Error::Unusable { .. } | Error::NoBackend { .. } => (Code::FailedPrecondition, "NO_BACKEND"),
        Error::Failed { .. } => (Code::Internal, "ENGINE"),
    }
}

fn who<T>(request: &Request<T>) -> Result<Requester, Status> {
    Requester::of(&Caller::of(request)).map_err(refuse)
}

pub async fn create(
    containers: &Containers,
    request: Request<CreateContainerRequest>,
) -> Answer<CreateContainerResponse> {
    let who = who(&request)?;
    let once = once(&request, "CreateContainer").map_err(refuse)?;
    let made = containers.create(once, who, request.into_inner()).await;
    made.map(Response::new).map_err(refuse)
}

pub async fn get(containers: &Containers, request: Request<GetContainerRequest>) -> Answer<GetContainerResponse> {
    let who = who(&request)?;
    let found = containers
        .get(&request.get_ref().container_id, &who)
        .await
        .map_err(refuse)?;
    Ok(Response::new(GetContainerResponse { container: Some(found) }))
}

pub fn list(containers: &Containers, request: Request<ListContainersRequest>) -> Answer<ListContainersResponse> {
    let who = who(&request)?;
    let containers = containers.list(&request.into_inner().filter.unwrap_or_default(), &who);
    let total_count = i32::try_from(containers.len()).unwrap_or(i32::MAX);
    Ok(Response::new(ListContainersResponse {
        containers,
        total_count,
    }))
}

pub async fn stop(containers: &Containers, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
    let who = who(&request)?;
    let once = once(&request, "StopContainer").map_err(refuse)?;
    let stopped = containers.stop(once, request.into_inner(), &who).await;
    stopped.map(Response::new).map_err(refuse)
}

pub async fn remove(
    containers: &Containers,
    request: Request<RemoveContainerRequest>,
) -> Answer<RemoveContainerResponse> {
    let who = who(&request)?;
    let once = once(&request, "RemoveContainer").map_err(refuse)?;
    let removed = containers.remove(once, request.into_inner(), &who).await;
    removed.map(Response::new).map_err(refuse)
}

#[tonic::async_trait]
impl ContainerService for Service {
    type ContainerLogsStream = Pin<Box<dyn Stream<Item = Result<ContainerLogsResponse, Status>> + Send>>;
    type PullImageStream = Pin<Box<dyn Stream<Item = Result<PullImageResponse, Status>> + Send>>;

    async fn container_logs(&self, request: Request<ContainerLogsRequest>) -> Answer<Self::ContainerLogsStream> {
        let who = who(&request)?;
        let request = request.into_inner();
        let tail =
            usize::try_from(request.tail).map_err(|_| refuse(Error::Invalid("tail must not be negative".into())))?;
        let since = request
            .since
            .as_ref()
            .map(event::time)
            .and_then(|at| u64::try_from(at).ok());
        let options = LogOptions {
            follow: request.follow,
            since: since.map(|at| std::time::UNIX_EPOCH + std::time::Duration::from_nanos(at)),
            tail: (tail > 0).then_some(tail),
        };
        let chunks = self
            .containers
            .logs(&request.container_id, options, &who)
            .await
            .map_err(refuse)?;
        let frames = chunks.map(|chunk| {
            let chunk = chunk.map_err(|error| refuse(Error::Runtime(error)))?;
            Ok(ContainerLogsResponse {
                data: chunk.bytes,
                is_stderr: chunk.source == Source::Stderr,
            })
        });
        Ok(Response::new(Box::pin(frames)))
    }

    async fn exec_container(&self, request: Request<ExecContainerRequest>) -> Answer<ExecContainerResponse> {
        let who = who(&request)?;
        let done = self.containers.exec(request.into_inner(), &who).await;
        done.map(Response::new).map_err(refuse)
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Answer<ContainerStatsResponse> {
        let who = who(&request)?;
        let used = self
            .containers
            .stats(&request.get_ref().container_id, &who)
            .await
            .map_err(refuse)?;
        Ok(Response::new(ContainerStatsResponse { resources: Some(used) }))
    }

    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let (backend, images) = self.containers.images().await.map_err(refuse)?;
        Ok(Response::new(ListImagesResponse {
            images,
            backend: backend.into(),
        }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<Self::PullImageStream> {
        let caller = Caller::of(&request);
        let (send, receive) = mpsc::channel(STEPS);
        let pull = self
            .containers
            .pull(&caller, request.into_inner(), send)
            .map_err(refuse)?;
        let pull = tokio::spawn(pull);
        let steps = stream::unfold((receive, Some(pull)), |(mut receive, pull)| async move {
            if let Some(step) = receive.recv().await {
                let frame = PullImageResponse {
                    what: step.what,
                    status: step.status,
                    bytes: i64::try_from(step.bytes).unwrap_or(i64::MAX),
                    total: i64::try_from(step.total).unwrap_or(i64::MAX),
                    ..PullImageResponse::default()
                };
                return Some((Ok(frame), (receive, pull)));
            }
            let done = pull?
                .await
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            let last = done.map_err(refuse).map(|(image, fetched)| PullImageResponse {
                image: Some(image),
                fetched,
                ..PullImageResponse::default()
            });
            Some((last, (receive, None)))
        });
        Ok(Response::new(Box::pin(steps)))
    }

    async fn import_image(&self, request: Request<ImportImageRequest>) -> Answer<ImportImageResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let image = self
            .containers
            .import(&caller, &request.path, &request.reference)
            .await
            .map_err(refuse)?;
        Ok(Response::new(ImportImageResponse { image: Some(image) }))
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        self.containers
            .remove_image(&caller, &request.reference, request.force)
            .await
            .map_err(refuse)?;
        Ok(Response::new(RemoveImageResponse {
            reference: request.reference,
        }))
    }

    async fn prune_images(&self, request: Request<PruneImagesRequest>) -> Answer<PruneImagesResponse> {
        let caller = Caller::of(&request);
        let freed = self
            .containers
            .prune_images(&caller, request.get_ref().all)
            .await
            .map_err(refuse)?;
        Ok(Response::new(PruneImagesResponse {
            freed_bytes: i64::try_from(freed).unwrap_or(i64::MAX),
        }))
    }
}
