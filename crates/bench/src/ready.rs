//! Is it serving? Asked over bare HTTP/2 on a fresh connection, so that the question costs next to nothing.

use std::{path::Path, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::UnixStream;

/// Between two looks at a daemon that is starting.
pub const LOOK_AGAIN: Duration = Duration::from_micros(200);
const CHECK: &str = "http://localhost/grpc.health.v1.Health/Check";
/// A gRPC message of two bytes: field 1, `SERVING`.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

/// False for anything but a plain yes.
pub async fn serves(socket: &Path, part: &str) -> bool {
    ask(socket, part).await.is_some_and(|answer| answer == SERVING)
}

async fn ask(socket: &Path, part: &str) -> Option<Bytes> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let (sender, connection) = h2::client::handshake(stream).await.ok()?;
    let connection = tokio::spawn(connection);
    let answer = check(sender, part).await;
    connection.abort();
    answer
}

async fn check(sender: h2::client::SendRequest<Bytes>, part: &str) -> Option<Bytes> {
    let mut sender = sender.ready().await.ok()?;
    let (answer, mut body) = sender.send_request(request(CHECK), false).ok()?;
    let mut message = BytesMut::new();
    if !part.is_empty() {
        message.put_slice(&[0x0a, u8::try_from(part.len()).ok()?]);
        message.put_slice(part.as_bytes());
    }
    body.send_data(framed(&message), true).ok()?;
    let mut body = answer.await.ok()?.into_body();
    body.data().await?.ok()
}

pub fn request(uri: &'static str) -> http::Request<()> {
    http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a fixed address and fixed headers")
}

/// A message with its gRPC head.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a request is small"));
    frame.put_slice(message);
    frame.freeze()
}
