//! Gemini: `POST {base}/v1beta/models/MODEL:streamGenerateContent?alt=sse`. Each event is a piece of the answer; a part may
//! carry a signature of the thinking before it, which goes back on the same part.

mod body;
mod chunks;

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use reqwest::header::HeaderMap;
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
        failure::{Failure, Kind},
    },
    keys::Key,
};

pub struct Gemini {
    name: String,
    endpoint: Arc<Endpoint>,
    http: Http,
}

impl Gemini {
    pub fn new(name: String, endpoint: Endpoint, http: Http) -> Self {
        Self {
            name,
            endpoint: Arc::new(endpoint),
            http,
        }
    }
}

impl Provider for Gemini {
    fn name(&self) -> &str {
        &self.name
    }

    fn needs_key(&self) -> bool {
        !self.is_endpoint()
    }

    fn is_endpoint(&self) -> bool {
        self.name != catalogue::GEMINI
    }

    fn answer(&self, call: Call) -> Pieces {
        let (http, endpoint, key) = (self.http.clone(), self.endpoint.clone(), call.key.clone());
        let (within, idle) = (call.limits.first_byte, call.limits.idle);
        let (path, body) = (path(&call.model), body(&self.name, &call));
        let open = async move {
            let post = Post {
                path: path?,
                query: Some("alt=sse"),
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
        let (http, mut url, provider) = (self.http.clone(), self.endpoint.url("/models"), self.name.clone());
        url.set_query(Some("pageSize=1000"));
        async move {
            let ask = Ask {
                url,
                headers: headers(key.as_ref())?,
                body: None,
                key,
            };
            let list = http.get_json(ask, deadline).await?;
            let models = list["models"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(models.iter().filter_map(|model| listed(&provider, model)).collect())
        }
        .boxed()
    }
}

/// The model's name is a part of the path, so it may be nothing else.
fn path(model: &str) -> Result<String, Failure> {
    let name = model.strip_prefix("models/").unwrap_or(model);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.contains("..") || !name.chars().all(plain) {
        return Err(Failure::new(Kind::UnknownModel, format!("has no model {model:?}")));
    }
    Ok(format!("/models/{name}:streamGenerateContent"))
}

fn headers(key: Option<&Key>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        headers.insert("x-goog-api-key", http::secret(key.reveal())?);
    }
    Ok(headers)
}

/// Models that only embed or draw are left out.
fn listed(provider: &str, model: &Value) -> Option<Model> {
    let methods = model["supportedGenerationMethods"].as_array()?;
    if !methods.iter().any(|method| method == "generateContent") {
        return None;
    }
    let id = model["name"].as_str()?.strip_prefix("models/")?.to_owned();
    let number = |field: &str| model[field].as_u64().and_then(|value| u32::try_from(value).ok());
    Some(Model {
        name: model["displayName"].as_str().unwrap_or(&id).to_owned(),
        provider: provider.to_owned(),
        context_window: number("inputTokenLimit"),
        max_output: number("outputTokenLimit"),
        tools: true,
        vision: true,
        thinking: model["thinking"] == true,
        id,
    })
}

#[cfg(test)]
mod tests;
