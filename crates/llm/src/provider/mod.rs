//! Those who answer. A provider turns a [`Call`] into a stream of pieces; dropping the stream ends the request with
//! the provider at once. It never retries and never chooses: that is the engine's.

pub mod anthropic;
mod endpoint;
mod gateway;
pub mod gemini;
mod http;
mod ids;
mod offline;
pub mod openai;
mod reply;
pub mod responses;
pub mod sse;

use std::{sync::Arc, time::Duration};

use futures_util::{future::BoxFuture, stream::BoxStream};

use self::endpoint::{Endpoint, Family};
pub use self::http::Http;
use crate::{
    config::{Api, Config, base_url},
    domain::{
        answer::Piece,
        catalogue::{self, Model},
        failure::{Failure, Kind},
        request::Request,
    },
    keys::Key,
};

/// One attempt to get an answer.
#[derive(Debug, Clone)]
pub struct Call {
    pub request: Arc<Request>,
    /// As the provider calls it.
    pub model: String,
    pub key: Option<Key>,
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub first_byte: Duration,
    pub idle: Duration,
    pub max_output_tokens: u32,
}

/// Pieces until the end of a whole answer, which always brings [`Piece::Finish`], or one failure, which is the last item.
pub type Pieces = BoxStream<'static, Result<Piece, Failure>>;

pub trait Provider: Send + Sync {
    fn name(&self) -> &str;

    /// Without one a request is not even sent.
    fn needs_key(&self) -> bool;

    /// Whether it can be used is only known by asking it: it is a local server, or some other endpoint.
    fn is_endpoint(&self) -> bool;

    fn answer(&self, call: Call) -> Pieces;

    /// The models it says it has, within the deadline.
    fn models(&self, key: Option<Key>, deadline: Duration) -> BoxFuture<'static, Result<Vec<Model>, Failure>>;
}

/// All providers of the settings, in the order of preference. Settings were checked, so a bad address is left out here.
pub fn all(config: &Config, http: &Http) -> Vec<Arc<dyn Provider>> {
    let mut providers: Vec<Arc<dyn Provider>> = Vec::new();
    for name in config.providers() {
        if name == catalogue::OFFLINE {
            let script = (!config.offline_script.is_empty()).then(|| config.offline_script.clone().into());
            providers.push(Arc::new(offline::Offline::new(config.offline_pace, script)));
            continue;
        }
        let Some(url) = config
            .urls()
            .into_iter()
            .find(|(known, _)| *known == name)
            .and_then(|(_, url)| base_url(url).ok())
        else {
            continue;
        };
        let endpoint = |family| Endpoint::new(family, &url, config.omitted(&name), http.memory());
        let http = http.clone();
        providers.push(match config.api(&name) {
            Api::Anthropic => Arc::new(anthropic::Anthropic::new(
                name.clone(),
                endpoint(Family::Versioned("v1")),
                http,
            )),
            Api::Chat => Arc::new(openai::OpenAi::new(name.clone(), endpoint(Family::OpenAi), http)),
            Api::Responses => Arc::new(responses::Responses::new(name.clone(), endpoint(Family::OpenAi), http)),
            Api::Gemini => Arc::new(gemini::Gemini::new(
                name.clone(),
                endpoint(Family::Versioned("v1beta")),
                http,
            )),
            Api::Gateway => Arc::new(gateway::Gateway::new(endpoint(Family::Versioned("v1")), http)),
        });
    }
    providers
}

/// A conversation of nothing but system text and blanks.
fn nothing_to_answer() -> Failure {
    Failure::new(Kind::Invalid, "the messages hold nothing to answer")
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
