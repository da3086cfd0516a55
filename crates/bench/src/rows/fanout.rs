//! Fifty readers of all events while 64 callers send messages.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::watch;

use super::{Run, SEND_MESSAGE, create_session, create_sessions, note};
use crate::{
    daemons::TempRoot,
    events::Reader,
    figures::{Figure, Goal, median},
    load::{Pool, Until},
    rows::durable::stored,
    sqlite::Bare,
    wire::Target,
};

const ROW: &str = "fanout";
const READERS: usize = 50;
const CALLERS: usize = 64;

pub async fn run(run: &Run) -> Result<Vec<Figure>> {
    let place = TempRoot::new(&run.bin, &run.dir)?;
    let orchestrator = place.start("orchestrator").await?;
    let sessions = create_sessions(&orchestrator.socket, CALLERS).await?;
    let bodies: Vec<_> = sessions.iter().map(|session| note(session)).collect();
    let pool = Pool::open(Target::new(&orchestrator.socket, SEND_MESSAGE), 8).await?;

    let bare = Bare::open(&place.path().join("bare.db"))?;
    let row = stored();
    let (mut delivered, mut sent) = (Vec::new(), Vec::new());
    for round in 0..=run.pairs {
        let disk = bare.run(&row, CALLERS, CALLERS, run.time / 4).await?;
        let start = newest(&orchestrator.socket).await?;
        // Readers learn here up to where there is something to read, once the last message is stored.
        let (end, told) = watch::channel(u64::MAX);
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let reader = Reader::open(&orchestrator.socket, Some(start)).await?;
            readers.push(tokio::spawn(read(reader, told.clone())));
        }
        let begin = Instant::now();
        let seen = pool.run(&bodies, CALLERS, Until::Time(run.time)).await?;
        let stored = (seen.rate() * seen.elapsed.as_secs_f64()).round() as u64;
        end.send_replace(start + stored);
        let mut events = 0;
        for reader in readers {
            let reader = reader.await.context("a reader panicked")??;
            ensure!(
                reader.events == stored,
                "a reader saw {} of {stored} events",
                reader.events
            );
            events += reader.events;
        }
        if round > 0 {
            delivered.push(events as f64 / begin.elapsed().as_secs_f64());
            sent.push((seen.rate(), disk.rate()));
        }
    }
    Ok(vec![
        Figure::alone(ROW, "events delivered to 50 readers together", "/s", median(delivered))
            .goal(Goal::AtLeast(1e6))
            .note("none lost: every sequence seen by every reader"),
        Figure::pairs(ROW, "SendMessage rate beside them, 64 in flight", "/s", &sent)
            .note("the yardstick is bare SQLite without readers: more than this no reader can be told"),
    ])
}

async fn read(mut reader: Reader, mut end: watch::Receiver<u64>) -> Result<Reader> {
    loop {
        let last = *end.borrow_and_update();
        if reader.at >= last {
            return Ok(reader);
        }
        tokio::select! {
            more = reader.more() => more?,
            changed = end.changed() => changed.context("the senders failed")?,
        }
    }
}

/// Where the log stands: a reader of what comes from now on is shown a session's making.
async fn newest(socket: &Path) -> Result<u64> {
    let mut reader = Reader::open(socket, None).await?;
    create_session(socket).await?;
    while reader.events == 0 {
        reader.more().await?;
    }
    Ok(reader.at)
}
