//! Durable SendMessage against bare SQLite with the same batching, and against itself with much in the store.

use anyhow::Result;
use bytes::Bytes;
use nexus_proto::{
    Timestamp,
    orchestrator::v1::{Message, MessageRole},
};
use prost::Message as _;

use super::{CONTENT, Run, SEND_MESSAGE, create_session, create_sessions, fill, note};
use crate::{
    daemons::TempRoot,
    figures::{Figure, Goal, median},
    load::{Pool, Until},
    sqlite::Bare,
    wire::Target,
};

const ROW: &str = "durable";

/// As the orchestrator stores it: the same bytes for both.
pub fn stored() -> Bytes {
    let message = Message {
        id: "0".repeat(32),
        timestamp: Some(Timestamp {
            seconds: 1_700_000_000,
            nanos: 123_456_789,
        }),
        role: MessageRole::System.into(),
        content: "m".repeat(CONTENT),
        sequence: 10_000,
        ..Message::default()
    };
    message.encode_to_vec().into()
}

pub async fn run(run: &Run) -> Result<Vec<Figure>> {
    let place = TempRoot::new(&run.bin, &run.dir)?;
    let orchestrator = place.start("orchestrator").await?;
    let sessions = create_sessions(&orchestrator.socket, 64).await?;
    let bodies: Vec<Bytes> = sessions.iter().map(|session| note(session)).collect();
    let bare = Bare::open(&place.path().join("bare.db"))?;
    let row = stored();

    let mut figures = Vec::new();
    for (in_flight, spread, goal) in [(1, 1, 0.5), (64, 1, 0.5), (64, 64, 0.45)] {
        let ours = Pool::open(Target::new(&orchestrator.socket, SEND_MESSAGE), in_flight.min(8)).await?;
        let (mut rate, mut p99, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=run.pairs {
            let beside = bare.run(&row, spread, in_flight, run.time).await?;
            let before = orchestrator.cpu()?;
            let seen = ours.run(&bodies[..spread], in_flight, Until::Time(run.time)).await?;
            let spent = orchestrator.cpu()? - before;
            if round > 0 {
                rate.push((seen.rate(), beside.rate()));
                p99.push((seen.quantile(0.99), beside.quantile(0.99)));
                cpu.push(spent.as_secs_f64() * 1e6 / seen.calls() as f64);
            }
        }
        let name = |what| format!("SendMessage {what}, {in_flight} in flight, sessions: {spread}");
        figures.push(Figure::pairs(ROW, name("rate"), "/s", &rate).goal(Goal::AtLeast(goal)));
        figures.push(Figure::pairs(ROW, name("p99"), "us", &p99));
        figures.push(Figure::alone(ROW, name("CPU of the server"), "us", median(cpu)));
    }
    Ok(figures)
}

/// The same calls on a store with 100,000 messages and on one with 100.
pub async fn grown(run: &Run) -> Result<Vec<Figure>> {
    let full = TempRoot::new(&run.bin, &run.dir)?;
    let full = (full.start("orchestrator").await?, full);
    let session = create_session(&full.0.socket).await?;
    fill(&full.0.socket, std::slice::from_ref(&session), 100_000).await?;
    // Few calls at a time, so that both see the same disk; the young one is made anew before it has seen many.
    let (stores, turns) = if run.quick { (2, 2) } else { (7, 4) };
    let calls = Until::Calls(2_500);
    let mut rate = Vec::new();
    for _ in 0..stores {
        let young = TempRoot::new(&run.bin, &run.dir)?;
        let young = (young.start("orchestrator").await?, young);
        let first = create_session(&young.0.socket).await?;
        fill(&young.0.socket, std::slice::from_ref(&first), 100).await?;
        let before = Pool::open(Target::new(&young.0.socket, SEND_MESSAGE), 8).await?;
        let after = Pool::open(Target::new(&full.0.socket, SEND_MESSAGE), 8).await?;
        for _ in 0..turns {
            let before = before.run(&[note(&first)], 64, calls).await?.rate();
            let after = after.run(&[note(&session)], 64, calls).await?.rate();
            rate.push((after, before));
        }
    }
    let name = "SendMessage rate, 64 in flight, after 100,000 messages : after 100";
    let figure = Figure::pairs(ROW, name, "/s", &rate).goal(Goal::AtLeast(0.95));
    Ok(vec![figure.note("no slower: within the spread of two equal runs")])
}
