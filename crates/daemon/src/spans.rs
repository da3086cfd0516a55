//! Spans of OpenTelemetry: one trace follows one message through all daemons.
//!
//! ```text
//!   caller ──traceparent──▶ guard: span of the call ──▶ Span::child(..) ──▶ outgoing() ──▶ the next daemon
//!                                        │ ended
//!                                        ▼
//!                              export.rs: bounded queue ──batches──▶ collector
//! ```
//!
//! Off unless `otlp_endpoint` is set: then a [`Span`] is nothing and costs one load. It never waits, and never holds
//! what a message says or what a secret is: names, ids, counts and codes only.

mod collector;
mod export;
mod traceparent;

use std::borrow::Cow;
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::future::Either;
use http::HeaderValue;
use opentelemetry::trace::{FutureExt as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, ContextGuard, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};

pub(crate) use collector::check;
pub use traceparent::TraceParent;

/// What the spans of this process go to.
struct Tracing {
    tracer: SdkTracer,
    queue: export::Queue,
}

static TRACING: OnceLock<Tracing> = OnceLock::new();

/// Where spans go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// A URL, as `OTEL_EXPORTER_OTLP_ENDPOINT` has it.
    pub endpoint: String,
    /// Of the traces that begin here; others are traced if their caller traces them.
    pub ratio: f64,
}

/// Spans go out from here on. To be called on the runtime that sends them.
///
/// # Errors
/// The endpoint cannot be used.
pub(crate) fn start(target: &Target, service: &str) -> Result<(), String> {
    let resource = resource(service);
    let (queue, exporting) = export::queue(&target.endpoint, &resource)?;
    let provider = SdkTracerProvider::builder()
        .with_span_processor(queue.clone())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(target.ratio))))
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("nexus");
    if TRACING.set(Tracing { tracer, queue }).is_ok() {
        tokio::spawn(exporting);
    }
    Ok(())
}

/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` go before what we say of ourselves.
fn resource(service: &str) -> Resource {
    let said = Resource::builder().build();
    let unnamed = said
        .get(&"service.name".into())
        .is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let mut own = vec![
        KeyValue::new("service.namespace", "nexus"),
        KeyValue::new("service.instance.id", service.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    own.retain(|own| said.get(&own.key).is_none());
    if unnamed {
        own.push(KeyValue::new("service.name", format!("nexus-{service}")));
    }
    Resource::builder().with_attributes(own).build()
}

/// What ended until now reaches the collector, or does not within the budget.
pub(crate) async fn flush(budget: Duration) {
    if let Some(tracing) = TRACING.get()
        && tokio::time::timeout(budget, tracing.queue.flushed()).await.is_err()
    {
        tracing::info!(?budget, "the last spans were not sent: the collector does not answer");
    }
}

/// Whether anything is traced in this process.
pub fn enabled() -> bool {
    TRACING.get().is_some()
}

/// The current position in a trace, if there is one.
pub fn current() -> Option<TraceParent> {
    TRACING.get()?;
    Context::map_current(|context| context.has_active_span().then(|| TraceParent::of(context)))
}

/// The header `traceparent` for a call that is made now: what `nexus_client::Options` wants to know.
pub fn outgoing() -> Option<HeaderValue> {
    current().and_then(|here| HeaderValue::try_from(here.to_string()).ok())
}

/// A piece of work; nothing where nobody traces. It ends when it is dropped.
#[must_use = "it ends when it is dropped"]
#[derive(Debug, Default)]
pub struct Span(Option<Context>);

impl Span {
    /// A part of what is done at this moment.
    pub fn child(name: &'static str) -> Span {
        match current() {
            Some(here) => Span::within(name, &here),
            None => Span(None),
        }
    }

    /// A part of what began elsewhere, or earlier.
    pub fn within(name: &'static str, parent: &TraceParent) -> Span {
        Span::begin(name.into(), SpanKind::Internal, Some(parent))
    }

    /// Something came in. Without a parent it begins a trace.
    pub fn receive(name: impl Into<Cow<'static, str>>, parent: Option<&TraceParent>) -> Span {
        Span::begin(name.into(), SpanKind::Server, parent)
    }

    /// A part of what is done at this moment that somebody else does for us.
    pub fn call(name: &'static str) -> Span {
        match current() {
            Some(here) => Span::begin(name.into(), SpanKind::Client, Some(&here)),
            None => Span(None),
        }
    }

    fn begin(name: Cow<'static, str>, kind: SpanKind, parent: Option<&TraceParent>) -> Span {
        let Some(tracing) = TRACING.get() else {
            return Span(None);
        };
        let parent = parent.map_or_else(Context::new, TraceParent::context);
        let builder = tracing.tracer.span_builder(name).with_kind(kind);
        let span = tracing.tracer.build_with_context(builder, &parent);
        Span(Some(parent.with_span(span)))
    }

    /// A name, an id, a count; never what a message says.
    pub fn note(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// It came to nothing, and the code says how.
    pub fn failed(&self, code: impl Into<Cow<'static, str>>) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(code));
        }
    }

    /// Where this span is in its trace; `None` without one.
    pub fn traceparent(&self) -> Option<TraceParent> {
        self.0.as_ref().map(TraceParent::of)
    }

    /// Makes this what is done at this moment, until the guard is dropped.
    pub fn enter(&self) -> Option<ContextGuard> {
        self.0.clone().map(Context::attach)
    }

    /// Makes this what is done whenever `work` is polled.
    pub fn over<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        match self.0.clone() {
            Some(context) => Either::Left(work.with_context(context)),
            None => Either::Right(work),
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}
