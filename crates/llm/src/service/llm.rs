//! The seven calls of `llm.v1.LLMService`.

use std::{collections::HashMap, pin::Pin};

use futures_util::{Stream, StreamExt};
use nexus_daemon::{Caller, Health};
use nexus_proto::{
    common::v1::{Health as Condition, Status as State},
    llm::v1::{self as wire, llm_service_server::LlmService},
};
use tonic::{Request, Response, Status, Streaming};

use super::{convert, stream, usage};
use crate::{
    domain::error::Error,
    engine::{Available, Engine, Output, ProviderView},
};

pub struct Llm {
    engine: Engine,
    health: Health,
}

impl Llm {
    pub fn new(engine: Engine, health: Health) -> Self {
        Self { engine, health }
    }

    /// Healthy, unless a part of the daemon is degraded. Failing providers are reported one by one, not here.
    fn condition(&self) -> Condition {
        let sound = self.health.degraded().is_empty() && self.engine.key_trouble().is_none();
        if sound { Condition::Healthy } else { Condition::Degraded }
    }
}

#[tonic::async_trait]
impl LlmService for Llm {
    type StreamLLMStream = Pin<Box<dyn Stream<Item = Result<wire::StreamLlmResponse, Status>> + Send>>;

    async fn stream_llm(
        &self,
        request: Request<Streaming<wire::StreamLlmRequest>>,
    ) -> Result<Response<Self::StreamLLMStream>, Status> {
        Ok(Response::new(Box::pin(stream::answers(
            self.engine.clone(),
            request.into_inner(),
        ))))
    }

    async fn complete_llm(
        &self,
        request: Request<wire::CompleteLlmRequest>,
    ) -> Result<Response<wire::CompleteLlmResponse>, Status> {
        let request = request.into_inner().request.ok_or(Error::WithoutRequest)?;
        if request.request_id.is_empty() {
            return Err(Error::WithoutId.into());
        }
        let (id, metadata) = (request.request_id.clone(), request.metadata.clone());
        let mut run = self.engine.accept(convert::request(request)?)?;
        while let Some(output) = run.next().await {
            match output {
                Output::Text(_) | Output::Thinking(_) | Output::Tool { .. } => {}
                Output::Whole(whole) => {
                    let response = Some(convert::response(&id, metadata, *whole));
                    return Ok(Response::new(wire::CompleteLlmResponse { response }));
                }
                Output::Failed(error) => return Err(error.into()),
            }
        }
        Err(Status::internal("a request ended without an answer or an error"))
    }

    async fn list_models(
        &self,
        request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        let views = self.engine.catalogue(&request.into_inner().provider).await?;
        Ok(Response::new(wire::ListModelsResponse {
            models: views.into_iter().flat_map(models).collect(),
        }))
    }

    async fn get_capabilities(
        &self,
        request: Request<wire::GetCapabilitiesRequest>,
    ) -> Result<Response<wire::GetCapabilitiesResponse>, Status> {
        let views = self.engine.catalogue(&request.into_inner().provider).await?;
        Ok(Response::new(wire::GetCapabilitiesResponse {
            providers: views.into_iter().map(capabilities).collect(),
        }))
    }

    async fn health_check(&self, _: Request<()>) -> Result<Response<wire::LlmHealthCheckResponse>, Status> {
        let views = self.engine.availability().await;
        let named = |wanted: bool| {
            let of_kind = views.iter().filter(|view| (view.available == Available::Yes) == wanted);
            of_kind.map(|view| view.name.clone()).collect()
        };
        Ok(Response::new(wire::LlmHealthCheckResponse {
            health: self.condition().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            available_providers: named(true),
            unavailable_providers: named(false),
            timestamp: Some(convert::timestamp(std::time::SystemTime::now())),
        }))
    }

    async fn get_usage(
        &self,
        request: Request<wire::GetUsageRequest>,
    ) -> Result<Response<wire::GetUsageResponse>, Status> {
        let caller = Caller::of(&request);
        usage::get(&self.engine, &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn get_status(&self, _: Request<()>) -> Result<Response<wire::LlmStatusResponse>, Status> {
        let (status, views) = (self.engine.status(), self.engine.availability().await);
        Ok(Response::new(wire::LlmStatusResponse {
            status: State::Running.into(),
            started_at: Some(convert::timestamp(status.started)),
            uptime: nexus_proto::Duration::try_from(status.uptime).ok(),
            active_requests: i32::try_from(status.whole.active).unwrap_or(i32::MAX),
            total_requests: i64::try_from(status.whole.requests).unwrap_or(i64::MAX),
            total_tokens_used: i64::try_from(status.whole.tokens).unwrap_or(i64::MAX),
            providers: views
                .iter()
                .map(|view| (view.name.clone(), provider_status(view)))
                .collect(),
        }))
    }
}

fn models(view: ProviderView) -> Vec<wire::ModelInfo> {
    let (available, _) = told(&view.available);
    let models = view.models.into_iter().map(convert::model);
    models
        .map(|mut model| {
            model.metadata.insert("available".into(), available.to_string());
            model
        })
        .collect()
}

fn capabilities(view: ProviderView) -> wire::ProviderCapabilities {
    let (available, reason) = told(&view.available);
    let mut metadata = HashMap::from([
        ("requests_today".to_owned(), view.today.requests.to_string()),
        ("tokens_today".to_owned(), view.today.tokens().to_string()),
        ("requests_total".to_owned(), view.total.requests.to_string()),
        ("tokens_total".to_owned(), view.total.tokens().to_string()),
    ]);
    if let Some(reason) = reason {
        metadata.insert("reason".into(), reason.to_owned());
    }
    wire::ProviderCapabilities {
        name: view.name.clone(),
        available,
        metadata,
        models: models(view),
    }
}

fn provider_status(view: &ProviderView) -> wire::ProviderStatus {
    let health = match view.available {
        Available::Yes => Condition::Healthy,
        Available::No(_) => Condition::Unknown,
        Available::Sick(_) => Condition::Unhealthy,
    };
    wire::ProviderStatus {
        available: view.available == Available::Yes,
        health: health.into(),
        active_requests: i32::try_from(view.statistics.active).unwrap_or(i32::MAX),
        total_requests: i64::try_from(view.statistics.requests).unwrap_or(i64::MAX),
        avg_response_time_ms: view.statistics.average_ms(),
        last_request_at: view.statistics.last_request.map(convert::timestamp),
    }
}

fn told(available: &Available) -> (bool, Option<&str>) {
    match available {
        Available::Yes => (true, None),
        Available::No(reason) | Available::Sick(reason) => (false, Some(reason)),
    }
}
