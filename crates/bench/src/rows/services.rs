//! What `nexus services status` costs with everything up and with everything down: time, and the most memory it has at
//! any moment. Beside it stands `systemctl status` of as many services, where a systemd runs.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use super::{Run, start::Up};
use crate::{
    daemons::{DAEMONS, Place},
    figures::{Figure, Goal, median},
};

const ROW: &str = "services";

/// Of one run of a command.
#[derive(Clone, Copy, Debug)]
struct Cost {
    ms: f64,
    /// The peak of its resident memory.
    mb: f64,
}

pub fn run(run: &Run) -> Result<Vec<Figure>> {
    let place = Place::new(&run.bin, &run.dir)?;
    let beside = systemd()?;
    let rounds = if run.quick { 5 } else { 40 };
    let mut figures = Vec::new();
    let up = Up::new(&place)?;
    figures.extend(measured("all up", &place, beside.as_deref(), rounds)?);
    drop(up);
    figures.extend(measured("all down", &place, beside.as_deref(), rounds)?);
    Ok(figures)
}

fn measured(when: &str, place: &Place, beside: Option<&[String]>, rounds: usize) -> Result<Vec<Figure>> {
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        let mut status = place.command("nexus");
        let (ours, done) = cost(status.args(["services", "status"]))?;
        ensure!(done, "nexus services status failed, {when}");
        let theirs = beside.map(|units| {
            let mut systemctl = Command::new("systemctl");
            // Inactive ones are no failure of the command.
            cost(systemctl.args(["status", "--no-pager"]).args(units)).map(|(cost, _)| cost)
        });
        pairs.push((ours, theirs.transpose()?));
    }
    let figure = |what: &str, unit, of: fn(&Cost) -> f64| {
        let name = format!("nexus services status, {when}, {what}");
        let both: Vec<_> = pairs
            .iter()
            .filter_map(|(a, b)| Some((of(a), of(b.as_ref()?))))
            .collect();
        let alone = Figure::alone(ROW, name.clone(), unit, median(pairs.iter().map(|(ours, _)| of(ours))));
        if both.is_empty() {
            return vec![alone.goal(Goal::AtMost(10.0))];
        }
        let ratio = Figure::pairs(ROW, format!("{name}, beside systemctl status"), unit, &both);
        vec![alone.goal(Goal::AtMost(10.0)), ratio]
    };
    let mut figures = figure("time", "ms", |cost| cost.ms);
    figures.extend(figure("peak memory", "MB", |cost| cost.mb));
    Ok(figures)
}

/// Runs it to its end. Its peak only grows while it lives, so that the last look is the one that counts.
fn cost(command: &mut Command) -> Result<(Cost, bool)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn().context("failed to run a status command")?;
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        peak = peak.max(resident(Path::new(&path)));
        std::thread::yield_now();
    };
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    Ok((Cost { ms, mb: peak }, status.success()))
}

/// `VmHWM` in MB; nothing for a process that has just ended.
fn resident(status: &Path) -> f64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    kb.unwrap_or(0.0) * 1.024 / 1e3
}

/// As many running services as we have, of a systemd that runs here.
fn systemd() -> Result<Option<Vec<String>>> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(None);
    }
    let args = [
        "list-units",
        "--type=service",
        "--state=running",
        "--no-legend",
        "--plain",
    ];
    let listed = Command::new("systemctl")
        .args(args)
        .output()
        .context("failed to run systemctl")?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    let units = listed.lines().filter_map(|line| line.split_whitespace().next());
    let units: Vec<String> = units.take(DAEMONS.len()).map(str::to_owned).collect();
    Ok((!units.is_empty()).then_some(units))
}
