//! Traces as a collector of OpenTelemetry gets them from the real daemons: one message is one trace through all of them,
//! and a collector that is down or hangs is nobody's trouble.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpListener as Port,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hyper_util::rt::{TokioExecutor, TokioIo};
use nexus_proto::gateway::v1::{
    CreateGatewaySessionRequest, GatewayMessage, GatewayMessageRole, GatewaySendMessageRequest, StreamChatRequest,
    stream_chat_request,
};
use nexus_tests::{Daemon, PATIENCE, Site};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use tokio::{net::TcpListener, time::sleep};
use tonic::{Request, Response, Status, codegen::Service};

/// What the message says; no span may.
const CONTENT: &str = "tell-nobody-71c2";
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// One span as the collector has it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
    attributes: HashMap<String, String>,
}

#[derive(Clone, Debug, Default)]
struct Collector {
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut seen = self.seen.lock().expect("nobody panics with it");
        for resource in request.into_inner().resource_spans {
            let of = resource.resource.unwrap_or_default().attributes;
            let service = of
                .iter()
                .find(|one| one.key == "service.name")
                .map(|one| text(one.value.as_ref()));
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                seen.push(Seen::of(service.clone().unwrap_or_default(), span));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(value: Option<&opentelemetry_proto::tonic::common::v1::AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

impl Seen {
    fn of(service: String, span: Span) -> Seen {
        let mut attributes: HashMap<String, String> = span
            .attributes
            .iter()
            .map(|one| (one.key.clone(), text(one.value.as_ref())))
            .collect();
        if let Some(status) = span.status.filter(|status| !status.message.is_empty()) {
            attributes.insert("status".into(), status.message);
        }
        Seen {
            service,
            name: span.name,
            trace: hex::encode(&span.trace_id),
            id: hex::encode(&span.span_id),
            parent: hex::encode(&span.parent_span_id),
            attributes,
        }
    }
}

impl Collector {
    /// Listens until the test is over; gives its URL.
    async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
        let address = listener.local_addr().expect("it has an address");
        let service = TraceServiceServer::new(self.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                let calls = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    service.clone().call(request.map(tonic::body::Body::new))
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), calls));
            }
        });
        format!("http://{address}")
    }

    /// Waits until a trace has all these spans, each with the parent it names, and gives the whole trace.
    async fn trace(&self, begins: impl Fn(&Seen) -> bool, wanted: &[(&str, &str, &str)]) -> Vec<Seen> {
        let until = Instant::now() + PATIENCE;
        loop {
            let all = self.seen.lock().expect("nobody panics with it").clone();
            let root = all.iter().find(|seen| begins(seen)).cloned();
            let of = |root: &Seen| all.iter().filter(|seen| seen.trace == root.trace).cloned().collect();
            let trace: Vec<Seen> = root.as_ref().map(of).unwrap_or_default();
            let parent_of = |seen: &Seen| trace.iter().find(|other| other.id == seen.parent);
            let has = |(service, name, parent): &(&str, &str, &str)| {
                let mut named = trace
                    .iter()
                    .filter(|seen| seen.service == *service && seen.name == *name);
                named.any(|seen| match parent_of(seen) {
                    Some(found) => found.name == *parent,
                    None => parent.is_empty(),
                })
            };
            let missing: Vec<_> = wanted.iter().filter(|wanted| !has(wanted)).collect();
            if root.is_some() && missing.is_empty() {
                return trace;
            }
            assert!(Instant::now() < until, "missing {missing:?} in {trace:#?}\nof {all:#?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

const DAEMONS: [&str; 4] = [
    "nexus-gateway",
    "nexus-orchestrator",
    "nexus-agent-assistant",
    "nexus-llm",
];
const SENT: &str = "gateway.v1.GatewayService/GatewaySendMessage";
const TAKEN: &str = "orchestrator.v1.OrchestratorService/SendMessage";
const STREAM: &str = "llm.v1.LLMService/StreamLLM";

async fn up(collector: &Collector) -> Site {
    let endpoint = collector.listen().await;
    let mut site = Site::new()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test");
    site.set("NEXUS_LLM__DEFAULT_PROVIDER", Some("offline"));
    site.up(&Daemon::ALL).await;
    site.answers().await;
    site
}

fn question(id: &str) -> GatewayMessage {
    GatewayMessage {
        id: id.into(),
        role: GatewayMessageRole::User.into(),
        content: CONTENT.into(),
        ..GatewayMessage::default()
    }
}

async fn session(site: &Site) -> String {
    let connection = site.dial(Daemon::Gateway).connection();
    let made = connection
        .gateway()
        .create_gateway_session(CreateGatewaySessionRequest::default())
        .await;
    made.expect("a session can be made").into_inner().session_id
}

fn speaks_of_nothing(trace: &[Seen]) {
    for seen in trace {
        assert!(DAEMONS.contains(&seen.service.as_str()), "{seen:?}");
        let said = seen.attributes.values().any(|value| value.contains(CONTENT));
        assert!(!said && !seen.name.contains(CONTENT), "{seen:?}");
    }
}

#[tokio::test]
async fn a_message_with_its_callers_trace_is_one_trace_through_all_daemons() {
    let collector = Collector::default();
    let mut site = up(&collector).await;
    let mut request = Request::new(GatewaySendMessageRequest {
        session_id: session(&site).await,
        message: Some(question("traced-1")),
    });
    request
        .metadata_mut()
        .insert("traceparent", CALLER.parse().expect("it is ASCII"));
    let connection = site.dial(Daemon::Gateway).connection();
    connection
        .gateway()
        .gateway_send_message(request)
        .await
        .expect("it is taken");

    let [gateway, orchestrator, agent, llm] = DAEMONS;
    let wanted = [
        (gateway, SENT, ""),
        (orchestrator, TAKEN, SENT),
        (orchestrator, "store message", TAKEN),
        (orchestrator, "dispatch turn", TAKEN),
        (agent, "turn", "dispatch turn"),
        (agent, "ask model", "turn"),
        (llm, STREAM, "ask model"),
        (llm, "ask provider", STREAM),
        (orchestrator, "store answer", TAKEN),
    ];
    let trace = collector.trace(|seen| seen.name == SENT, &wanted).await;
    let begin = trace.iter().find(|seen| seen.name == SENT).expect("it was waited for");
    assert_eq!(CALLER.split('-').nth(1), Some(begin.trace.as_str()));
    assert_eq!(CALLER.split('-').nth(2), Some(begin.parent.as_str()));
    speaks_of_nothing(&trace);
    let turn = trace
        .iter()
        .find(|seen| seen.name == "turn")
        .expect("it was waited for");
    assert_eq!(turn.attributes["nexus.correlation_id"], "traced-1");
    for daemon in Daemon::ALL {
        site.stopped(daemon).await;
    }
}

#[tokio::test]
async fn a_message_on_a_stream_begins_a_trace_of_its_own() {
    let collector = Collector::default();
    let site = up(&collector).await;
    let frame = StreamChatRequest {
        session_id: session(&site).await,
        payload: Some(stream_chat_request::Payload::Message(question("traced-2"))),
    };
    let connection = site.dial(Daemon::Gateway).connection();
    // The stream stays open: what is traced is the message.
    let frames = tokio_stream::StreamExt::chain(tokio_stream::once(frame), tokio_stream::pending());
    let _answers = connection
        .gateway()
        .stream_chat(frames)
        .await
        .expect("a stream can be opened");

    let [gateway, orchestrator, agent, llm] = DAEMONS;
    let wanted = [
        (gateway, "receive message", ""),
        (orchestrator, "receive message", "receive message"),
        (orchestrator, "store message", "receive message"),
        (orchestrator, "dispatch turn", "receive message"),
        (agent, "turn", "dispatch turn"),
        (llm, "ask provider", STREAM),
    ];
    let begins = |seen: &Seen| seen.service == gateway && seen.name == "receive message";
    let trace = collector.trace(begins, &wanted).await;
    assert_eq!(
        trace.iter().filter(|seen| seen.parent.is_empty()).count(),
        1,
        "{trace:#?}"
    );
    speaks_of_nothing(&trace);
}

#[tokio::test]
async fn a_caller_that_traces_decides_for_its_own() {
    let collector = Collector::default();
    let endpoint = collector.listen().await;
    let mut site = Site::new()
        .settings(&format!(
            "[common]\notlp_endpoint = \"{endpoint}\"\notlp_sampling = 0\n"
        ))
        .env("NEXUS_LLM__DEFAULT_PROVIDER", "offline");
    site.up(&Daemon::ALL).await;
    site.answers().await;
    let session_id = session(&site).await;
    let connection = site.dial(Daemon::Gateway).connection();
    for (id, caller) in [("traced-3", None), ("traced-4", Some(CALLER))] {
        let mut request = Request::new(GatewaySendMessageRequest {
            session_id: session_id.clone(),
            message: Some(question(id)),
        });
        if let Some(caller) = caller {
            request
                .metadata_mut()
                .insert("traceparent", caller.parse().expect("it is ASCII"));
        }
        let sent = connection.gateway().gateway_send_message(request).await;
        sent.expect("it is taken");
    }
    let wanted = [
        ("nexus-orchestrator", "store answer", TAKEN),
        ("nexus-llm", "ask provider", STREAM),
    ];
    collector.trace(|seen| seen.name == SENT, &wanted).await;
    let seen = collector.seen.lock().expect("nobody panics with it").clone();
    let of_caller = |seen: &&Seen| CALLER.contains(&seen.trace);
    assert_eq!(seen.iter().find(|seen| !of_caller(seen)), None);
}

fn scrape(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    let ask = b"GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).expect("it hears");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers with text");
    text
}

#[tokio::test]
async fn spans_that_nobody_takes_are_counted_and_cost_no_call() {
    // A port where nobody listens any more.
    let port = Port::bind("127.0.0.1:0")
        .and_then(|port| port.local_addr())
        .expect("a port can be had");
    let site = Site::new();
    let socket = site.folder().path().join("metrics.sock");
    let mut site = site
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{port}"))
        .env("NEXUS_LLM__DEFAULT_PROVIDER", "offline");
    site.set("NEXUS_COMMON__METRICS", socket.to_str());
    site.start(Daemon::Orchestrator);
    site.set("NEXUS_COMMON__METRICS", None);
    site.ready(Daemon::Orchestrator).await;
    site.up(&[Daemon::Llm, Daemon::Agent]).await;
    site.answers().await;
    let until = Instant::now() + PATIENCE;
    let dropped = "nexus_trace_spans_total{end=\"not-taken\"}";
    while !scrape(&socket).contains(dropped) {
        assert!(Instant::now() < until, "{}", scrape(&socket));
        sleep(Duration::from_millis(10)).await;
    }
    for daemon in Daemon::LINE {
        site.stopped(daemon).await;
    }
}

#[tokio::test]
async fn a_collector_that_hangs_holds_up_neither_a_call_nor_a_stop() {
    // It accepts, in the kernel, and says nothing.
    let port = Port::bind("127.0.0.1:0").expect("a port can be had");
    let endpoint = format!("http://{}", port.local_addr().expect("it has an address"));
    let mut site = Site::new()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("NEXUS_LLM__DEFAULT_PROVIDER", "offline");
    site.up(&Daemon::LINE).await;
    let begin = Instant::now();
    site.answers().await;
    println!("answered after {:?} beside a collector that hangs", begin.elapsed());
    for daemon in Daemon::LINE {
        let begin = Instant::now();
        site.stopped(daemon).await;
        println!("{daemon} stopped after {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_a_mistake_in_the_settings() {
    let site = Site::new().env("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317");
    let checked = site
        .command(Daemon::Llm)
        .arg("--check-config")
        .output()
        .expect("it can be run");
    assert_eq!(checked.status.code(), Some(78));
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(
        said.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && said.contains("http://127.0.0.1:4317"),
        "{said}"
    );
}
