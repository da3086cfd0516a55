//! Chat completions of OpenAI and compatible servers: OpenRouter, Ollama, LM Studio, vLLM, llama.cpp.
//! `POST {base}/chat/completions` with `stream: true`; one chunk after another, `[DONE]` at the end.
//!
//! `top_k` is sent to all but OpenAI itself, which has none. Endpoints differ in small ways, each noted where it is met.

mod body;
mod calls;
mod chunks;

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::Value;

pub use self::body::body;
use super::{
    Call, Http, Pieces, Provider,
    endpoint::{Endpoint, Post},
    http::{self, Ask},
    reply,
};
use crate::{
    domain::{
        catalogue::{self, Model},
        failure::Failure,
    },
    keys::Key,
};

pub struct OpenAi {
    name: String,
    endpoint: Arc<Endpoint>,
    http: Http,
}

impl OpenAi {
    pub fn new(name: String, endpoint: Endpoint, http: Http) -> Self {
        Self {
            name,
            endpoint: Arc::new(endpoint),
            http,
        }
    }
}

impl Provider for OpenAi {
    fn name(&self) -> &str {
        &self.name
    }

    fn needs_key(&self) -> bool {
        !self.is_endpoint()
    }

    fn is_endpoint(&self) -> bool {
        !matches!(self.name.as_str(), catalogue::OPENAI | catalogue::OPENROUTER)
    }

    fn answer(&self, call: Call) -> Pieces {
        let (http, endpoint, key) = (self.http.clone(), self.endpoint.clone(), call.key.clone());
        let (within, idle) = (call.limits.first_byte, call.limits.idle);
        let body = body(&self.name, &call);
        let open = async move {
            let post = Post {
                path: "/chat/completions".into(),
                query: None,
                headers: headers(call.key.as_ref())?,
                body: body?,
                key: call.key,
                within,
            };
            endpoint.post(&http, post).await
        };
        reply::pieces(open, chunks::Chunks::default(), idle, key)
    }

    fn models(&self, key: Option<Key>, deadline: Duration) -> BoxFuture<'static, Result<Vec<Model>, Failure>> {
        list(&self.http, &self.endpoint, &self.name, key, deadline)
    }
}

pub(super) fn list(
    http: &Http,
    endpoint: &Endpoint,
    provider: &str,
    key: Option<Key>,
    deadline: Duration,
) -> BoxFuture<'static, Result<Vec<Model>, Failure>> {
    let (http, url, provider) = (http.clone(), endpoint.url("/models"), provider.to_owned());
    async move {
        let ask = Ask {
            url,
            headers: headers(key.as_ref())?,
            body: None,
            key,
        };
        let list = http.get_json(ask, deadline).await?;
        let models = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(models.iter().filter_map(|model| listed(&provider, model)).collect())
    }
    .boxed()
}

pub(super) fn headers(key: Option<&Key>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let bearer = zeroize::Zeroizing::new(format!("Bearer {}", key.reveal()));
        headers.insert(AUTHORIZATION, http::secret(&bearer)?);
    }
    Ok(headers)
}

/// OpenRouter and vLLM say more than OpenAI does.
fn listed(provider: &str, model: &Value) -> Option<Model> {
    let id = model["id"].as_str()?.to_owned();
    let number = |value: &Value| value.as_u64().and_then(|value| u32::try_from(value).ok());
    Some(Model {
        name: model["name"].as_str().unwrap_or(&id).to_owned(),
        provider: provider.to_owned(),
        context_window: number(&model["context_length"]).or_else(|| number(&model["max_model_len"])),
        max_output: number(&model["top_provider"]["max_completion_tokens"]),
        tools: true,
        vision: model["architecture"]["input_modalities"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "image")),
        thinking: false,
        id,
    })
}

#[cfg(test)]
mod tests;
