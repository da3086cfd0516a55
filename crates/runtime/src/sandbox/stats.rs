//! The resource usage of a running sandbox: from its control groups, or from `/proc` where it has none.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nexus_sandbox::{Run, Started};

use super::process;
use crate::Stats;

pub fn stats(run: &Run, started: &Started) -> Stats {
    let dir = |controller: &str| started.cgroups.get(controller).map(Path::new);
    let memory = dir("memory")
        .and_then(|dir| number(&dir.join("memory.current")).or_else(|| number(&dir.join("memory.usage_in_bytes"))));
    let pids = dir("pids").and_then(|dir| number(&dir.join("pids.current")));
    let cpu = dir("cpuacct")
        .and_then(|dir| number(&dir.join("cpuacct.usage")).map(Duration::from_nanos))
        .or_else(|| dir("cpu").and_then(|dir| usage(&dir.join("cpu.stat"))));
    let mut stats = Stats {
        memory_limit: if dir("memory").is_some() {
            run.limits.memory.unwrap_or(0)
        } else {
            0
        },
        ..Stats::default()
    };
    let by_process = (memory.is_none() || pids.is_none() || cpu.is_none()).then(|| process::used(started.init.pid));
    let used = by_process.unwrap_or_default();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    stats.memory_bytes = memory.unwrap_or_else(|| used.pages * rustix::param::page_size() as u64);
    stats.pids = pids.unwrap_or(used.threads);
    stats.cpu = cpu.unwrap_or_else(|| Duration::from_millis(used.ticks * 1000 / ticks));
    stats
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn usage(path: &Path) -> Option<Duration> {
    let text = fs::read_to_string(path).ok()?;
    let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    micros.trim().parse().ok().map(Duration::from_micros)
}
