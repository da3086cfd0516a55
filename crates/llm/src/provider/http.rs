//! HTTP as providers need it: one client for TLS and one for plain `http://`, built on first use so that an idle daemon
//! loads no certificates; redirects within one origin only, as others would carry a key elsewhere; errors that name the
//! reason and no secret.

mod provider_error;

use std::{error::Error as _, sync::Arc, time::Duration};

use parking_lot::Mutex;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, LOCATION},
    redirect,
};
use serde_json::Value;
use tokio::{sync::OnceCell, time::timeout};

pub use self::provider_error::{ProviderError, clean, redact, shown};
use super::endpoint::Memory;
use crate::{
    domain::failure::{Failure, Kind},
    keys::Key,
};

const LIST_BODY: usize = 16 << 20;
/// Redirects within one request.
const HOPS: usize = 5;

/// Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    connect: Duration,
    // Outlives reloads, as the connections do.
    memory: Memory,
    // Replaced as a whole when their connections may be dead; a call keeps the one it began with.
    clients: Mutex<Arc<Clients>>,
}

#[derive(Default)]
struct Clients {
    plain: OnceCell<Client>,
    tls: OnceCell<Client>,
}

/// What to send, and the key in it, which no error may show.
#[derive(Clone)]
pub struct Ask {
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<Value>,
    pub key: Option<Key>,
}

impl Http {
    pub fn new(connect: Duration) -> Self {
        Self(Arc::new(Inner {
            connect,
            memory: Memory::default(),
            clients: Mutex::default(),
        }))
    }

    /// What was learned of endpoints.
    pub fn memory(&self) -> Memory {
        self.0.memory.clone()
    }

    /// No connection of before is used again.
    pub fn renew(&self) {
        *self.0.clients.lock() = Arc::default();
    }

    /// Sends, and gives back an answer with a good status. `within` ends with the answer's head; `setting` names where
    /// it comes from.
    pub async fn send(&self, ask: Ask, within: Duration, setting: &str) -> Result<Response, Failure> {
        let key = ask.key.clone();
        let model = ask
            .body
            .as_ref()
            .map_or("", |body| body["model"].as_str().unwrap_or(""));
        let model = model.to_lowercase();
        let answer = match timeout(within, self.follow(ask)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(
                Kind::Silent,
                format!("no answer within {} s{setting}", within.as_secs_f64()),
            )),
        };
        match answer {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(redact(provider_error::of_status(response, &model).await, key.as_ref())),
            Err(failure) => Err(redact(failure, key.as_ref())),
        }
    }

    /// Follows redirects as long as they stay with the origin that was asked: the request goes there as it is.
    async fn follow(&self, mut ask: Ask) -> Result<Response, Failure> {
        let asked = shown(&ask.url);
        for _ in 0..=HOPS {
            let response = self.once(&ask).await?;
            let status = response.status();
            // 303 means "read the result there", which no answer of a model is.
            let moved = status.is_redirection() && status != StatusCode::SEE_OTHER;
            let Some(location) = response.headers().get(LOCATION).filter(|_| moved) else {
                if !status.is_redirection() {
                    return Ok(response);
                }
                let text = format!(
                    "HTTP {}: points elsewhere, which is not followed (asked {asked})",
                    status.as_u16()
                );
                return Err(Failure::new(Kind::Broken, text));
            };
            let target = location.to_str().ok().and_then(|to| response.url().join(to).ok());
            match target {
                Some(target) if target.origin() == ask.url.origin() => ask.url = target,
                target => {
                    let target = target.map_or_else(|| "an address that is none".to_owned(), |url| shown(&url));
                    let text = format!(
                        "HTTP {}: points to {target}, another origin, which is not followed (asked {asked})",
                        status.as_u16()
                    );
                    return Err(Failure::new(Kind::Broken, text));
                }
            }
        }
        let text = format!("redirects more than {HOPS} times (asked {asked})");
        Err(Failure::new(Kind::Broken, text))
    }

    async fn once(&self, ask: &Ask) -> Result<Response, Failure> {
        let method = if ask.body.is_some() { Method::POST } else { Method::GET };
        let mut request = self
            .client(&ask.url)
            .await?
            .request(method, ask.url.clone())
            // What is compressed all the same is read; but a compressor would hold pieces back.
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
            .headers(ask.headers.clone());
        if let Some(body) = &ask.body {
            request = request.json(body);
        }
        request.send().await.map_err(|error| {
            if error.is_connect() && error.is_timeout() {
                let within = self.0.connect.as_secs_f64();
                let text = format!("no connection within {within} s (llm.connect_timeout)");
                return Failure::new(Kind::Unreachable, text);
            }
            of_error(&error)
        })
    }

    /// A JSON document, head and body within the deadline.
    pub async fn get_json(&self, ask: Ask, within: Duration) -> Result<Value, Failure> {
        let read = async {
            let mut response = self.send(ask, within, "").await?;
            let body = read(&mut response, LIST_BODY).await?;
            serde_json::from_slice(&body).map_err(|error| Failure::new(Kind::Broken, format!("sent no JSON: {error}")))
        };
        timeout(within, read).await.unwrap_or_else(|_| {
            Err(Failure::new(
                Kind::Silent,
                format!("no answer within {} s", within.as_secs_f64()),
            ))
        })
    }

    async fn client(&self, url: &Url) -> Result<Client, Failure> {
        let connect = self.0.connect;
        let plain = url.scheme() == "http";
        let clients = self.0.clients.lock().clone();
        let cell = if plain { &clients.plain } else { &clients.tls };
        // The system's certificates are read from disk: not on the thread that serves everybody.
        let build = || async move { tokio::task::spawn_blocking(move || build(plain, connect)).await };
        let built = cell
            .get_or_try_init(|| async {
                match build().await {
                    Ok(Ok(client)) => Ok(client),
                    Ok(Err(error)) => Err(Failure::new(
                        Kind::Unreachable,
                        format!("no TLS here: {}", chain(&error)),
                    )),
                    Err(error) => Err(Failure::new(Kind::Unreachable, format!("no TLS here: {error}"))),
                }
            })
            .await?;
        Ok(built.clone())
    }
}

fn build(plain: bool, connect: Duration) -> reqwest::Result<Client> {
    // Fails only where one is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("nexus-llm/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(connect)
        .pool_idle_timeout(Duration::from_secs(60))
        .tcp_nodelay(true);
    // Plain endpoints are on this machine or beside it: neither certificates nor a proxy.
    if plain {
        builder.no_proxy().tls_certs_only([]).build()
    } else {
        builder.build()
    }
}

/// A header that no log of a library prints.
pub fn secret(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Failure::new(
            Kind::NoKey,
            "its key holds characters that cannot be sent: set it again",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A path below a base URL.
pub fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

pub async fn read(response: &mut Response, most: usize) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| of_error(&error))? {
        if body.len() + part.len() > most {
            return Err(Failure::new(Kind::Broken, format!("sent more than {most} bytes")));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

pub fn of_error(error: &reqwest::Error) -> Failure {
    let text = chain(error);
    if error.is_connect() {
        return Failure::new(Kind::Unreachable, format!("no connection: {text}"));
    }
    if error.is_timeout() {
        return Failure::new(Kind::Silent, text);
    }
    Failure::new(Kind::Broken, format!("the connection broke: {text}"))
}

/// The causes only: the outermost text of reqwest repeats the URL.
fn chain(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        texts.push(cause.to_string());
        next = cause.source();
    }
    texts.dedup();
    if texts.is_empty() {
        "unknown reason".into()
    } else {
        texts.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_printed_nowhere() {
        assert!(format!("{:?}", secret("sk-canary").expect("plain")).contains("Sensitive"));
    }

    #[test]
    fn paths_join() {
        for base in ["http://h/v1", "http://h/v1/"] {
            assert_eq!(
                below(&Url::parse(base).expect("url"), "/models").as_str(),
                "http://h/v1/models"
            );
        }
        assert_eq!(
            below(&Url::parse("http://h").expect("url"), "/v1/messages").as_str(),
            "http://h/v1/messages"
        );
    }
}
