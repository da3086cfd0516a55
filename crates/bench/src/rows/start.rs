//! From exec to ready, with a store that has data in it: each daemon by itself, and `nexus up` for all.

use std::{path::Path, process::Stdio, time::Instant};

use anyhow::{Context, Result, ensure};

use super::{Run, create_sessions, fill};
use crate::{
    daemons::{DAEMONS, Running, TempRoot},
    figures::{Figure, Goal, median},
};

const ROW: &str = "start";
const SESSIONS: usize = 1_000;
const MESSAGES: usize = 100_000;

/// A tree that has seen use.
pub async fn used(run: &Run) -> Result<TempRoot> {
    let place = TempRoot::new(&run.bin, &run.dir)?;
    let orchestrator = place.start("orchestrator").await?;
    let (sessions, messages) = if run.quick { (100, 10_000) } else { (SESSIONS, MESSAGES) };
    let sessions = create_sessions(&orchestrator.socket, sessions).await?;
    fill(&orchestrator.socket, &sessions, messages).await?;
    orchestrator.stop().await?;
    Ok(place)
}

pub async fn run(run: &Run, place: &TempRoot) -> Result<Vec<Figure>> {
    let rounds = if run.quick { 3 } else { 15 };
    let mut times = DAEMONS.map(|_| Vec::new());
    let mut bare = Vec::new();
    for _ in 0..rounds {
        bare.push(bare_start(&run.dir).await?);
        // The orchestrator comes first and stays, since the others look for it.
        let mut running = Vec::new();
        for (daemon, times) in DAEMONS.into_iter().zip(&mut times) {
            let begin = Instant::now();
            let mut started = place.spawn(daemon)?;
            started.ready().await?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            running.push(started);
        }
        while let Some(last) = running.pop() {
            last.stop().await?;
        }
    }
    let mut figures: Vec<Figure> = DAEMONS
        .into_iter()
        .zip(times)
        .map(|(daemon, times)| {
            Figure::alone(ROW, format!("{daemon}, exec to ready"), "ms", median(times)).goal(Goal::AtMost(40.0))
        })
        .collect();
    let bare = Figure::alone(ROW, "bare tonic server, exec to accepting", "ms", median(bare));
    figures.push(bare.note("the yardstick"));

    let mut up = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        let started = Up::new(place)?;
        up.push(begin.elapsed().as_secs_f64() * 1e3);
        drop(started);
    }
    figures.push(Figure::alone(ROW, "nexus up, all five ready", "ms", median(up)).goal(Goal::AtMost(150.0)));
    Ok(figures)
}

async fn bare_start(under: &Path) -> Result<f64> {
    let begin = Instant::now();
    let mut echo = Running::echo(under, 0)?;
    echo.listening().await?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// Everything up; stopped however this ends.
pub(super) struct Up<'a>(&'a TempRoot);

impl<'a> Up<'a> {
    pub fn new(place: &'a TempRoot) -> Result<Self> {
        let up = Up(place);
        let done = place.command("nexus").arg("up").stdout(Stdio::null()).status();
        let done = done.context("failed to run nexus up")?;
        ensure!(done.success(), "nexus up: {done}");
        Ok(up)
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let down = self.0.command("nexus").arg("down").stdout(Stdio::null()).status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!("nexus down failed for {}", self.0.path().display());
        }
    }
}
