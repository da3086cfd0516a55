//! A reader of events that costs next to nothing: bare HTTP/2, and of each event only its sequence is looked at.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use nexus_proto::orchestrator::v1::SubscribeEventsRequest;
use prost::{Message, encoding::decode_varint};
use tokio::net::UnixStream;

use crate::ready::{framed, request};

const SUBSCRIBE: &str = "http://localhost/orchestrator.v1.OrchestratorService/SubscribeEvents";
const WINDOW: u32 = 8 << 20;
/// `Event.sequence` and `Event.gap`.
const SEQUENCE: u64 = 100;
const GAP: u64 = 101;

/// One subscriber on a connection of its own.
pub struct Reader {
    body: h2::RecvStream,
    rest: BytesMut,
    /// The newest sequence seen.
    pub at: u64,
    pub events: u64,
}

impl Reader {
    /// Everything after `after`, or from now on.
    pub async fn open(socket: &Path, after: Option<u64>) -> Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(stream)
            .await?;
        tokio::spawn(connection);
        let mut sender = sender.ready().await?;
        let (answer, mut body) = sender.send_request(request(SUBSCRIBE), false)?;
        let asked = SubscribeEventsRequest {
            after_sequence: after,
            ..SubscribeEventsRequest::default()
        };
        body.send_data(framed(&asked.encode_to_vec()), true)?;
        let answer = answer.await?;
        ensure!(answer.status().is_success(), "SubscribeEvents: {}", answer.status());
        Ok(Reader {
            body: answer.into_body(),
            rest: BytesMut::new(),
            at: after.unwrap_or(0),
            events: 0,
        })
    }

    /// Reads what has come. Every event but a first one from now on must follow the one before: a hole is a loss,
    /// since nothing is erased here.
    pub async fn more(&mut self) -> Result<()> {
        let chunk = self.body.data().await.context("the event stream ended")??;
        self.body.flow_control().release_capacity(chunk.len())?;
        let mut chunk = chunk;
        if !self.rest.is_empty() {
            self.rest.extend_from_slice(&chunk);
            chunk = self.rest.split().freeze();
        }
        while let Some(event) = message(&mut chunk) {
            let sequence = sequence(event)?;
            ensure!(
                self.at == 0 || sequence == self.at + 1,
                "event {sequence} came after {}: something is lost",
                self.at
            );
            self.at = sequence;
            self.events += 1;
        }
        self.rest.extend_from_slice(&chunk);
        Ok(())
    }
}

/// Takes one whole message off the front.
fn message(chunk: &mut Bytes) -> Option<Bytes> {
    let length = u32::from_be_bytes(*chunk.get(1..)?.first_chunk()?) as usize;
    if chunk.len() < 5 + length {
        return None;
    }
    let mut message = chunk.split_to(5 + length);
    message.advance(5);
    Some(message)
}

fn sequence(event: Bytes) -> Result<u64> {
    let mut fields = &event[..];
    while fields.has_remaining() {
        let key = decode_varint(&mut fields)?;
        match (key >> 3, key & 7) {
            (SEQUENCE, 0) => return Ok(decode_varint(&mut fields)?),
            (GAP, _) => bail!("a gap was told: this reader lost events"),
            (_, 0) => drop(decode_varint(&mut fields)?),
            (_, 2) => {
                let length = usize::try_from(decode_varint(&mut fields)?)?;
                ensure!(length <= fields.len(), "an event is cut off");
                fields.advance(length);
            }
            (field, wire) => bail!("field {field} of an event has wire type {wire}"),
        }
    }
    bail!("an event has no sequence")
}

#[cfg(test)]
mod tests {
    use nexus_proto::orchestrator::v1::{Event, EventGap};

    use super::*;

    #[test]
    fn the_sequence_is_found_among_other_fields() {
        let event = Event {
            id: "e".into(),
            data: [("a".to_owned(), "b".repeat(300))].into(),
            sequence: 4711,
            name: "message.sent".into(),
            ..Event::default()
        };
        assert_eq!(sequence(event.encode_to_vec().into()).unwrap(), 4711);
        let gap = EventGap { first: 1, last: 2 };
        let event = Event {
            gap: Some(gap),
            ..Event::default()
        };
        assert!(sequence(event.encode_to_vec().into()).is_err());
        assert!(sequence(Bytes::new()).is_err());
    }

    #[test]
    fn a_message_is_taken_only_when_it_is_whole() {
        let mut chunk = framed(b"abc");
        let mut part = chunk.slice(..7);
        assert_eq!(message(&mut part), None);
        assert_eq!(message(&mut chunk), Some(Bytes::from_static(b"abc")));
        assert!(chunk.is_empty());
    }
}
