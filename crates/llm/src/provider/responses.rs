//! OpenAI's responses API: `POST {base}/responses` with `stream: true` and `store: false`, so that nothing of a
//! conversation stays with the provider. What a model thought comes as an encrypted item and goes back as it came.

mod body;
mod events;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

pub use self::body::body;
use super::{
    Call, Http, Pieces, Provider,
    endpoint::{Endpoint, Post},
    openai, reply,
};
use crate::{
    domain::{
        catalogue::{self, Model},
        failure::Failure,
    },
    keys::Key,
};

pub struct Responses {
    name: String,
    endpoint: Arc<Endpoint>,
    http: Http,
}

impl Responses {
    pub fn new(name: String, endpoint: Endpoint, http: Http) -> Self {
        Self {
            name,
            endpoint: Arc::new(endpoint),
            http,
        }
    }
}

impl Provider for Responses {
    fn name(&self) -> &str {
        &self.name
    }

    fn needs_key(&self) -> bool {
        !self.is_endpoint()
    }

    fn is_endpoint(&self) -> bool {
        self.name != catalogue::OPENAI
    }

    fn answer(&self, call: Call) -> Pieces {
        let (http, endpoint, key) = (self.http.clone(), self.endpoint.clone(), call.key.clone());
        let (within, idle) = (call.limits.first_byte, call.limits.idle);
        let body = body(&self.name, &call);
        let open = async move {
            let post = Post {
                path: "/responses".into(),
                query: None,
                headers: openai::headers(call.key.as_ref())?,
                body: body?,
                key: call.key,
                within,
            };
            endpoint.post(&http, post).await
        };
        reply::pieces(open, events::Events::default(), idle, key)
    }

    fn models(&self, key: Option<Key>, deadline: Duration) -> BoxFuture<'static, Result<Vec<Model>, Failure>> {
        openai::list(&self.http, &self.endpoint, &self.name, key, deadline)
    }
}

#[cfg(test)]
mod tests;
