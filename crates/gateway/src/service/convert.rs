//! Converts between the wire's messages and the domain's types. Absent messages are empty ones; unknown enum values
//! are refused by name.

use std::collections::BTreeMap;

use bytes::Bytes;
use nexus_proto::{
    Timestamp,
    common::v1::{Priority as WirePriority, Status as WireStatus},
    gateway::v1::{
        CancelStream, ChunkMetadata, GatewayEvent, GatewayEventFilter, GatewayEventMetadata, GatewayEventType,
        GatewayMessage, GatewayMessageRole, GatewaySession, GatewaySessionConfig, GatewaySessionFilter,
        GatewaySessionMetadata, GatewaySessionState, ResponseChunk, SessionSecurity, StreamChatRequest,
        StreamChatResponse, StreamConfig as WireStreamConfig, StreamResponsesRequest, StreamResponsesResponse,
        StreamState, StreamStatus, stream_chat_request, stream_chat_response, stream_responses_response,
    },
};

use crate::{
    domain::{
        Error,
        answers::{Chunk, Frame, Phase, Status},
        event::{Kind, Logged, Priority},
        filter::{EventFilter, SessionFilter},
        message::{Asked, Role},
        session::{Config, Metadata, NewSession, Security, Session, State, StreamConfig},
    },
    engine::{ClientFrame, Reply, Request, Wanted},
};

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;
const TEXT: &str = "text/plain";

pub fn new_session(metadata: Option<GatewaySessionMetadata>, config: Option<GatewaySessionConfig>) -> NewSession {
    let metadata = metadata.unwrap_or_default();
    NewSession {
        metadata: Metadata {
            name: metadata.name,
            description: metadata.description,
            labels: metadata.labels.into_iter().collect(),
            user_id: metadata.user_id,
            tags: metadata.tags,
            client_type: metadata.client_type,
            client_version: metadata.client_version,
        },
        config: config.map(|config| Config {
            timeout_ns: config.timeout_ns,
            idle_timeout_ns: config.idle_timeout_ns,
            enable_streaming: config.enable_streaming,
            max_message_size: config.max_message_size,
            stream: config.stream_config.map(|stream| StreamConfig {
                chunk_size: stream.chunk_size,
                chunk_delay_ns: stream.chunk_delay_ns,
                enable_delta: stream.enable_delta,
            }),
            security: config.security.map(|security| Security {
                require_auth: security.require_auth,
                allowed_origins: security.allowed_origins,
                enable_encryption: security.enable_encryption,
            }),
        }),
    }
}

/// Metadata and config are always set in answers: clients look into them without asking.
pub fn session(session: Session) -> GatewaySession {
    let NewSession { metadata, config } = session.requested;
    let config = config.unwrap_or_default();
    GatewaySession {
        id: session.id,
        state: state(session.state).into(),
        status: status_of(session.state).into(),
        created_at: Some(timestamp(session.created_at)),
        updated_at: Some(timestamp(session.updated_at)),
        expires_at: session.expires_at.map(timestamp),
        closed_at: session.closed_at.map(timestamp),
        metadata: Some(GatewaySessionMetadata {
            name: metadata.name,
            description: metadata.description,
            labels: metadata.labels.into_iter().collect(),
            user_id: metadata.user_id,
            tags: metadata.tags,
            client_type: metadata.client_type,
            client_version: metadata.client_version,
        }),
        config: Some(GatewaySessionConfig {
            timeout_ns: config.timeout_ns,
            idle_timeout_ns: config.idle_timeout_ns,
            enable_streaming: config.enable_streaming,
            max_message_size: config.max_message_size,
            stream_config: config.stream.map(|stream| WireStreamConfig {
                chunk_size: stream.chunk_size,
                chunk_delay_ns: stream.chunk_delay_ns,
                enable_delta: stream.enable_delta,
            }),
            security: config.security.map(|security| SessionSecurity {
                require_auth: security.require_auth,
                allowed_origins: security.allowed_origins,
                enable_encryption: security.enable_encryption,
            }),
        }),
        orchestrator_session_id: session.orchestrator_session,
    }
}

pub fn session_filter(filter: Option<GatewaySessionFilter>) -> Result<SessionFilter, Error> {
    let Some(filter) = filter else {
        return Ok(SessionFilter::default());
    };
    let state = match known(
        "filter.state",
        filter.state,
        GatewaySessionState::try_from(filter.state).ok(),
    )? {
        GatewaySessionState::Unspecified => None,
        GatewaySessionState::Initializing => Some(State::Initializing),
        GatewaySessionState::Active => Some(State::Active),
        GatewaySessionState::Idle => Some(State::Idle),
        GatewaySessionState::Closing => Some(State::Closing),
        GatewaySessionState::Closed => Some(State::Closed),
    };
    let states = match known("filter.status", filter.status, WireStatus::try_from(filter.status).ok())? {
        WireStatus::Unspecified => None,
        wanted => {
            let all = [
                State::Initializing,
                State::Active,
                State::Idle,
                State::Closing,
                State::Closed,
            ];
            Some(all.into_iter().filter(|state| status_of(*state) == wanted).collect())
        }
    };
    Ok(SessionFilter {
        state,
        states,
        user_id: some(filter.user_id),
        labels: filter.labels.into_iter().collect(),
    })
}

pub fn event_filter(session_id: String, filter: Option<GatewayEventFilter>) -> Result<EventFilter, Error> {
    let filter = filter.unwrap_or_default();
    let kind = match known(
        "filter.type",
        filter.r#type,
        GatewayEventType::try_from(filter.r#type).ok(),
    )? {
        GatewayEventType::Unspecified => None,
        GatewayEventType::SessionCreated => Some(Some(Kind::SessionCreated)),
        GatewayEventType::SessionUpdated => Some(Some(Kind::SessionUpdated)),
        GatewayEventType::SessionClosed => Some(Some(Kind::SessionClosed)),
        GatewayEventType::MessageSent => Some(Some(Kind::MessageSent)),
        GatewayEventType::MessageReceived => Some(Some(Kind::MessageReceived)),
        GatewayEventType::StreamStarted => Some(Some(Kind::StreamStarted)),
        GatewayEventType::StreamComplete => Some(Some(Kind::StreamComplete)),
        GatewayEventType::StreamError => Some(Some(Kind::StreamError)),
        // Chunks are not logged, and an error of the log itself is told to everyone.
        GatewayEventType::StreamChunk | GatewayEventType::Error => Some(None),
    };
    let priority = match known(
        "filter.priority",
        filter.priority,
        WirePriority::try_from(filter.priority).ok(),
    )? {
        WirePriority::Unspecified => None,
        WirePriority::Low => Some(Priority::Low),
        WirePriority::Normal => Some(Priority::Normal),
        WirePriority::High => Some(Priority::High),
        WirePriority::Critical => Some(Priority::Critical),
    };
    Ok(EventFilter {
        session: some(session_id),
        kind,
        source: some(filter.source),
        priority,
        labels: filter.labels.into_iter().collect(),
        start: filter.start_time.map(|time| nanos("start_time", &time)).transpose()?,
        end: filter.end_time.map(|time| nanos("end_time", &time)).transpose()?,
    })
}

pub fn event(logged: Logged, log_id: &str) -> GatewayEvent {
    let Logged { sequence, time, event } = logged;
    let r#type = match event.kind {
        Kind::SessionCreated => GatewayEventType::SessionCreated,
        Kind::SessionUpdated => GatewayEventType::SessionUpdated,
        Kind::SessionClosed => GatewayEventType::SessionClosed,
        Kind::MessageSent => GatewayEventType::MessageSent,
        Kind::MessageReceived => GatewayEventType::MessageReceived,
        Kind::StreamStarted => GatewayEventType::StreamStarted,
        Kind::StreamComplete => GatewayEventType::StreamComplete,
        Kind::StreamError => GatewayEventType::StreamError,
        Kind::Lost => GatewayEventType::Error,
    };
    let priority = match event.priority {
        Priority::Low => WirePriority::Low,
        Priority::Normal => WirePriority::Normal,
        Priority::High => WirePriority::High,
        Priority::Critical => WirePriority::Critical,
    };
    let mut data: std::collections::HashMap<_, _> = event.data.into_iter().collect();
    data.insert("sequence".into(), sequence.to_string());
    GatewayEvent {
        // The same event has the same id whenever it is read, and later ones sort behind it.
        id: format!("{:.16}{sequence:016x}", log_id),
        r#type: r#type.into(),
        source: event.source,
        timestamp: Some(timestamp(time)),
        data,
        metadata: Some(GatewayEventMetadata {
            session_id: event.session,
            message_id: event.message_id,
            user_id: event.user_id,
            correlation_id: event.correlation_id,
            labels: event.labels.into_iter().collect(),
            priority: priority.into(),
        }),
    }
}

pub fn asked(message: GatewayMessage) -> Result<Asked, Error> {
    let role = match known(
        "message.role",
        message.role,
        GatewayMessageRole::try_from(message.role).ok(),
    )? {
        GatewayMessageRole::Unspecified | GatewayMessageRole::User => Role::User,
        GatewayMessageRole::System => Role::System,
        GatewayMessageRole::Assistant => Role::Assistant,
    };
    let metadata = message.metadata.unwrap_or_default();
    let time = message
        .timestamp
        .map(|time| nanos("message.timestamp", &time))
        .transpose()?;
    Ok(Asked {
        id: message.id,
        // Some clients send the epoch for "now".
        time: time.filter(|time| *time != 0),
        role,
        content: message.content,
        correlation_id: metadata.correlation_id,
        model: metadata.model,
        extra: metadata.extra.into_iter().collect::<BTreeMap<_, _>>(),
    })
}

pub fn client_frame(frame: StreamChatRequest) -> ClientFrame {
    let request = match frame.payload {
        None => Request::Join,
        Some(stream_chat_request::Payload::Heartbeat(())) => Request::Heartbeat,
        Some(stream_chat_request::Payload::Cancel(CancelStream { reason, force })) => Request::Cancel { reason, force },
        Some(stream_chat_request::Payload::Message(message)) => match asked(message) {
            Ok(asked) => Request::Message(asked),
            Err(error) => Request::Bad(error),
        },
    };
    ClientFrame {
        session_id: frame.session_id,
        request,
    }
}

pub fn wanted(request: StreamResponsesRequest) -> Result<Wanted, Error> {
    if request.session_id.is_empty() {
        return Err(Error::Missing("session_id"));
    }
    let options = request.options.unwrap_or_default();
    if options.chunk_size < 0 {
        return Err(Error::Negative("chunk_size"));
    }
    Ok(Wanted {
        session_id: request.session_id,
        message_id: request.message_id,
        chunk_size: (options.chunk_size > 0).then_some(options.chunk_size),
        after_sequence: request.after_sequence,
        heartbeats: options.include_events,
    })
}

pub fn chat_reply(reply: Reply) -> StreamChatResponse {
    use stream_chat_response::Payload;
    let payload = match reply {
        Reply::Heartbeat => Payload::Heartbeat(()),
        Reply::Frame(Frame::Chunk(chunk)) => Payload::Chunk(response_chunk(chunk, true)),
        Reply::Frame(Frame::Status(status)) => Payload::Status(stream_status(status)),
    };
    StreamChatResponse { payload: Some(payload) }
}

/// The last chunk has its metadata always: it is where a reader finds what to resume from.
pub fn responses_reply(reply: Reply, metadata: bool) -> StreamResponsesResponse {
    use stream_responses_response::Payload;
    let payload = match reply {
        Reply::Heartbeat => Payload::Heartbeat(()),
        Reply::Frame(Frame::Chunk(chunk)) => {
            let metadata = metadata || chunk.is_final;
            Payload::Chunk(response_chunk(chunk, metadata))
        }
        Reply::Frame(Frame::Status(status)) => Payload::Status(stream_status(status)),
    };
    StreamResponsesResponse { payload: Some(payload) }
}

fn response_chunk(chunk: Chunk, metadata: bool) -> ResponseChunk {
    let metadata = metadata.then(|| ChunkMetadata {
        timestamp: Some(std::time::SystemTime::now().into()),
        content_type: TEXT.into(),
        total_bytes: i64::try_from(chunk.total_bytes).unwrap_or(i64::MAX),
        progress: chunk.progress,
        extra: chunk.extra.into_iter().collect(),
    });
    ResponseChunk {
        chunk_id: chunk.id,
        sequence: i32::try_from(chunk.sequence).unwrap_or(i32::MAX),
        // The text is in `text`, once.
        data: Bytes::new(),
        text: chunk.text,
        is_delta: chunk.is_delta,
        is_final: chunk.is_final,
        metadata,
    }
}

fn stream_status(status: Status) -> StreamStatus {
    let state = match status.phase {
        Phase::Active => StreamState::Active,
        Phase::Paused => StreamState::Paused,
        Phase::Complete => StreamState::Complete,
        Phase::Error => StreamState::Error,
        Phase::Cancelled => StreamState::Cancelled,
    };
    StreamStatus {
        state: state.into(),
        message: status.message,
        bytes_sent: i64::try_from(status.bytes).unwrap_or(i64::MAX),
        chunks_sent: i64::try_from(status.chunks).unwrap_or(i64::MAX),
        started_at: status.started.map(timestamp),
        ended_at: status.ended.map(timestamp),
    }
}

pub fn timestamp(nanos: i64) -> Timestamp {
    Timestamp {
        seconds: nanos.div_euclid(SECOND),
        nanos: i32::try_from(nanos.rem_euclid(SECOND)).expect("less than a billion"),
    }
}

fn nanos(field: &'static str, time: &Timestamp) -> Result<i64, Error> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(Error::BadTime(field));
    }
    // Far enough is far enough: years beyond 2262 are the last moment that fits.
    Ok(time
        .seconds
        .saturating_mul(SECOND)
        .saturating_add(i64::from(time.nanos)))
}

fn state(state: State) -> GatewaySessionState {
    match state {
        State::Initializing => GatewaySessionState::Initializing,
        State::Active => GatewaySessionState::Active,
        State::Idle => GatewaySessionState::Idle,
        State::Closing => GatewaySessionState::Closing,
        State::Closed => GatewaySessionState::Closed,
    }
}

fn status_of(state: State) -> WireStatus {
    match state {
        State::Initializing => WireStatus::Starting,
        State::Active | State::Idle => WireStatus::Running,
        State::Closing => WireStatus::Stopping,
        State::Closed => WireStatus::Stopped,
    }
}

fn known<T>(field: &'static str, value: i32, found: Option<T>) -> Result<T, Error> {
    found.ok_or(Error::UnknownValue { field, value })
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
