//! GetSession against a bare tonic server that answers as many bytes to as many bytes.

use anyhow::Result;
use bytes::Bytes;
use nexus_proto::orchestrator::v1::GetSessionRequest;
use prost::Message;

use super::{GET_SESSION, Run, create_session, fill};
use crate::{
    daemons::{Running, TempRoot},
    echo::{Blob, UNARY},
    figures::{Figure, Goal},
    load::{Pool, Seen, Until},
    wire::{Target, call_once},
};

const ROW: &str = "unary";
const MESSAGES: usize = 5;

pub async fn run(run: &Run) -> Result<Vec<Figure>> {
    let place = TempRoot::new(&run.bin, &run.dir)?;
    let orchestrator = place.start("orchestrator").await?;
    let session = create_session(&orchestrator.socket).await?;
    fill(&orchestrator.socket, std::slice::from_ref(&session), MESSAGES).await?;

    let request = GetSessionRequest {
        session_id: session,
        ..GetSessionRequest::default()
    };
    let request = Bytes::from(request.encode_to_vec());
    let ours = Target::new(&orchestrator.socket, GET_SESSION);
    let answer = call_once(&ours, request.clone()).await?;
    let mut echo = Running::echo(&run.dir, answer.len())?;
    echo.listening().await?;
    let bare = Target::new(&echo.socket, UNARY);
    let blob = Bytes::from(Blob::of_size(request.len()).encode_to_vec());

    let mut figures = Vec::new();
    for (connections, in_flight) in [(1, 1), (8, 64)] {
        let ours = Pool::open(ours.clone(), connections).await?;
        let bare = Pool::open(bare.clone(), connections).await?;
        let (mut p50, mut p99, mut rate, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..=run.pairs {
            let (beside, bare_cpu) = each(&echo, &bare, &blob, in_flight, run).await?;
            let (seen, our_cpu) = each(&orchestrator, &ours, &request, in_flight, run).await?;
            // The first pair only warms both up.
            if round > 0 {
                p50.push((seen.quantile(0.5), beside.quantile(0.5)));
                p99.push((seen.quantile(0.99), beside.quantile(0.99)));
                rate.push((seen.rate(), beside.rate()));
                cpu.push((our_cpu, bare_cpu));
            }
        }
        let name = |what| format!("GetSession {what}, {connections} connections, {in_flight} in flight");
        let bytes = format!("answer of {} bytes", answer.len());
        let rate = Figure::pairs(ROW, name("rate"), "/s", &rate);
        let p50 = Figure::pairs(ROW, name("p50"), "us", &p50).note(bytes);
        let p99 = Figure::pairs(ROW, name("p99"), "us", &p99);
        let cpu = Figure::pairs(ROW, name("CPU of the server"), "us", &cpu);
        figures.extend(if in_flight == 1 {
            [p50.goal(Goal::AtMost(1.2)), rate, p99, cpu]
        } else {
            [p50, rate.goal(Goal::AtLeast(0.75)), p99, cpu]
        });
    }
    Ok(figures)
}

/// One loop, and the microseconds of a processor that each of its calls cost the server.
async fn each(server: &Running, pool: &Pool, body: &Bytes, in_flight: usize, run: &Run) -> Result<(Seen, f64)> {
    let before = server.cpu()?;
    let seen = pool
        .run(std::slice::from_ref(body), in_flight, Until::Time(run.time))
        .await?;
    let spent = server.cpu()? - before;
    let cpu = spent.as_secs_f64() * 1e6 / seen.calls() as f64;
    Ok((seen, cpu))
}
