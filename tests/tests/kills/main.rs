//! Two hundred `kill -9` of the orchestrator, the assistant and the model daemon in turn, at random points of receive,
//! store, route and answer, under clients that repeat what they are not sure of with the same message id.
//!
//! What an acknowledgement promised is there; nothing is there twice; every question has its one, whole answer; every
//! stream and the event log resume from their cursors.

mod asker;
mod client;
mod events;
mod talker;

use std::{collections::BTreeMap, time::Duration};

use asker::asker;
use client::{Client, Moment, Record, is_answer};
use nexus_proto::orchestrator::v1::{Message, MessageRole};
use nexus_tests::{Daemon, Frame, PATIENCE, Random, Site, Talk, ask, in_reply_to};
use talker::{Told, talker};
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

const KILLS: usize = 200;
/// A kill comes this long after something happened, at most.
const AFTER_MS: u64 = 60;
/// How long a kill waits for the kind of moment it is meant for.
const MOMENT: Duration = Duration::from_millis(400);

#[tokio::test]
async fn two_hundred_kills_lose_nothing_and_double_nothing() {
    let mut random = Random::seeded();
    let mut site = Site::new()
        .env("NEXUS_LLM__OFFLINE_PACE", "2ms")
        .env("NEXUS_COMMON__RECONNECT_INTERVAL", "100ms");
    site.up_line().await;

    let connection = site.connect();
    let mut sessions = Vec::new();
    for name in ["one", "two", "three", "four"] {
        sessions.push(ask::create(&connection, name).await);
    }
    let record = Record::default();
    let (moments, _) = broadcast::channel(256);
    let (over, stop) = watch::channel(false);
    let mut talkers = JoinSet::new();
    for (number, session) in sessions.iter().enumerate() {
        let client = Client {
            name: format!("t{number}"),
            session: session.clone(),
            connection: site.connect(),
            random: random.fork(),
            record: record.clone(),
            moments: moments.clone(),
            stop: stop.clone(),
        };
        talkers.spawn(talker(client));
    }
    let mut askers = JoinSet::new();
    for (number, session) in sessions.iter().take(2).enumerate() {
        let client = Client {
            name: format!("a{number}"),
            session: session.clone(),
            connection: site.connect(),
            random: random.fork(),
            record: record.clone(),
            moments: moments.clone(),
            stop: stop.clone(),
        };
        askers.spawn(asker(client));
    }
    let (expect, expected) = watch::channel(None);
    let reader = tokio::spawn(events::reader(site.connect(), expected));

    let struck = kills(&mut site, &mut random, &moments).await;
    over.send_replace(true);
    for daemon in Daemon::LINE {
        site.ready(daemon).await;
    }
    let mut told = Vec::new();
    while let Some(one) = timeout(2 * PATIENCE, talkers.join_next())
        .await
        .expect("the clients come to an end")
    {
        told.push(one.expect("a client on a stream is content"));
    }
    while let Some(one) = timeout(2 * PATIENCE, askers.join_next())
        .await
        .expect("the clients come to an end")
    {
        one.expect("a client of unary calls is content");
    }

    let stored = stored(&site, &sessions).await;
    let count = check_sessions(&record, &stored);
    for one in &told {
        check_talk(one, &stored[&one.session]);
    }
    replayed(&site, &stored).await;
    let mut wanted: Vec<_> = stored.values().flatten().map(|message| message.id.clone()).collect();
    wanted.sort();
    expect.send_replace(Some(wanted.len()));
    let seen = timeout(PATIENCE, reader)
        .await
        .expect("the events are read to the end")
        .expect("they can be read");
    let mut seen: Vec<_> = seen
        .into_iter()
        .filter(|event| stored.contains_key(&event.session))
        .map(|e| e.message)
        .collect();
    seen.sort();
    assert_eq!(seen, wanted, "message.sent, each once");

    // What is on disk is what was shown, after a stop in good order too.
    site.stopped(Daemon::Orchestrator).await;
    site.up(&[Daemon::Orchestrator]).await;
    assert_eq!(self::stored(&site, &sessions).await, stored);
    println!("{count} questions answered under {KILLS} kills: {struck:?}");
    assert!(count >= 40, "the kills left too little time: {count} answers");
}

/// Kills them in turn, each at a moment when something is going on.
async fn kills(site: &mut Site, random: &mut Random, moments: &broadcast::Sender<Moment>) -> BTreeMap<String, usize> {
    let mut struck = BTreeMap::new();
    for number in 0..KILLS {
        let target = Daemon::LINE[number % Daemon::LINE.len()];
        // Now and then while it starts.
        if random.below(10) > 0 {
            site.ready(target).await;
        }
        let wanted = *random.pick(&Moment::ALL);
        let mut happening = moments.subscribe();
        let seen = timeout(MOMENT, async {
            while happening.recv().await.is_ok_and(|moment| moment != wanted) {}
        });
        let when = if seen.await.is_ok() {
            format!("{wanted:?}")
        } else {
            "Silence".into()
        };
        *struck.entry(format!("{target} {when}")).or_default() += 1;
        sleep(Duration::from_micros(random.below(AFTER_MS * 1000))).await;
        site.kill(target);
        site.start(target);
    }
    struck
}

async fn stored(site: &Site, sessions: &[String]) -> BTreeMap<String, Vec<Message>> {
    let connection = site.connect();
    let mut stored = BTreeMap::new();
    for session in sessions {
        stored.insert(session.clone(), ask::messages(&connection, session).await);
    }
    stored
}

/// Returns how many questions there are; all are answered.
fn check_sessions(record: &Record, stored: &BTreeMap<String, Vec<Message>>) -> usize {
    for (session, messages) in stored {
        ask::in_order(messages);
        let mut answers: BTreeMap<&str, &Message> = BTreeMap::new();
        for message in messages
            .iter()
            .filter(|message| message.role() == MessageRole::Assistant)
        {
            let question = in_reply_to(message).expect("an answer says what it answers");
            let before = answers.insert(question, message);
            assert!(before.is_none(), "{question} in {session} has two answers");
        }
        let questions: Vec<_> = messages
            .iter()
            .filter(|message| message.role() == MessageRole::User)
            .collect();
        assert_eq!(answers.len(), questions.len(), "answers to nothing in {session}");
        for question in questions {
            let answer = answers
                .get(&*question.id)
                .unwrap_or_else(|| panic!("{} has no answer", question.id));
            assert!(
                answer.sequence > question.sequence,
                "{} is answered before it was asked",
                question.id
            );
            let fits = is_answer(&answer.content, &question.content);
            assert!(fits, "{} to {}", answer.content, question.content);
        }
    }
    let acked = record.acked();
    for (session, id, sequence) in &acked {
        let found = stored[session].iter().find(|message| message.id == *id);
        let found = found.unwrap_or_else(|| panic!("{id} was acknowledged and is lost"));
        if *sequence > 0 {
            assert_eq!(
                found.sequence, *sequence,
                "the place of {id} is not the one acknowledged"
            );
        }
    }
    let questions = stored
        .values()
        .flatten()
        .filter(|message| message.role() == MessageRole::User);
    assert_eq!(
        questions.count(),
        acked.len(),
        "every question was acknowledged in the end, and no other is there"
    );
    acked.len()
}

/// One client's stream, over all its connections.
fn check_talk(told: &Told, messages: &[Message]) {
    let asked: Vec<_> = messages
        .iter()
        .filter(|message| told.said.contains(&message.id))
        .map(|m| &m.id)
        .collect();
    assert_eq!(
        asked,
        told.said.iter().collect::<Vec<_>>(),
        "the order in which {} asked",
        told.name
    );
    let got: Vec<_> = told
        .fresh
        .iter()
        .filter(|(_, role)| *role == MessageRole::Assistant)
        .map(|(n, _)| *n)
        .collect();
    let there = messages
        .iter()
        .filter(|message| message.role() == MessageRole::Assistant);
    let there: Vec<_> = there
        .map(|message| message.sequence)
        .filter(|n| *n <= told.cursor)
        .collect();
    assert_eq!(got, there, "the answers that {} was sent", told.name);
    for id in &told.again {
        assert!(
            told.repeated.contains(id),
            "{} was sent the answer to {id} twice and never asked twice",
            told.name
        );
    }
}

/// A new stream from the beginning has every message once, in order.
async fn replayed(site: &Site, stored: &BTreeMap<String, Vec<Message>>) {
    let connection = site.connect();
    for (session, messages) in stored {
        let mut talk = Talk::open(&connection, session, Some(0), false)
            .await
            .expect("a stream can be opened");
        for message in messages {
            assert_eq!(
                talk.next().await.expect("the stream goes on"),
                Some(Frame::Message(message.clone()))
            );
        }
    }
}
