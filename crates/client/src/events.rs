//! Follows the orchestrator's event log without end.
//!
//! ```text
//!   subscribe(after cursor, log id) ──▶ event: cursor := its sequence ──▶ reader
//!        ▲                          └─▶ gap:   cursor := its last     ──▶ reader
//!        └── pause ◀── connection lost
//! ```
//!
//! Nothing is skipped silently and nothing comes twice: what was lost to this reader is a gap that the server tells,
//! and a log that is not the one the cursor came from is [`Kind::OutOfRange`]. The one seam: a live-only subscription
//! has no cursor until its first event, and what happens during a loss before that stays unseen.

use futures_core::Stream;
use futures_util::stream;
use nexus_proto::orchestrator::v1::{Event, SubscribeEventsRequest};
use nexus_proto::words;
use tonic::{Request, Streaming, metadata::MetadataValue};

use crate::{Backoff, Connection, Error, Kind};

/// Metadata of a subscription's answer, sent back with the cursor: which log the cursor belongs to.
pub const LOG_ID: &str = words::metadata::LOG_ID;

/// A subscription that survives its connections.
pub struct Events {
    connection: Connection,
    request: SubscribeEventsRequest,
    log_id: Option<String>,
    open: Option<Streaming<Event>>,
    backoff: Backoff,
    ended: bool,
}

impl Events {
    /// The events that `request` asks for. Nothing is sent before the first is asked for.
    pub fn new(connection: Connection, request: SubscribeEventsRequest) -> Self {
        let backoff = connection.backoff();
        Events {
            connection,
            request,
            log_id: None,
            open: None,
            backoff,
            ended: false,
        }
    }

    /// For a cursor kept from an earlier run: the log it came from.
    pub fn of_log(mut self, log_id: impl Into<String>) -> Self {
        self.log_id = Some(log_id.into());
        self
    }

    /// Known from the first answer on. Keep it with the cursor.
    pub fn log_id(&self) -> Option<&str> {
        self.log_id.as_deref()
    }

    /// Everything up to this sequence has been given out.
    pub fn cursor(&self) -> Option<u64> {
        self.request.after_sequence
    }

    /// The next event or gap. `None` once the server ended the subscription in good order (an `end_time` has
    /// passed); an error is the last item too.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        while !self.ended {
            match self.step().await {
                Ok(Some(event)) => {
                    if self.take(&event) {
                        return Some(Ok(event));
                    }
                }
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.open = None;
                    if !error.is_retryable() || !self.backoff.wait().await {
                        self.ended = true;
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }

    async fn step(&mut self) -> Result<Option<Event>, Error> {
        if let Some(open) = &mut self.open {
            return Ok(open.message().await?);
        }
        let mut request = Request::new(self.request.clone());
        if let (Some(log_id), Some(_)) = (&self.log_id, self.request.after_sequence) {
            let value = MetadataValue::try_from(log_id.as_str())
                .map_err(|_| Error::new(Kind::Invalid, "the log id has characters that no log id has"))?;
            request.metadata_mut().insert(LOG_ID, value);
        }
        let answer = self.connection.orchestrator().subscribe_events(request).await?;
        if let Some(found) = answer.metadata().get(LOG_ID).and_then(|id| id.to_str().ok()) {
            let cursor_from_elsewhere =
                self.request.after_sequence.is_some() && self.log_id.as_deref().is_some_and(|known| known != found);
            if cursor_from_elsewhere {
                return Err(Error::new(
                    Kind::OutOfRange,
                    "the event log is not the one this cursor came from",
                ));
            }
            self.log_id = Some(found.to_owned());
        }
        let open = self.open.insert(answer.into_inner());
        Ok(open.message().await?)
    }

    /// Moves the cursor. False for what the reader already has.
    fn take(&mut self, event: &Event) -> bool {
        self.backoff.reset();
        let reached = match &event.gap {
            Some(gap) => gap.last,
            None => event.sequence,
        };
        if reached == 0 {
            return true;
        }
        let fresh = self.request.after_sequence.is_none_or(|known| reached > known);
        if fresh {
            self.request.after_sequence = Some(reached);
        }
        fresh
    }
}

/// [`Events`] as a stream.
pub fn events(
    connection: Connection,
    request: SubscribeEventsRequest,
) -> impl Stream<Item = Result<Event, Error>> + Send {
    stream::unfold(Events::new(connection, request), async |mut events| {
        events.next().await.map(|item| (item, events))
    })
}
