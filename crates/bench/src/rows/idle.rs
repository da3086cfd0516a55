//! What each idle daemon takes of the memory: its proportional set size, two seconds after it was last asked anything.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

use super::Run;
use crate::{
    daemons::{DAEMONS, TempRoot},
    figures::{Figure, Goal},
};

const ROW: &str = "idle";
const QUIET: Duration = Duration::from_secs(2);

pub async fn run(_: &Run, place: &TempRoot) -> Result<Vec<Figure>> {
    let mut running = Vec::new();
    for daemon in DAEMONS {
        running.push((daemon, place.start(daemon).await?));
    }
    tokio::time::sleep(QUIET).await;
    let mut figures = Vec::new();
    for (daemon, process) in &running {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid()))?;
        let kb = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
            number.with_context(|| format!("smaps_rollup says no {name}"))
        };
        let own = kb("Private_Clean:")? + kb("Private_Dirty:")?;
        let note = format!(
            "anonymous {:.1}, own {:.1}, RSS {:.1}",
            kb("Anonymous:")? / 1e3,
            own / 1e3,
            kb("Rss:")? / 1e3
        );
        let figure = Figure::alone(ROW, format!("{daemon}, PSS"), "MB", kb("Pss:")? * 1.024 / 1e3);
        figures.push(figure.goal(Goal::AtMost(10.0)).note(note));
    }
    while let Some((_, last)) = running.pop() {
        last.stop().await?;
    }
    Ok(figures)
}
