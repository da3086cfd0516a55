//! Sends ended spans to a collector: a bounded queue, batches, one at a time.
//!
//! Nobody waits for it: what finds no room is dropped and counted, and so is a batch that the collector does not take.

use std::future::Future;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::collector::Collector;
use crate::metrics;

/// Spans that may wait for the collector.
const WAITING: usize = 2048;
/// Spans sent at once, and how long the first of them waits for others.
const BATCH: usize = 512;
const LINGER: Duration = Duration::from_secs(1);
/// How long the collector may take for a batch.
const SEND_WITHIN: Duration = Duration::from_secs(5);

enum Item {
    Ended(Box<SpanData>),
    /// Everything before this is sent, or given up.
    Flush(oneshot::Sender<()>),
}

/// Where spans go as they end.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    items: mpsc::Sender<Item>,
}

/// The queue, and the work that empties it.
///
/// # Errors
/// The endpoint cannot be used.
pub(super) fn queue(endpoint: &str, resource: &Resource) -> Result<(Queue, impl Future<Output = ()> + use<>), String> {
    let collector = Collector::new(endpoint)?;
    let (items, ended) = mpsc::channel(WAITING);
    Ok((Queue { items }, send(collector, resource.into(), ended)))
}

impl Queue {
    pub async fn flushed(&self) {
        let (done, flushed) = oneshot::channel();
        if self.items.send(Item::Flush(done)).await.is_ok() {
            let _gone = flushed.await;
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.items.try_send(Item::Ended(Box::new(span))).is_err() {
            metrics::spans("queue-full", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

async fn send(mut collector: Collector, resource: ResourceAttributesWithSchema, mut ended: mpsc::Receiver<Item>) {
    let mut failing = false;
    while let Some(first) = ended.recv().await {
        let (mut batch, mut flush) = (Vec::new(), None);
        let mut next = Some(first);
        let until = Instant::now() + LINGER;
        while let Some(item) = next.take() {
            match item {
                Item::Ended(span) => batch.push(*span),
                Item::Flush(done) => {
                    flush = Some(done);
                    break;
                }
            }
            if batch.len() < BATCH {
                next = timeout_at(until, ended.recv()).await.ok().flatten();
            }
        }
        if !batch.is_empty() {
            let count = batch.len();
            let request = ExportTraceServiceRequest {
                resource_spans: group_spans_by_resource_and_scope(batch, &resource),
            };
            let failed = match timeout(SEND_WITHIN, collector.take(&request)).await {
                Ok(sent) => sent.err(),
                Err(_) => {
                    collector.hang_up();
                    Some(format!("no answer within {SEND_WITHIN:?}"))
                }
            };
            metrics::spans(if failed.is_some() { "not-taken" } else { "sent" }, count);
            told(&mut failing, failed);
        }
        if let Some(done) = flush {
            let _gone = done.send(());
        }
    }
}

/// Once when it begins and once when it is over, not for each batch.
fn told(failing: &mut bool, failed: Option<String>) {
    match failed {
        Some(error) if !*failing => {
            *failing = true;
            tracing::warn!(error, "spans are dropped: the collector refuses them");
        }
        None if *failing => {
            *failing = false;
            tracing::info!("the collector accepts spans again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    /// Nobody listens at the port that is called "discard".
    const NOBODY: &str = "http://127.0.0.1:9";

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_and_nobody_waits() {
        let (queue, sending) = queue(NOBODY, &Resource::builder_empty().build()).unwrap();
        let provider = SdkTracerProvider::builder().with_span_processor(queue.clone()).build();
        let tracer = provider.tracer("test");
        for _ in 0..WAITING + 10 {
            drop(tracer.start("one"));
        }
        assert_eq!(queue.items.capacity(), 0);
        let sending = tokio::spawn(sending);
        let patience = Duration::from_secs(20);
        timeout(patience, queue.flushed())
            .await
            .expect("a refusal is an end too");
        assert_eq!(queue.items.capacity(), WAITING);
        // With the last handle gone there is nothing left to send.
        drop((provider, tracer, queue));
        timeout(patience, sending).await.expect("it ends").unwrap();
    }

    #[test]
    fn trouble_is_told_when_it_begins_and_when_it_ends() {
        let mut failing = false;
        for (failed, now) in [(Some("x"), true), (Some("x"), true), (None, false), (None, false)] {
            told(&mut failing, failed.map(str::to_owned));
            assert_eq!(failing, now);
        }
    }
}
