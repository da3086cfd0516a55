//! The HTTP side: takes a request, has it checked, and says the next turn.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use crate::{
    Family, Recorded, Script, check, recorded,
    script::{Act, Turn},
    speak::{self, End, Usage},
};

const LONGEST_BODY: usize = 64 << 20;
/// A connection that is cut takes along what it has not sent yet.
const BEFORE_CUT: Duration = Duration::from_millis(50);
/// Events that may wait for a reader.
const AHEAD: usize = 64;

type Body = BoxBody<Bytes, io::Error>;

/// Serves until it is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    scripts: BTreeMap<String, Script>,
    recorded: Vec<Recorded>,
    calls: u64,
}

impl Server {
    /// On a port of loopback that is free.
    pub async fn start(scripts: BTreeMap<String, Script>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        shared.state().scripts = scripts;
        let task = tokio::spawn(serve(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The base URL for a provider's setting, without a version.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Gives a model another script; what it has said already is of no matter.
    pub fn script(&self, model: &str, script: Script) {
        self.shared.state().scripts.insert(model.to_owned(), script);
    }

    /// All requests so far, refused ones too.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.state().recorded.clone()
    }

    /// Those after the first so many.
    pub fn recorded_after(&self, first: usize) -> Vec<Recorded> {
        self.shared.state().recorded.iter().skip(first).cloned().collect()
    }

    /// What was refused; a program that speaks the protocol right has nothing here.
    pub fn refusals(&self) -> Vec<String> {
        self.recorded().into_iter().filter_map(|one| one.refused).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic of another request's thread leaves nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(answer(request, &shared).await) }
            });
            // A caller that leaves ends its own connection only.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

/// Whose call a path is, and the model in it.
fn family(path: &str) -> Option<(Family, Option<&str>)> {
    if let Some(rest) = path.strip_prefix("/v1beta/models/") {
        let model = rest.strip_suffix(":streamGenerateContent")?;
        return Some((Family::Gemini, Some(model)));
    }
    match path {
        "/v1/messages" => Some((Family::Anthropic, None)),
        "/v1/chat/completions" => Some((Family::Chat, None)),
        "/v1/responses" => Some((Family::Responses, None)),
        _ => None,
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let at = Instant::now();
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET {
        return list(&path, shared);
    }
    let Some((family, model)) = family(&path) else {
        let body = speak::error(Family::Chat, 404, &format!("Invalid URL (POST {path})"), None);
        return document(StatusCode::NOT_FOUND, &body);
    };
    if let Some(wrong) = wrong_headers(family, &request) {
        return document(StatusCode::BAD_REQUEST, &speak::error(family, 400, wrong, None));
    }
    let bytes = Limited::new(request.into_body(), LONGEST_BODY).collect().await;
    let parsed = bytes
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes.to_bytes()).ok());
    let Some(body) = parsed else {
        let text = "We could not parse the JSON body of your request.";
        return document(StatusCode::BAD_REQUEST, &speak::error(family, 400, text, None));
    };
    let model = model.or(body["model"].as_str()).unwrap_or_default().to_owned();
    let streams = family == Family::Gemini || body["stream"] == true;
    let checked = check::check(family, &model, &body);
    let mut state = shared.state();
    state.recorded.push(Recorded {
        at,
        family,
        model: model.clone(),
        refused: checked.as_ref().err().map(|refused| refused.message.clone()),
        body: body.clone(),
    });
    if let Err(refused) = checked {
        return document(StatusCode::BAD_REQUEST, &speak::refused(family, &refused));
    }
    if !streams {
        let text = "this server answers streams only";
        return document(StatusCode::BAD_REQUEST, &speak::error(family, 400, text, None));
    }
    let Some(script) = state.scripts.get_mut(&model) else {
        let text = format!("The model `{model}` does not exist or you do not have access to it.");
        return document(StatusCode::NOT_FOUND, &speak::error(family, 404, &text, None));
    };
    let Some(turn) = script.take(&recorded::last(family, &body)) else {
        let text = format!("the script of {model} has no turn that is left for this request");
        return document(
            StatusCode::INTERNAL_SERVER_ERROR,
            &speak::error(family, 500, &text, None),
        );
    };
    let calls = turn.acts.iter().filter(|act| matches!(act, Act::Call { .. })).count();
    let first_call = state.calls;
    state.calls += calls as u64;
    drop(state);
    if let Some(failed) = failure(family, &turn) {
        return failed;
    }
    let input = body.to_string().len() as u64 / 4;
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(say(family, model, turn, input, first_call, sender));
    let frames = stream::unfold(receiver, |mut receiver| async move {
        let frame: Result<Bytes, io::Error> = receiver.recv().await?;
        Some((frame.map(Frame::data), receiver))
    });
    Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .body(BodyExt::boxed(StreamBody::new(frames)))
        .expect("a plain header")
}

fn wrong_headers(family: Family, request: &Request<Incoming>) -> Option<&'static str> {
    let has = |name: &str| request.headers().get(name).is_some_and(|value| !value.is_empty());
    match family {
        Family::Anthropic if !has("anthropic-version") => Some("anthropic-version: header is required"),
        Family::Anthropic if !has("x-api-key") => Some("x-api-key header is required"),
        Family::Chat | Family::Responses if !has("authorization") => Some("You didn't provide an API key."),
        Family::Gemini if !has("x-goog-api-key") => {
            Some("Method doesn't allow unregistered callers (callers without established identity).")
        }
        Family::Gemini if request.uri().query() != Some("alt=sse") => Some("this server answers events only: alt=sse"),
        _ => None,
    }
}

fn list(path: &str, shared: &Shared) -> Response<Body> {
    let state = shared.state();
    let names = state.scripts.keys();
    let body = match path {
        "/v1beta/models" => {
            let one = |name: &String| {
                json!({
                    "name": format!("models/{name}"), "displayName": name, "inputTokenLimit": 100_000,
                    "outputTokenLimit": 8_000, "supportedGenerationMethods": ["generateContent"],
                })
            };
            json!({"models": names.map(one).collect::<Vec<_>>()})
        }
        _ => {
            let one = |name: &String| json!({"id": name, "object": "model", "type": "model", "display_name": name});
            json!({"object": "list", "data": names.map(one).collect::<Vec<_>>(), "has_more": false})
        }
    };
    document(StatusCode::OK, &body)
}

fn document(status: StatusCode, body: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .body(body.boxed())
        .expect("a plain header")
}

/// A turn that is an error instead of an answer.
fn failure(family: Family, turn: &Turn) -> Option<Response<Body>> {
    let Some(Act::Fail {
        status,
        retry_after,
        message,
    }) = turn.acts.first()
    else {
        return None;
    };
    let message = if message.is_empty() {
        "it failed as its script says"
    } else {
        message
    };
    let code = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = document(code, &speak::error(family, *status, message, None));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, (*seconds).into());
    }
    Some(response)
}

async fn say(
    family: Family,
    model: String,
    turn: Turn,
    input: u64,
    mut call: u64,
    out: mpsc::Sender<Result<Bytes, io::Error>>,
) {
    let mut speaker = speak::speaker(family, &model);
    let mut usage = Usage { input, output: 1 };
    let mut end = End::Stop;
    let mut pieces = vec![speaker.begin(usage)];
    for act in turn.acts {
        let (mut pause, mut rest) = (Duration::ZERO, Duration::ZERO);
        match act {
            Act::Text(text) => pieces.push(speaker.text(&text)),
            Act::Words { text, count, pause_ms } => {
                pause = Duration::from_millis(pause_ms);
                pieces.extend((0..count).map(|_| speaker.text(&text)));
            }
            Act::Think(text) => pieces.push(speaker.think(&text)),
            Act::Pause(ms) => rest = Duration::from_millis(ms),
            Act::Call { name, arguments } => {
                let arguments = match arguments {
                    Value::String(text) => text,
                    Value::Null => "{}".to_owned(),
                    value => value.to_string(),
                };
                pieces.push(speaker.call(call, &name, &arguments));
                call += 1;
                end = End::Calls;
            }
            Act::Error(message) => {
                let _ = out.send(Ok(speak::error_event(family, &message).into())).await;
                return;
            }
            Act::Fail { .. } | Act::Cut => {
                // What was said before is to arrive.
                tokio::time::sleep(BEFORE_CUT).await;
                let _ = out.send(Err(io::ErrorKind::ConnectionReset.into())).await;
                return;
            }
            Act::Length => end = End::Length,
            Act::Filter => end = End::Filter,
        }
        for piece in pieces.drain(..).filter(|piece| !piece.is_empty()) {
            usage.output += 1;
            // Whoever leaves ends the answer.
            if out.send(Ok(piece.into())).await.is_err() {
                return;
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }
    pieces.push(speaker.end(end, usage));
    for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
        let _ = out.send(Ok(piece.into())).await;
    }
}
