//! What `nexus services status` costs with everything up and with everything down: time, and the most memory it has at
//! any moment. Beside it stands `systemctl status` of as many services, where a systemd runs.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{Run, start::Up};
use crate::{
    daemons::{DAEMONS, TempRoot},
    figures::{Figure, Goal, median},
};

const ROW: &str = "services";
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Of one run of a command.
#[derive(Clone, Copy, Debug)]
struct Cost {
    ms: f64,
    /// The peak of its resident memory.
    mb: f64,
}

pub fn run(run: &Run) -> Result<Vec<Figure>> {
    let place = TempRoot::new(&run.bin, &run.dir)?;
    let beside = systemd()?;
    let rounds = if run.quick { 5 } else { 40 };
    let mut figures = Vec::new();
    let up = Up::new(&place)?;
    figures.extend(measured("all up", &place, beside.as_deref(), rounds)?);
    drop(up);
    figures.extend(measured("all down", &place, beside.as_deref(), rounds)?);
    Ok(figures)
}

fn measured(when: &str, place: &TempRoot, beside: Option<&[String]>, rounds: usize) -> Result<Vec<Figure>> {
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

/// Runs it to its end, and once more for its memory.
fn cost(command: &mut Command) -> Result<(Cost, bool)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let status = command.status().context("failed to run a status command")?;
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    Ok((Cost { ms, mb: peak(command)? }, status.success()))
}

/// Its peak as it speaks: by then it has seen everything, and a pipe that is full holds it there.
fn peak(command: &mut Command) -> Result<f64> {
    let (mut reader, writer) = io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    while (&writer).write(&[b' '; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    let mut child = command.stdout(writer).spawn()?;
    // This end of the writer goes with the command's.
    command.stdout(Stdio::null());
    let of = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
    let begin = Instant::now();
    while !of("wchan").contains("pipe") {
        ensure!(begin.elapsed() < PATIENCE, "a status command says nothing");
        std::thread::sleep(LOOK_AGAIN);
    }
    let status = of("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    io::copy(&mut reader, &mut io::sink())?;
    child.wait()?;
    Ok(kb.context("the kernel tells no peak of memory")? * 1.024 / 1e3)
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
