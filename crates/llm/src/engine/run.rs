//! One request from acceptance to its last output.
//!
//! ```text
//! routed ─▶ waits for a place ─▶ asks a provider ──pieces──▶ whole
//!    │            │                 │      ▲ again, before the first token, as the policy allows
//!    │            │                 ├──────┘
//!    └────────────┴────▶ failed ◀───┴─▶ the next provider that the caller named, before the first token
//! ```
//!
//! Once a token was sent, neither arrow back exists: an answer never starts over.

use std::{
    future::Future,
    hash::{BuildHasher, Hasher, RandomState},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use futures_core::Stream;
use tokio::{sync::mpsc, time::Instant as Deadline, time::timeout_at};

use super::{
    Engine, IdClaim, Setup,
    attempt::{self, Ended},
    books::Claim,
};
use crate::{
    domain::{
        answer::{Finish, Tokens},
        block::{Block, ToolCall},
        budget::Use,
        catalogue,
        error::Error,
        failure::{Failure, Kind},
        request::Request,
        route::Target,
    },
    provider::{Call, Limits, Provider},
};

/// Pieces that may wait between the provider and the caller's stream; a slow caller slows the provider.
const AHEAD: usize = 16;

/// Between two looks at a server that still loads its model.
const LOADING_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Text(String),
    Thinking(String),
    /// A piece of a call's arguments.
    Tool {
        /// Which call of the answer, from 0.
        index: usize,
        id: String,
        name: String,
        arguments: String,
        /// Nothing follows.
        done: bool,
    },
    Whole(Box<Whole>),
    Failed(Error),
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    pub content: String,
    pub tool_calls: Vec<ToolCall>,
    /// How far each budget of the request is used up.
    pub budgets: Vec<Use>,
    /// Millionths of a dollar; `None` where no price is known.
    pub cost: Option<u64>,
    /// All of it in the order in which it came.
    pub blocks: Vec<Block>,
    pub tokens: Tokens,
    pub finish: Finish,
    pub provider: String,
    /// As `provider/model`.
    pub model: String,
    pub completed: SystemTime,
}

/// The outputs of a request. The last one is `Whole` or `Failed`. It works only while it is polled.
pub struct Run {
    outputs: mpsc::Receiver<Output>,
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Run {
    pub(super) fn new(engine: Engine, claim: IdClaim, request: Request) -> Self {
        let (sender, outputs) = mpsc::channel(AHEAD);
        let work = async move {
            let last = run(&engine, request, &sender).await;
            // The id is free before the caller can read the end: the next request may carry it again.
            drop(claim);
            // Fails only if nobody reads any more.
            let _ = sender.send(last).await;
        };
        Self {
            outputs,
            work: Some(Box::pin(work)),
        }
    }
}

impl Stream for Run {
    type Item = Output;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Output>> {
        loop {
            if let Poll::Ready(output) = self.outputs.poll_recv(cx) {
                return Poll::Ready(output);
            }
            let Some(work) = self.work.as_mut() else {
                // The sender is gone with the work, so outputs that are left only wait for tokio's budget to be
                // renewed, and it wakes us for that. This is not the end.
                return Poll::Pending;
            };
            match work.as_mut().poll(cx) {
                Poll::Ready(()) => self.work = None,
                // What it has just sent has woken us again by the receiver's waker.
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

async fn run(engine: &Engine, mut request: Request, out: &mpsc::Sender<Output>) -> Output {
    let setup = engine.setup();
    request.bound_output(setup.config.max_output_tokens);
    let most = setup.config.request_timeout;
    let asked = request.timeout.filter(|asked| *asked < most);
    let within = asked.unwrap_or(most);
    let late = match asked {
        Some(asked) => Error::Deadline(asked),
        None => Error::RequestTimeout(most),
    };
    let deadline = Deadline::now() + within;
    engine.0.board.lock().whole.began(SystemTime::now());
    let mut counted = Counted {
        engine,
        took: None,
        tokens: 0,
    };
    let began = Instant::now();
    let outcome = timeout_at(deadline, answer(engine, &setup, Arc::new(request), out, &mut counted)).await;
    match outcome.unwrap_or(Err(late)) {
        Ok(whole) => {
            counted.took = Some(began.elapsed());
            Output::Whole(Box::new(whole))
        }
        Err(error) => {
            tracing::info!(%error, "request failed");
            Output::Failed(error)
        }
    }
}

/// Counts a request's end however it ends.
pub(super) struct Counted<'a> {
    engine: &'a Engine,
    took: Option<Duration>,
    pub(super) tokens: u64,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.engine.0.board.lock().whole.ended(self.took, self.tokens);
    }
}

async fn answer(
    engine: &Engine,
    setup: &Setup,
    request: Arc<Request>,
    out: &mpsc::Sender<Output>,
    counted: &mut Counted<'_>,
) -> Result<Whole, Error> {
    let targets = engine.route(&request, setup)?;
    let _place = engine.0.places.take(setup.config.max_waiting_requests).await?;
    let mut tried: Vec<(String, Failure)> = Vec::new();
    for target in &targets {
        match ask(engine, setup, &request, target, out, counted).await {
            Ok(whole) => return Ok(whole),
            Err(Unanswered::Refused(error)) => return Err(error),
            Err(Unanswered::Failed(Ended { failure, begun })) => {
                tracing::warn!(provider = target.provider, model = target.model, %failure, "provider failed");
                let last = begun || !failure.may_fall_back();
                tried.push((target.provider.clone(), failure));
                if last {
                    break;
                }
            }
        }
    }
    let suggestion = engine.suggest(setup, &tried);
    Err(Error::providers(tried, suggestion))
}

/// Why one provider gave no answer.
enum Unanswered {
    Failed(Ended),
    /// Nothing was sent, and nothing is to be sent to anybody.
    Refused(Error),
}

/// Asks one provider, and again where that may help.
async fn ask(
    engine: &Engine,
    setup: &Setup,
    request: &Arc<Request>,
    target: &Target,
    out: &mpsc::Sender<Output>,
    counted: &mut Counted<'_>,
) -> Result<Whole, Unanswered> {
    let not_begun = |failure| Unanswered::Failed(Ended { failure, begun: false });
    let provider = setup
        .provider(&target.provider)
        .ok_or_else(|| not_begun(Failure::new(Kind::Unreachable, "is no longer in the settings")))?;
    if !target.named
        && let Some(resting) = engine.0.board.lock().resting(&target.provider, Instant::now())
    {
        return Err(not_begun(resting));
    }
    let mut attempt = 0;
    let began = Instant::now();
    loop {
        engine.0.keys.settle(&target.provider).await;
        let call = engine
            .call(setup, provider.as_ref(), request, target)
            .map_err(not_begun)?;
        let claim = engine.claim(setup, request, target);
        let reservation = engine.0.books.reserve(claim).await.map_err(Unanswered::Refused)?;
        let mut ended = match attempt::once(engine, setup, provider.as_ref(), call, reservation, out, counted).await {
            Ok(whole) => return Ok(whole),
            Err(ended) => ended,
        };
        if ended.failure.kind == Kind::Loading {
            // It lives, so it has the time of a first byte; asking again is no further attempt.
            let within = setup.config.first_byte_timeout;
            if began.elapsed() + LOADING_PAUSE < within {
                tokio::time::sleep(LOADING_PAUSE).await;
                continue;
            }
            let text = format!(
                "{} for {} s (llm.first_byte_timeout)",
                ended.failure.message,
                within.as_secs_f64()
            );
            ended.failure.message = text;
            return Err(Unanswered::Failed(ended));
        }
        let pause = setup.config.retry().pause(attempt, &ended.failure, random());
        let Some(pause) = pause.filter(|_| !ended.begun) else {
            return Err(Unanswered::Failed(ended));
        };
        tracing::debug!(provider = target.provider, failure = %ended.failure, ?pause, "asks again");
        let mut redials = engine.0.redials.subscribe();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The network is back, say: what the pause waited for.
            _jolted = redials.changed() => {}
        }
        attempt += 1;
    }
}

impl Engine {
    fn call(
        &self,
        setup: &Setup,
        provider: &dyn Provider,
        request: &Arc<Request>,
        target: &Target,
    ) -> Result<Call, Failure> {
        let name = provider.name();
        let key = self
            .key(provider)
            .map_err(|error| Failure::new(Kind::NoKey, error.to_string()))?;
        if key.is_none() && provider.needs_key() {
            return Err(Failure::new(
                Kind::NoKey,
                format!("has no key: set it with: nexus models key set {name}"),
            ));
        }
        let limits = Limits {
            first_byte: setup.config.first_byte_timeout,
            idle: setup.config.idle_timeout,
            max_output_tokens: setup.config.max_output_tokens,
        };
        Ok(Call {
            request: request.clone(),
            model: target.model.clone(),
            key,
            limits,
        })
    }

    /// What a request may use with this provider and model.
    fn claim(&self, setup: &Setup, request: &Request, target: &Target) -> Claim {
        let longest = request.parameters.max_tokens.unwrap_or(setup.config.max_output_tokens);
        Claim {
            scopes: request.scopes.clone(),
            agent: request.agent.clone(),
            session: request.session.clone(),
            model: format!("{}/{}", target.provider, target.model),
            price: setup.prices.find(&target.provider, &target.model),
            input: request.estimated_tokens(),
            longest_output: longest.into(),
        }
    }

    /// Who could be named instead: the first other provider with a key that is not resting, else the offline model.
    fn suggest(&self, setup: &Setup, tried: &[(String, Failure)]) -> Option<String> {
        let board = self.0.board.lock();
        let untried = |name: &str| !tried.iter().any(|(one, _)| one == name);
        let usable =
            |name: &str| matches!(self.0.keys.get(name), Ok(Some(_))) && board.resting(name, Instant::now()).is_none();
        let mut names = setup.providers.iter().map(|provider| provider.name());
        let keyed = names.find(|name| untried(name) && usable(name));
        keyed
            .or(Some(catalogue::OFFLINE).filter(|name| untried(name)))
            .map(str::to_owned)
    }
}

/// In 0..1; only to keep many callers from asking again at the same instant.
fn random() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
