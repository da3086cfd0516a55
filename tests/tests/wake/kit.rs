//! What the tests of this program share.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use nexus_client::{Connection, Events};
use nexus_proto::orchestrator::v1::{Event, EventFilter, SubscribeEventsRequest};
use nexus_tests::{Daemon, Frame, PATIENCE, Site, Talk, ask, in_reply_to};
use tokio::time::{sleep, timeout};

/// A second is a sleep here, so that no test has to wait for longer.
pub const QUICK: &str = "[common]\nwake_check = \"200ms\"\nwake_threshold = \"1s\"\n";

/// Said whatever the harness hides.
pub fn report(line: &str) {
    writeln!(std::io::stderr(), "wake: {line}").expect("standard error can be written");
}

/// Waits for a line with `text` beyond the first `after` bytes of a daemon's log, and gives it back.
pub async fn logged(log: &Path, after: u64, text: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let all = std::fs::read(log).expect("the log can be read");
        let from = usize::try_from(after).expect("logs are small").min(all.len());
        let fresh = String::from_utf8_lossy(&all[from..]).into_owned();
        if let Some(line) = fresh.lines().find(|line| line.contains(text)) {
            return line.to_owned();
        }
        assert!(
            Instant::now() < until,
            "{} never said {text:?}:\n{fresh}",
            log.display()
        );
        sleep(Duration::from_millis(5)).await;
    }
}

pub fn length(log: &Path) -> u64 {
    std::fs::metadata(log).expect("the log is there").len()
}

pub fn log_of(site: &mut Site, daemon: Daemon) -> std::path::PathBuf {
    site.process(daemon).log().to_path_buf()
}

/// The first event of that name in the whole log.
pub async fn event(connection: &Connection, name: &str) -> Event {
    let mut events = events(connection, name);
    timeout(PATIENCE, events.next())
        .await
        .unwrap_or_else(|_| panic!("no event {name}"))
        .expect("events do not end")
        .expect("events can be read")
}

pub fn events(connection: &Connection, name: &str) -> Events {
    let request = SubscribeEventsRequest {
        filter: Some(EventFilter {
            names: vec![name.into()],
            ..EventFilter::default()
        }),
        after_sequence: Some(0),
    };
    Events::new(connection.clone(), request)
}

/// A question that is under way while something happens.
pub struct Question {
    talk: Talk,
    asked: String,
    pub session: String,
}

impl Question {
    pub async fn ask(connection: &Connection, text: &str) -> Question {
        let session = ask::create(connection, "wake").await;
        let mut question = Question {
            talk: Talk::open(connection, &session, None, true)
                .await
                .expect("a stream can be opened"),
            asked: "asked-1".into(),
            session,
        };
        assert!(question.talk.say(&question.asked, text).await);
        // Durable, so it is owed an answer.
        while !matches!(question.talk.next().await, Ok(Some(Frame::Ack { .. }))) {}
        question
    }

    /// Its whole answer, on the same stream or, if the server's side was cut, from the session.
    pub async fn answered(mut self, connection: &Connection) -> String {
        loop {
            match self.talk.next().await {
                Ok(Some(Frame::Message(message))) if in_reply_to(&message) == Some(&self.asked) => {
                    return message.content;
                }
                Ok(Some(Frame::Failed { error, .. })) => panic!("no answer: {error}"),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    self.talk = Talk::open(connection, &self.session, Some(0), false)
                        .await
                        .expect("a stream can be opened again");
                }
            }
        }
    }
}
