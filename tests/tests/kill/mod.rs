//! The clients of the kills, and what they write down.

pub mod ask;
pub mod events;
pub mod talk;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use nexus_client::Connection;
use nexus_tests::Random;
use tokio::{
    sync::{broadcast, watch},
    time::sleep,
};
use tonic::{Code, Status};

/// Where in the life of a message something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Received,
    Stored,
    Routed,
    Answered,
}

impl Moment {
    pub const ALL: [Moment; 4] = [Moment::Received, Moment::Stored, Moment::Routed, Moment::Answered];
}

pub struct Client {
    pub name: String,
    pub session: String,
    pub connection: Connection,
    pub random: Random,
    pub record: Record,
    pub moments: broadcast::Sender<Moment>,
    pub stop: watch::Receiver<bool>,
}

impl Client {
    pub fn is_over(&self) -> bool {
        *self.stop.borrow()
    }

    pub fn note(&self, moment: Moment) {
        // Nobody waits for one most of the time.
        let _listeners = self.moments.send(moment);
    }

    /// A killed daemon is UNAVAILABLE and nothing else. Then a little later again.
    pub async fn try_again(&mut self, error: &Status) {
        assert_eq!(error.code(), Code::Unavailable, "{}: {error:?}", self.name);
        self.pause().await;
    }

    pub async fn pause(&mut self) {
        sleep(Duration::from_millis(2 + self.random.below(15))).await;
    }

    /// The next thing to ask: how far to count.
    pub fn question(&mut self) -> String {
        format!("count to {}", 5 + self.random.below(30))
    }
}

/// What of an answer shows that it is whole, and to this question.
pub fn whole_answer(question: &str) -> String {
    let count = question.rsplit(' ').next().and_then(|count| count.parse::<u32>().ok());
    let count = count.expect("every question ends with a number");
    let numbers: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
    format!("{}\n", numbers.join(" "))
}

/// What was acknowledged: by session and id, with the place it was given where the acknowledgement says one.
#[derive(Clone, Default)]
pub struct Record {
    acked: Arc<Mutex<BTreeMap<(String, String), u64>>>,
}

impl Record {
    pub fn ack(&self, session: &str, id: &str, sequence: u64) {
        let mut acked = self.acked.lock().expect("no client panics while it writes");
        let before = acked.insert((session.into(), id.into()), sequence);
        if let Some(before) = before {
            assert_eq!(before, sequence, "{id} was acknowledged at two places");
        }
    }

    pub fn acked(&self) -> Vec<(String, String, u64)> {
        let acked = self.acked.lock().expect("no client panics while it writes");
        acked.iter().map(|((session, id), n)| (session.clone(), id.clone(), *n)).collect()
    }
}
