//! HTTP as providers need it: one client for TLS and one for plain `http://`, built on first use so that an idle daemon
//! loads no certificates; no redirects, as they would carry a key elsewhere; errors that name the reason and no secret.

use std::{
    error::Error as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use reqwest::{Client, Method, Response, StatusCode, Url, header::HeaderMap, header::HeaderValue, redirect};
use serde_json::Value;
use tokio::{sync::OnceCell, time::timeout};

use crate::{
    domain::{
        failure::{Failure, Kind},
        retry,
    },
    keys::Key,
};

const ERROR_BODY: usize = 64 << 10;
const ERROR_BODY_WITHIN: Duration = Duration::from_secs(5);
const LIST_BODY: usize = 16 << 20;

/// Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    connect: Duration,
    // Replaced as a whole when their connections may be dead; a call keeps the one it began with.
    clients: Mutex<Arc<Clients>>,
}

#[derive(Default)]
struct Clients {
    plain: OnceCell<Client>,
    tls: OnceCell<Client>,
}

/// What to send, and the key in it, which no error may show.
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
            clients: Mutex::default(),
        }))
    }

    /// No connection of before is used again.
    pub fn renew(&self) {
        *self.0.clients.lock() = Arc::default();
    }

    /// Sends, and gives back an answer with a good status. `within` ends with the answer's head.
    pub async fn send(&self, ask: Ask, within: Duration) -> Result<Response, Failure> {
        let key = ask.key.clone();
        let sent = async {
            let method = if ask.body.is_some() { Method::POST } else { Method::GET };
            let mut request = self
                .client(&ask.url)
                .await?
                .request(method, ask.url)
                .headers(ask.headers);
            if let Some(body) = &ask.body {
                request = request.json(body);
            }
            request.send().await.map_err(|error| of_error(&error))
        };
        let answer = match timeout(within, sent).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(
                Kind::Silent,
                format!("no answer within {} s", within.as_secs_f64()),
            )),
        };
        match answer {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(redact(of_status(response).await, key.as_ref())),
            Err(failure) => Err(redact(failure, key.as_ref())),
        }
    }

    /// A JSON document, head and body within the deadline.
    pub async fn get_json(&self, ask: Ask, within: Duration) -> Result<Value, Failure> {
        let read = async {
            let mut response = self.send(ask, within).await?;
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

async fn of_status(mut response: Response) -> Failure {
    let status = response.status();
    let wait = wait_asked(response.headers());
    let body = match timeout(ERROR_BODY_WITHIN, read(&mut response, ERROR_BODY)).await {
        Ok(Ok(body)) => body,
        _ => Vec::new(),
    };
    let told = Told::from(body.as_slice());
    let kind = match status {
        _ if told.code == "insufficient_quota" => Kind::Refused,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PAYMENT_REQUIRED => Kind::Refused,
        StatusCode::NOT_FOUND => Kind::UnknownModel,
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT => Kind::Server,
        StatusCode::TOO_MANY_REQUESTS => Kind::RateLimited,
        status if status.is_server_error() => Kind::Server,
        status if status.is_client_error() => Kind::Invalid,
        _ => Kind::Broken,
    };
    let told = if status.is_redirection() {
        "points elsewhere, which is not followed"
    } else {
        &told.message
    };
    let message = if told.is_empty() {
        format!("HTTP {}", status.as_u16())
    } else {
        format!("HTTP {}: {told}", status.as_u16())
    };
    Failure {
        kind,
        message,
        retry_after: wait,
    }
}

fn wait_asked(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(ms) = text("retry-after-ms").and_then(|value| value.trim().parse::<u64>().ok()) {
        return Some(Duration::from_millis(ms));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    retry::retry_after(text("retry-after")?, now)
}

/// What a provider says about its error; both families put it into `error`.
pub struct Told {
    pub message: String,
    pub code: String,
}

impl Told {
    pub fn of(error: &Value) -> Self {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let code = [&error["code"], &error["type"]]
            .map(text)
            .into_iter()
            .find(|code| !code.is_empty());
        let message = if error.is_string() {
            text(error)
        } else {
            text(&error["message"])
        };
        Self {
            message: clean(&message),
            code: code.unwrap_or_default(),
        }
    }
}

impl From<&[u8]> for Told {
    fn from(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(json) if !json["error"].is_null() => Self::of(&json["error"]),
            _ => Self {
                message: clean(&String::from_utf8_lossy(body)),
                code: String::new(),
            },
        }
    }
}

/// One line of bounded length.
pub fn clean(text: &str) -> String {
    const MOST: usize = 400;
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    if line.chars().count() > MOST {
        line = line.chars().take(MOST).chain(['…']).collect();
    }
    line
}

/// Some servers quote the key they refuse.
pub fn redact(mut failure: Failure, key: Option<&Key>) -> Failure {
    if let Some(key) = key.map(Key::reveal).filter(|key| !key.is_empty()) {
        failure.message = failure.message.replace(key, "[key]");
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_both_families_are_read() {
        for (body, message, code) in [
            (
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                "Overloaded",
                "overloaded_error",
            ),
            (
                r#"{"error":{"message":"no quota","type":"x","code":"insufficient_quota"}}"#,
                "no quota",
                "insufficient_quota",
            ),
            (r#"{"error":"model not found"}"#, "model not found", ""),
            ("<html>\n bad\tgateway</html>", "<html> bad gateway</html>", ""),
        ] {
            let told = Told::from(body.as_bytes());
            assert_eq!((told.message.as_str(), told.code.as_str()), (message, code));
        }
    }

    #[test]
    fn a_quoted_key_is_taken_out() {
        let key = Key::new("sk-canary".into());
        let failure = redact(Failure::new(Kind::Refused, "wrong key sk-canary!"), Some(&key));
        assert_eq!(failure.message, "wrong key [key]!");
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
