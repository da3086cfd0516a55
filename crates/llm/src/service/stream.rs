//! One StreamLLM call: requests and heartbeats in, answers out.
//!
//! ```text
//! opened ──request──▶ answering ──complete or error──▶ idle ──request──▶ answering ...
//!    │                    │                              │
//!    └────────────────────┴── the client half-closes ────┴──▶ answers still owed, then OK
//! ```
//!
//! A first frame that is wrong ends the call with a status. After that errors are told within the stream, and other
//! answers on it go on. Heartbeats are answered at any time. Dropping the call stops everything that runs on it.
//!
//! While a request runs and has nothing to say (it waits for a place, for a provider's first byte, for a model that
//! loads or thinks), a heartbeat each second says that its own time limits watch over it, so that no caller has to
//! guess from silence.

use std::{collections::VecDeque, time::Duration};

use futures_util::{
    Stream, StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use nexus_proto::llm::v1::{self as wire, stream_llm_request::Payload as In, stream_llm_response::Payload as Out};
use tonic::{Status, Streaming};

use super::{convert, status};
use crate::{
    domain::error::Error,
    engine::{Engine, Output, Run},
};

const AT_ONCE: usize = 16;
/// Between two signs of life of requests that say nothing.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

struct Conversation {
    engine: Engine,
    frames: Option<Streaming<wire::StreamLlmRequest>>,
    running: SelectAll<BoxStream<'static, Out>>,
    ready: VecDeque<Out>,
    established: bool,
}

type Answer = Result<wire::StreamLlmResponse, Status>;

pub fn answers(engine: Engine, frames: Streaming<wire::StreamLlmRequest>) -> impl Stream<Item = Answer> + Send {
    let conversation = Conversation {
        engine,
        frames: Some(frames),
        running: SelectAll::new(),
        ready: VecDeque::new(),
        established: false,
    };
    stream::unfold(Some(conversation), |conversation| async move {
        let mut conversation = conversation?;
        match conversation.next().await? {
            Ok(payload) => Some((
                Ok(wire::StreamLlmResponse { payload: Some(payload) }),
                Some(conversation),
            )),
            Err(status) => Some((Err(status), None)),
        }
    })
}

enum Step {
    Frame(Result<Option<wire::StreamLlmRequest>, Status>),
    Answer(Out),
    End,
}

impl Conversation {
    async fn next(&mut self) -> Option<Result<Out, Status>> {
        loop {
            if let Some(out) = self.ready.pop_front() {
                return Some(Ok(out));
            }
            match self.step().await {
                Step::Frame(Ok(Some(frame))) => match self.take(frame) {
                    Ok(()) => {}
                    Err(status) => return Some(Err(status)),
                },
                Step::Frame(Ok(None)) => self.frames = None,
                Step::Frame(Err(status)) => return Some(Err(status)),
                Step::Answer(out) => return Some(Ok(out)),
                Step::End => return None,
            }
        }
    }

    async fn step(&mut self) -> Step {
        let quiet = tokio::time::sleep(SIGN_OF_LIFE);
        match self.frames.as_mut() {
            Some(frames) => tokio::select! {
                frame = frames.message() => Step::Frame(frame),
                Some(out) = self.running.next(), if !self.running.is_empty() => Step::Answer(out),
                () = quiet, if !self.running.is_empty() => Step::Answer(Out::Heartbeat(())),
            },
            None if self.running.is_empty() => Step::End,
            None => tokio::select! {
                out = self.running.next() => out.map_or(Step::End, Step::Answer),
                () = quiet => Step::Answer(Out::Heartbeat(())),
            },
        }
    }

    fn take(&mut self, frame: wire::StreamLlmRequest) -> Result<(), Status> {
        let request = match frame.payload {
            Some(In::Heartbeat(())) => {
                self.ready.push_back(Out::Heartbeat(()));
                return Ok(());
            }
            Some(In::Request(request)) => request,
            None => return self.refuse("", Error::FirstWithoutRequest),
        };
        let (id, metadata) = (request.request_id.clone(), request.metadata.clone());
        match self.begin(request) {
            Ok(run) => {
                self.established = true;
                self.running.push(told(run, id, metadata));
                Ok(())
            }
            Err(error) => self.refuse(&id, error),
        }
    }

    fn begin(&self, request: wire::LlmRequest) -> Result<Run, Error> {
        if self.running.len() >= AT_ONCE {
            return Err(Error::StreamFull(AT_ONCE));
        }
        if request.request_id.is_empty() {
            return Err(Error::WithoutId);
        }
        self.engine.accept(convert::request(request)?)
    }

    fn refuse(&mut self, id: &str, error: Error) -> Result<(), Status> {
        if !self.established {
            return Err(error.into());
        }
        self.ready.push_back(Out::Error(status::in_band(id, &error)));
        Ok(())
    }
}

/// A run in the wire's words.
fn told(run: Run, id: String, metadata: Option<wire::LlmMetadata>) -> BoxStream<'static, Out> {
    let mut index = 0;
    run.map(move |output| stream::iter(payloads(output, &id, &metadata, &mut index)))
        .flatten()
        .boxed()
}

fn payloads(output: Output, id: &str, metadata: &Option<wire::LlmMetadata>, index: &mut i32) -> Vec<Out> {
    let request_id = id.to_owned();
    let mut chunk = |content: String, thinking: String, is_last| {
        let chunk = wire::StreamChunk {
            request_id: id.to_owned(),
            content,
            index: *index,
            is_last,
            thinking,
        };
        *index = index.saturating_add(1);
        Out::Chunk(chunk)
    };
    match output {
        Output::Text(text) => vec![chunk(text, String::new(), false)],
        Output::Thinking(thinking) => vec![chunk(String::new(), thinking, false)],
        Output::Tool {
            index,
            id: tool_call_id,
            name,
            arguments,
            done,
        } => {
            let arguments_delta = arguments;
            vec![Out::ToolCall(wire::StreamToolCall {
                request_id,
                tool_call_id,
                name,
                arguments_delta,
                index: i32::try_from(index).unwrap_or(i32::MAX),
                done,
            })]
        }
        // That a chunk was the last is known only now; holding one back would delay every token.
        Output::Whole(whole) => {
            let usage = Some(convert::usage(whole.tokens));
            let response = Some(convert::response(id, metadata.clone(), *whole));
            vec![
                chunk(String::new(), String::new(), true),
                Out::Usage(wire::StreamUsage {
                    request_id: request_id.clone(),
                    usage,
                }),
                Out::Complete(wire::StreamComplete { request_id, response }),
            ]
        }
        Output::Failed(error) => vec![Out::Error(status::in_band(id, &error))],
    }
}
