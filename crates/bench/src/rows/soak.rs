//! Memory of the orchestrator while an assistant answers 100 messages a second: its peak, and how fast it still grows
//! once it has warmed up. The offline model answers, so the run costs nothing.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use nexus_proto::orchestrator::v1::{GetSessionRequest, GetSessionResponse, Message, SendMessageRequest};
use prost::Message as _;
use tokio::time::{MissedTickBehavior, interval};

use super::{CONTENT, GET_SESSION, Run, SEND_MESSAGE, create_sessions};
use crate::{
    daemons::{Running, TempRoot},
    figures::{Figure, Goal},
    wire::{Target, call, call_once, connect},
};

const ROW: &str = "soak";
const SESSIONS: usize = 50;
const RATE: u32 = 100;
/// Time between two looks at the memory.
const LOOK: Duration = Duration::from_secs(1);
/// How long the last answers may take to arrive.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn run(run: &Run) -> Result<Vec<Figure>> {
    let root = TempRoot::new(&run.bin, &run.dir)?;
    let mut orchestrator = root.start("orchestrator").await?;
    let _llm = root.start("llm").await?;
    let _agent = root.start("agent").await?;
    orchestrator.knows("llm").await?;
    let sessions = create_sessions(&orchestrator.socket, SESSIONS).await?;

    let (sent, memory) = load(run, &orchestrator, &sessions).await?;
    answered(&orchestrator, &sessions, sent).await?;

    let peak = memory.iter().map(|(_, mb)| *mb).fold(0.0, f64::max);
    let warm = &memory[memory.len() / 3..];
    let minutes = run.soak.as_secs_f64() / 60.0;
    let note = format!("{sent} messages in {minutes:.1} minutes, every one answered");
    Ok(vec![
        Figure::alone(ROW, "orchestrator, peak of PSS at 100 answers/s", "MB", peak)
            .goal(Goal::AtMost(24.0))
            .note(note),
        Figure::alone(
            ROW,
            "orchestrator, growth of PSS after the first third",
            "MB/h",
            slope(warm),
        )
        .goal(Goal::AtMost(1.0))
        .note("a run of less than an hour overstates it"),
    ])
}

/// Sends at a steady rate, whatever the answers do. Returns how many messages were sent, and the memory over time.
async fn load(run: &Run, orchestrator: &Running, sessions: &[String]) -> Result<(usize, Vec<(f64, f64)>)> {
    let target = Target::new(&orchestrator.socket, SEND_MESSAGE);
    let channel = connect(&target.socket).await?;
    let bodies: Vec<Bytes> = sessions.iter().map(|session| question(session)).collect();
    let begin = Instant::now();
    let (mut sent, mut memory, mut next_look) = (0, Vec::new(), begin);
    let mut tick = interval(Duration::from_secs(1) / RATE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while begin.elapsed() < run.soak {
        tick.tick().await;
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        call(&mut grpc, &target.path, bodies[sent % bodies.len()].clone()).await?;
        sent += 1;
        if Instant::now() >= next_look {
            memory.push((begin.elapsed().as_secs_f64(), pss(orchestrator.pid())?));
            next_look += LOOK;
        }
    }
    ensure!(memory.len() >= 9, "a soak takes at least ten seconds");
    Ok((sent, memory))
}

fn question(session: &str) -> Bytes {
    let request = SendMessageRequest {
        session_id: session.into(),
        message: Some(Message {
            content: "m".repeat(CONTENT),
            ..Message::default()
        }),
    };
    request.encode_to_vec().into()
}

/// Waits until every message has its answer.
async fn answered(orchestrator: &Running, sessions: &[String], sent: usize) -> Result<()> {
    let begin = Instant::now();
    let target = Target::new(&orchestrator.socket, GET_SESSION);
    loop {
        let mut stored = 0;
        for session in sessions {
            let request = GetSessionRequest {
                session_id: session.clone(),
                message_limit: 1,
                ..GetSessionRequest::default()
            };
            let answer = call_once(&target, request.encode_to_vec().into()).await?;
            let answer = GetSessionResponse::decode(answer).context("GetSession answered nonsense")?;
            let context = answer.session.unwrap_or_default().context.unwrap_or_default();
            stored += context.messages.last().map_or(0, |newest| newest.sequence);
        }
        if stored == 2 * sent as u64 {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "{stored} messages are stored after {sent} questions"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Proportional set size in MB.
fn pss(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kib.context("smaps_rollup has no Pss")? * 1.024 / 1e3)
}

/// MB an hour, by least squares over (seconds, MB).
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let rise: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let run: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    rise / run * 3600.0
}

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn a_slope_is_told_in_mb_an_hour() {
        let points: Vec<(f64, f64)> = (0..60).map(|s| (f64::from(s), 10.0 + f64::from(s) / 3600.0)).collect();
        assert!((slope(&points) - 1.0).abs() < 1e-6);
    }
}
