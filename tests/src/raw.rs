//! gRPC by hand: any path, any bytes, any end. For what no generated stub would ever send.

use std::{convert::Infallible, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use nexus_client::{Connection, Error};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status, body::Body, client::GrpcService};

use crate::PATIENCE;

/// How a call ended, and what came before.
#[derive(Debug)]
pub struct Answer {
    pub status: Status,
    /// The stable reason in the details.
    pub reason: Option<String>,
    pub messages: Vec<Bytes>,
}

impl Answer {
    pub fn code(&self) -> Code {
        self.status.code()
    }
}

/// A message as it stands on the wire, with its five bytes in front.
pub fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("a test's message is small"));
    bytes.put_slice(message);
    bytes.freeze()
}

/// The head of a message that says it is this long, and never comes.
pub fn announced(length: u32) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5);
    bytes.put_u8(0);
    bytes.put_u32(length);
    bytes.freeze()
}

/// What the caller sends: these bytes as they are, and then the end of its side, or nothing more.
#[derive(Clone, Debug, Default)]
pub struct Call {
    pub bytes: Vec<Bytes>,
    pub stays_open: bool,
    /// Sent as `grpc-timeout`.
    pub deadline: Option<Duration>,
    pub headers: Vec<(&'static str, String)>,
}

impl Call {
    pub fn message(message: &[u8]) -> Call {
        Call {
            bytes: vec![framed(message)],
            ..Call::default()
        }
    }

    pub fn deadline(mut self, deadline: Duration) -> Call {
        self.deadline = Some(deadline);
        self
    }
}

/// Makes a call to its end.
pub async fn call(connection: &Connection, path: &str, call: Call) -> Answer {
    let (send, body) = mpsc::channel::<Bytes>(call.bytes.len().max(1));
    for bytes in call.bytes {
        send.try_send(bytes).expect("the queue is as long as the call");
    }
    let kept = call.stays_open.then_some(send);
    let frames = ReceiverStream::new(body).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let mut request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(deadline) = call.deadline {
        request = request.header("grpc-timeout", format!("{}m", deadline.as_millis()));
    }
    for (name, value) in call.headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Body::new(StreamBody::new(frames)))
        .expect("a test's path is a path");
    let answer = timeout(PATIENCE, answer(connection, request))
        .await
        .unwrap_or_else(|_| panic!("{path} has not ended after {PATIENCE:?}"));
    drop(kept);
    answer
}

async fn answer(connection: &Connection, request: Request<Body>) -> Answer {
    let mut channel = connection.channel();
    let response = match GrpcService::call(&mut channel, request).await {
        Ok(response) => response,
        Err(status) => return ended(status, Vec::new()),
    };
    if response.status() != http::StatusCode::OK {
        return ended(Status::unknown(format!("HTTP {}", response.status())), Vec::new());
    }
    let (head, mut body) = response.into_parts();
    let (mut data, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => data.put(bytes),
            Ok(Err(frame)) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            Err(status) => return ended(status, split(data)),
        }
    }
    let status = Status::from_header_map(&trailers).or_else(|| Status::from_header_map(&head.headers));
    ended(
        status.unwrap_or_else(|| Status::unknown("the call ended without a status")),
        split(data),
    )
}

fn ended(status: Status, messages: Vec<Bytes>) -> Answer {
    let reason = Error::from(status.clone()).reason;
    Answer {
        status,
        reason,
        messages,
    }
}

fn split(mut data: BytesMut) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while data.len() >= 5 {
        let length = (&data[1..5]).get_u32() as usize;
        data.advance(5);
        if data.len() < length {
            break;
        }
        messages.push(data.split_to(length).freeze());
    }
    messages
}
