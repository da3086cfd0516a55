//! A reader of the event log from its beginning, through all kills.

use nexus_client::{Connection, Events};
use nexus_proto::orchestrator::v1::{EventFilter, SubscribeEventsRequest};
use tokio::sync::watch;

pub struct Sent {
    pub session: String,
    pub message: String,
}

/// Reads until as many messages of the sessions in question were seen as it is told to expect.
pub async fn reader(connection: Connection, mut expected: watch::Receiver<Option<usize>>) -> Vec<Sent> {
    let filter = EventFilter {
        names: vec!["message.sent".into()],
        ..EventFilter::default()
    };
    let request = SubscribeEventsRequest {
        filter: Some(filter),
        after_sequence: Some(0),
    };
    let mut events = Events::new(connection, request);
    let (mut seen, mut cursor) = (Vec::new(), 0);
    loop {
        if expected.borrow_and_update().is_some_and(|count| seen.len() >= count) {
            return seen;
        }
        tokio::select! {
            changed = expected.changed() => changed.expect("the test says what it expects"),
            event = events.next() => {
                let event = event.expect("the log goes on").expect("the reader resumes");
                assert_eq!(event.gap, None, "nothing was trimmed, and nobody was slow");
                assert!(event.sequence > cursor, "{} after {cursor}", event.sequence);
                cursor = event.sequence;
                let metadata = event.metadata.clone().unwrap_or_default();
                seen.push(Sent { session: metadata.session_id, message: event.data["message_id"].clone() });
            }
        }
    }
}
