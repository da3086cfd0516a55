//! A small call to the model daemon through the orchestrator's front door, and straight to its own socket.

use anyhow::Result;
use bytes::Bytes;

use super::Run;
use crate::{
    daemons::TempRoot,
    figures::Figure,
    load::{Pool, Until},
    wire::Target,
};

const ROW: &str = "door";
const STATUS: &str = "/llm.v1.LLMService/GetStatus";

pub async fn run(run: &Run) -> Result<Vec<Figure>> {
    let place = TempRoot::new(&run.bin, &run.dir)?;
    let mut orchestrator = place.start("orchestrator").await?;
    let llm = place.start("llm").await?;
    orchestrator.knows("llm").await?;

    let mut figures = Vec::new();
    for (connections, in_flight) in [(1, 1), (8, 64)] {
        let door = Pool::open(Target::new(&orchestrator.socket, STATUS), connections).await?;
        let direct = Pool::open(Target::new(&llm.socket, STATUS), connections).await?;
        let (mut p50, mut rate) = (Vec::new(), Vec::new());
        for round in 0..=run.pairs {
            let beside = direct.run(&[Bytes::new()], in_flight, Until::Time(run.time)).await?;
            let seen = door.run(&[Bytes::new()], in_flight, Until::Time(run.time)).await?;
            if round > 0 {
                p50.push((seen.quantile(0.5), beside.quantile(0.5)));
                rate.push((seen.rate(), beside.rate()));
            }
        }
        let name = |what| format!("front door : direct, {what}, {connections} connections, {in_flight} in flight");
        figures.push(Figure::pairs(ROW, name("p50"), "us", &p50));
        figures.push(Figure::pairs(ROW, name("rate"), "/s", &rate));
    }
    Ok(figures)
}
