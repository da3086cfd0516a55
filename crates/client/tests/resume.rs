//! The event log read across restarts of its server: nothing lost, nothing twice, and what cannot be so is told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fake::{Handler, Items, Server, streaming};
use nexus_client::{Address, Connection, Events, Kind, LOG_ID, Options};
use nexus_proto::orchestrator::v1::{Event, EventGap, SubscribeEventsRequest};
use tokio::time::timeout;
use tonic::{Response, Status};

const SOON: Duration = Duration::from_secs(20);

/// What each subscription asked for: its cursor and the log id it named.
type Asked = Arc<Mutex<Vec<(Option<u64>, Option<String>)>>>;

fn event(sequence: u64) -> Event {
    Event {
        id: sequence.to_string(),
        sequence,
        ..Event::default()
    }
}

/// A log of `1..=head`; each subscription gets at most `portion` events, and then `end`.
fn log(head: u64, portion: usize, log_id: &'static str, asked: Asked, end: fn() -> Status) -> Handler {
    Arc::new(move |request| {
        let asked = asked.clone();
        Box::pin(streaming(
            request,
            move |request: tonic::Request<SubscribeEventsRequest>| {
                let named = request.metadata().get(LOG_ID).map(|id| id.to_str().unwrap().to_owned());
                let after = request.get_ref().after_sequence;
                asked.lock().unwrap().push((after, named));
                let from = after.unwrap_or(0);
                let mut items: Vec<Result<Event, Status>> =
                    (from + 1..=head).take(portion).map(|n| Ok(event(n))).collect();
                if from + (portion as u64) < head {
                    items.push(Err(end()));
                }
                let items: Items<Event> = Box::pin(tokio_stream::iter(items));
                let mut response = Response::new(items);
                response.metadata_mut().insert(LOG_ID, log_id.parse().unwrap());
                Ok(response)
            },
        ))
    })
}

fn quick() -> Options {
    Options {
        reconnect_interval: Duration::from_millis(2),
        ..Options::default()
    }
}

fn from_start() -> SubscribeEventsRequest {
    SubscribeEventsRequest {
        after_sequence: Some(0),
        ..SubscribeEventsRequest::default()
    }
}

#[tokio::test]
async fn every_event_once_however_often_the_server_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let asked = Asked::default();
    let _server = Server::start(
        &path,
        log(500, 7, "log-a", asked.clone(), || Status::unavailable("shutting down")),
    );
    let connection = Connection::lazy(&Address::Unix(path), &quick());
    let mut events = Events::new(connection, from_start());
    let mut seen = Vec::new();
    while let Some(event) = timeout(SOON, events.next()).await.unwrap() {
        seen.push(event.unwrap().sequence);
    }
    assert_eq!(seen, (1..=500).collect::<Vec<_>>());
    let asked = asked.lock().unwrap();
    assert!(asked.len() > 70, "the server broke off only {} times", asked.len());
    assert_eq!(asked[0], (Some(0), None));
    assert_eq!(asked[1], (Some(7), Some("log-a".to_owned())));
    assert_eq!(events.log_id(), Some("log-a"));
    assert_eq!(events.cursor(), Some(500));
}

#[tokio::test]
async fn a_killed_server_is_waited_for_and_the_reader_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let endless = |asked: Asked| -> Handler {
        Arc::new(move |request| {
            let asked = asked.clone();
            Box::pin(streaming(
                request,
                move |request: tonic::Request<SubscribeEventsRequest>| {
                    use futures_util::StreamExt as _;
                    let from = request.get_ref().after_sequence;
                    asked.lock().unwrap().push((from, None));
                    let first = from.unwrap_or(0) + 1;
                    let items = tokio_stream::iter([Ok(event(first)), Ok(event(first + 1))])
                        .chain(futures_util::stream::pending());
                    Ok(Response::new(Box::pin(items) as Items<Event>))
                },
            ))
        })
    };
    let asked = Asked::default();
    let server = Server::start(&path, endless(asked.clone()));
    let connection = Connection::lazy(&Address::Unix(path.clone()), &quick());
    // Live only: the cursor begins with the first event seen.
    let mut events = Events::new(connection, SubscribeEventsRequest::default());
    for expected in 1..=2 {
        assert_eq!(events.next().await.unwrap().unwrap().sequence, expected);
    }
    server.kill().await;
    let next = tokio::spawn(async move { (events.next().await, events) });
    let _server = Server::start(&path, endless(asked.clone()));
    let (third, _) = timeout(SOON, next).await.unwrap().unwrap();
    assert_eq!(third.unwrap().unwrap().sequence, 3);
    assert_eq!(*asked.lock().unwrap(), [(None, None), (Some(2), None)]);
}

#[tokio::test]
async fn a_gap_is_passed_on_and_the_cursor_moves_past_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let asked = Asked::default();
    let record = asked.clone();
    let _server = Server::start(
        &path,
        Arc::new(move |request| {
            let record = record.clone();
            Box::pin(streaming(
                request,
                move |request: tonic::Request<SubscribeEventsRequest>| {
                    let after = request.get_ref().after_sequence;
                    record.lock().unwrap().push((after, None));
                    let items: Vec<Result<Event, Status>> = if after == Some(0) {
                        let gap = Event {
                            gap: Some(EventGap { first: 1, last: 40 }),
                            ..Event::default()
                        };
                        vec![Ok(gap), Err(Status::unavailable("shutting down"))]
                    } else {
                        // One the reader has, as a server in doubt may send it.
                        vec![Ok(event(40)), Ok(event(41))]
                    };
                    Ok(Response::new(Box::pin(tokio_stream::iter(items)) as Items<Event>))
                },
            ))
        }),
    );
    let connection = Connection::lazy(&Address::Unix(path), &quick());
    let mut events = Events::new(connection, from_start());
    let gap = events.next().await.unwrap().unwrap().gap.unwrap();
    assert_eq!((gap.first, gap.last), (1, 40));
    assert_eq!(events.next().await.unwrap().unwrap().sequence, 41);
    assert!(events.next().await.is_none());
    assert_eq!(*asked.lock().unwrap(), [(Some(0), None), (Some(40), None)]);
}

#[tokio::test]
async fn a_cursor_beyond_the_log_is_a_typed_error_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let _server = Server::start(
        &path,
        Arc::new(|request| {
            Box::pin(streaming(request, |_: tonic::Request<SubscribeEventsRequest>| {
                Err::<Response<Items<Event>>, _>(Status::out_of_range("after 9, the log ends at 3"))
            }))
        }),
    );
    let connection = Connection::lazy(&Address::Unix(path), &quick());
    let mut events = Events::new(connection, from_start());
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, Kind::OutOfRange);
    assert!(error.hint.unwrap().contains("without a cursor"));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_cursor_of_another_log_is_refused_even_if_the_server_does_not_look() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.sock");
    let _server = Server::start(&path, log(5, 9, "log-b", Asked::default(), || Status::unavailable("")));
    let connection = Connection::lazy(&Address::Unix(path), &quick());
    let mut events = Events::new(connection, from_start()).of_log("log-a");
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, Kind::OutOfRange);
}
