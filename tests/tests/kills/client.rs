//! The clients of the kills, and what they write down.

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

    /// Something to ask, as long as chance has it. The offline model repeats it, and its answer is a little longer.
    pub fn question(&mut self, id: &str) -> String {
        let words: Vec<String> = (0..self.random.below(30)).map(|number| number.to_string()).collect();
        format!("{id} {}.", words.join(" "))
    }
}

/// True if this is the answer to that question, to its last word. Questions before it that have no answer stand in front
/// of it: a model is never asked by one side twice in a row.
pub fn is_answer(answer: &str, question: &str) -> bool {
    answer.contains(&format!("{question}\" (")) && ["\".", "ollama/llama3.2"].iter().any(|end| answer.ends_with(end))
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
        acked
            .iter()
            .map(|((session, id), n)| (session.clone(), id.clone(), *n))
            .collect()
    }
}
