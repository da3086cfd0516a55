//! The Anthropic Messages API: `POST {base}/v1/messages` with `stream: true`.
//!
//! ```text
//! message_start  (content_block_start content_block_delta* content_block_stop)*  message_delta  message_stop
//! ```
//! with `ping` and `error` anywhere. Events and blocks that we do not know are passed over.

mod body;
mod events;

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use reqwest::header::{HeaderMap, HeaderValue};
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

const VERSION: &str = "2023-06-01";

pub struct Anthropic {
    name: String,
    endpoint: Arc<Endpoint>,
    http: Http,
}

impl Anthropic {
    pub fn new(name: String, endpoint: Endpoint, http: Http) -> Self {
        Self {
            name,
            endpoint: Arc::new(endpoint),
            http,
        }
    }
}

impl Provider for Anthropic {
    fn name(&self) -> &str {
        &self.name
    }

    fn needs_key(&self) -> bool {
        !self.is_endpoint()
    }

    fn is_endpoint(&self) -> bool {
        self.name != catalogue::ANTHROPIC
    }

    fn answer(&self, call: Call) -> Pieces {
        let (http, endpoint, key) = (self.http.clone(), self.endpoint.clone(), call.key.clone());
        let (within, idle) = (call.limits.first_byte, call.limits.idle);
        let body = body(&self.name, &call);
        let open = async move {
            let post = Post {
                path: "/messages".into(),
                query: None,
                headers: headers(call.key.as_ref())?,
                body: body?,
                key: call.key,
                within,
            };
            endpoint.post(&http, post).await
        };
        reply::pieces(open, events::Events::default(), idle, key)
    }

    fn models(&self, key: Option<Key>, deadline: Duration) -> BoxFuture<'static, Result<Vec<Model>, Failure>> {
        let (http, mut url, name) = (self.http.clone(), self.endpoint.url("/models"), self.name.clone());
        url.set_query(Some("limit=1000"));
        async move {
            let ask = Ask {
                url,
                headers: headers(key.as_ref())?,
                body: None,
                key,
            };
            let list = http.get_json(ask, deadline).await?;
            Ok(list["data"].as_array().map_or_else(Vec::new, |models| {
                models.iter().filter_map(|model| listed(&name, model)).collect()
            }))
        }
        .boxed()
    }
}

fn headers(key: Option<&Key>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert("anthropic-version", HeaderValue::from_static(VERSION));
    if let Some(key) = key {
        headers.insert("x-api-key", http::secret(key.reveal())?);
    }
    Ok(headers)
}

fn listed(provider: &str, model: &Value) -> Option<Model> {
    let id = model["id"].as_str()?.to_owned();
    let number = |field: &str| model[field].as_u64().and_then(|value| u32::try_from(value).ok());
    let name = model["display_name"].as_str().unwrap_or(&id).to_owned();
    Some(Model {
        name,
        provider: provider.to_owned(),
        context_window: number("max_input_tokens"),
        max_output: number("max_tokens"),
        tools: true,
        vision: true,
        thinking: false,
        id,
    })
}

#[cfg(test)]
mod tests;
