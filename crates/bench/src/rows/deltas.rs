//! An assistant that answers in pieces, and the reader of its session: pieces each second, and how long one takes from
//! the assistant to the reader. The yardstick sends the same number of bytes through a bare tonic stream.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use nexus_proto::{
    agent::v1::{
        AgentMessage, AgentMessageMetadata, AgentType, DataMessage, EventMessage, MessageType, RegisterRequest,
        RegisterResponse, StreamAgentRequest, StreamAgentResponse, agent_message::Payload as Said,
        stream_agent_request::Payload as Up, stream_agent_response::Payload as Down,
    },
    orchestrator::v1::{
        Message, MessageRole, SendMessageRequest, StreamMessageRequest, StreamMessageResponse,
        stream_message_response::Payload as Shown,
    },
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, client::Grpc};

use super::{Run, SEND_MESSAGE, create_session};
use crate::{
    daemons::{Running, TempRoot},
    echo::{Blob, STREAM},
    figures::Figure,
    load::{Seen, nanos},
    wire::{Raw, Target, call_once, connect},
};

const ROW: &str = "deltas";
const REGISTER: &str = "/agent.v1.AgentService/Register";
const STREAM_AGENT: &str = "/agent.v1.AgentService/StreamAgent";
const STREAM_MESSAGES: &str = "/orchestrator.v1.OrchestratorService/StreamMessages";

/// About a token.
const PIECE: &str = "a word or two, ";
const PACE: Duration = Duration::from_millis(2);

/// One open stream of bytes.
struct Line {
    up: mpsc::Sender<Bytes>,
    down: Streaming<Bytes>,
}

impl Line {
    async fn open(target: &Target, first: Option<Bytes>) -> Result<Self> {
        let (up, frames) = mpsc::channel(1024);
        if let Some(first) = first {
            up.send(first).await?;
        }
        let mut grpc = Grpc::new(connect(&target.socket).await?);
        grpc.ready().await?;
        let request = Request::new(ReceiverStream::new(frames));
        let down = grpc.streaming(request, target.path.clone(), Raw).await?.into_inner();
        Ok(Line { up, down })
    }

    async fn next(&mut self) -> Result<Bytes> {
        self.down.message().await?.context("a stream ended")
    }
}

/// The assistant, the reader, and what lies between them.
struct Stage {
    agent_id: String,
    session: String,
    send: Target,
    assistant: Line,
    reader: Line,
}

impl Stage {
    async fn open(orchestrator: &Running) -> Result<Self> {
        let socket = &orchestrator.socket;
        let register = RegisterRequest {
            name: "assistant".into(),
            r#type: AgentType::Worker.into(),
            ..RegisterRequest::default()
        };
        let answer = call_once(&Target::new(socket, REGISTER), register.encode_to_vec().into()).await?;
        let agent_id = RegisterResponse::decode(answer)?.agent_id;
        let hello = StreamAgentRequest {
            agent_id: agent_id.clone(),
            payload: None,
        };
        let assistant = Line::open(&Target::new(socket, STREAM_AGENT), Some(hello.encode_to_vec().into())).await?;
        let session = create_session(socket).await?;
        let join = StreamMessageRequest {
            session_id: session.clone(),
            after_sequence: Some(0),
            ..StreamMessageRequest::default()
        };
        let reader = Line::open(&Target::new(socket, STREAM_MESSAGES), Some(join.encode_to_vec().into())).await?;
        Ok(Stage {
            agent_id,
            session,
            send: Target::new(socket, SEND_MESSAGE),
            assistant,
            reader,
        })
    }

    /// Asks, and returns what the assistant is to answer with: the pieces, and the whole.
    async fn ask(&mut self, pieces: usize) -> Result<(Vec<Bytes>, Bytes)> {
        let ask = SendMessageRequest {
            session_id: self.session.clone(),
            message: Some(Message {
                role: MessageRole::User.into(),
                content: "go on".into(),
                ..Message::default()
            }),
        };
        call_once(&self.send, ask.encode_to_vec().into()).await?;
        let correlation = loop {
            let frame = StreamAgentResponse::decode(self.assistant.next().await?)?;
            if let Some(Down::Message(message)) = frame.payload {
                break message.metadata.context("a request without metadata")?.correlation_id;
            }
        };
        let metadata = AgentMessageMetadata {
            correlation_id: correlation,
            session_id: self.session.clone(),
            ..AgentMessageMetadata::default()
        };
        let frame = |kind: MessageType, payload| {
            let message = AgentMessage {
                r#type: kind.into(),
                payload: Some(payload),
                metadata: Some(metadata.clone()),
                ..AgentMessage::default()
            };
            let request = StreamAgentRequest {
                agent_id: self.agent_id.clone(),
                payload: Some(Up::Message(message)),
            };
            Bytes::from(request.encode_to_vec())
        };
        let delta = |i: usize| {
            let index = (i * PIECE.len()).to_string();
            let data = [("delta", PIECE.to_owned()), ("index", index)].map(|(name, value)| (name.to_owned(), value));
            let event = EventMessage {
                event_type: "delta".into(),
                data: HashMap::from(data),
                ..EventMessage::default()
            };
            frame(MessageType::Event, Said::EventMessage(event))
        };
        let whole = DataMessage {
            content_type: "text/plain".into(),
            data: PIECE.repeat(pieces).into(),
            ..DataMessage::default()
        };
        let whole = frame(MessageType::Data, Said::DataMessage(whole));
        Ok(((0..pieces).map(delta).collect(), whole))
    }

    /// The next piece that the reader is shown: where the text then ends.
    async fn piece(&mut self) -> Result<usize> {
        loop {
            match StreamMessageResponse::decode(self.reader.next().await?)?.payload {
                Some(Shown::Event(event)) => {
                    if let Some(error) = event.data.get("error") {
                        bail!("the turn failed: {error}");
                    }
                    if let (Some(delta), Some(index)) = (event.data.get("delta"), event.data.get("index")) {
                        return Ok(index.parse::<usize>()? + delta.len());
                    }
                }
                Some(Shown::Message(message)) if message.role == i32::from(MessageRole::Assistant) => {
                    bail!("the answer came before its pieces")
                }
                _ => {}
            }
        }
    }

    /// Ends the turn; the whole answer must arrive as it was sent.
    async fn finish(&mut self, whole: Bytes, pieces: usize) -> Result<()> {
        self.assistant.up.send(whole).await?;
        loop {
            if let Some(Shown::Message(message)) = StreamMessageResponse::decode(self.reader.next().await?)?.payload
                && message.role == i32::from(MessageRole::Assistant)
            {
                ensure!(
                    message.content == PIECE.repeat(pieces),
                    "the answer is not what was said"
                );
                return Ok(());
            }
        }
    }

    /// As fast as it goes. Returns pieces each second and the frames that the reader got.
    async fn pump(&mut self, pieces: usize) -> Result<(f64, usize)> {
        let (frames, whole) = self.ask(pieces).await?;
        let up = self.assistant.up.clone();
        let begin = Instant::now();
        let pump = tokio::spawn(async move {
            for frame in frames {
                up.send(frame).await?;
            }
            anyhow::Ok(())
        });
        let mut got = 0;
        while self.piece().await? < pieces * PIECE.len() {
            got += 1;
        }
        let rate = pieces as f64 / begin.elapsed().as_secs_f64();
        pump.await??;
        self.finish(whole, pieces).await?;
        Ok((rate, got + 1))
    }

    /// One piece at a time.
    async fn pace(&mut self, pieces: usize) -> Result<Seen> {
        let (frames, whole) = self.ask(pieces).await?;
        let mut latencies = Vec::with_capacity(pieces);
        let begin = Instant::now();
        for (i, frame) in frames.into_iter().enumerate() {
            tokio::time::sleep(PACE).await;
            let sent = Instant::now();
            self.assistant.up.send(frame).await?;
            while self.piece().await? < (i + 1) * PIECE.len() {}
            latencies.push(nanos(sent.elapsed()));
        }
        self.finish(whole, pieces).await?;
        Ok(Seen::new(begin.elapsed(), latencies))
    }
}

async fn pump_bare(line: &mut Line, blob: &Bytes, pieces: usize) -> Result<f64> {
    let (up, blob) = (line.up.clone(), blob.clone());
    let begin = Instant::now();
    let pump = tokio::spawn(async move {
        for _ in 0..pieces {
            up.send(blob.clone()).await?;
        }
        anyhow::Ok(())
    });
    for _ in 0..pieces {
        line.next().await?;
    }
    let rate = pieces as f64 / begin.elapsed().as_secs_f64();
    pump.await??;
    Ok(rate)
}

async fn pace_bare(line: &mut Line, blob: &Bytes, pieces: usize) -> Result<Seen> {
    let mut latencies = Vec::with_capacity(pieces);
    let begin = Instant::now();
    for _ in 0..pieces {
        tokio::time::sleep(PACE).await;
        let sent = Instant::now();
        line.up.send(blob.clone()).await?;
        line.next().await?;
        latencies.push(nanos(sent.elapsed()));
    }
    Ok(Seen::new(begin.elapsed(), latencies))
}

pub async fn run(run: &Run) -> Result<Vec<Figure>> {
    let place = TempRoot::new(&run.bin, &run.dir)?;
    let orchestrator = place.start("orchestrator").await?;
    let mut stage = Stage::open(&orchestrator).await?;
    let mut echo = Running::echo(&run.dir, 0)?;
    echo.listening().await?;
    let (frames, whole) = stage.ask(1).await?;
    let blob = Bytes::from(Blob::of_size(frames[0].len()).encode_to_vec());
    stage.assistant.up.send(frames[0].clone()).await?;
    stage.finish(whole, 1).await?;
    // The first answer has headers; a stream that has said nothing has none.
    let mut bare = Line::open(&Target::new(&echo.socket, STREAM), Some(blob.clone())).await?;
    bare.next().await?;

    let (pumped, paced) = if run.quick { (5_000, 100) } else { (20_000, 500) };
    let (mut rate, mut p50, mut p99, mut shown) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 0..=run.pairs {
        let beside = pump_bare(&mut bare, &blob, pumped).await?;
        let (seen, frames) = stage.pump(pumped).await?;
        let slow_beside = pace_bare(&mut bare, &blob, paced).await?;
        let slow = stage.pace(paced).await?;
        if round > 0 {
            rate.push((seen, beside));
            p50.push((slow.quantile(0.5), slow_beside.quantile(0.5)));
            p99.push((slow.quantile(0.99), slow_beside.quantile(0.99)));
            shown = frames;
        }
    }
    let note = format!("{pumped} pieces reached the reader whole, in {shown} frames");
    Ok(vec![
        Figure::pairs(ROW, "deltas, assistant to reader, at full speed", "/s", &rate).note(note),
        Figure::pairs(ROW, "delta p50, assistant to reader, one every 2 ms", "us", &p50),
        Figure::pairs(ROW, "delta p99, assistant to reader, one every 2 ms", "us", &p99),
    ])
}
