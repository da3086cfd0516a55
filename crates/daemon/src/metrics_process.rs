//! The numbers of the process itself, read when they are asked for: names and units as Prometheus' own libraries have
//! them, so that any dashboard finds them.

use std::fmt::Write as _;

use nix::unistd::{SysconfVar, sysconf};

/// Beside the number of degraded parts; nothing of the process where there is no `/proc`.
pub(crate) fn text(degraded: usize) -> String {
    let (stat, statm) = (read("stat"), read("statm"));
    let mut out = String::new();
    let version = env!("CARGO_PKG_VERSION");
    let _infallible = writeln!(
        out,
        "# TYPE nexus_build_info gauge\nnexus_build_info{{version=\"{version}\"}} 1"
    );
    let _infallible = writeln!(out, "# TYPE nexus_limping_parts gauge\nnexus_limping_parts {degraded}");
    let mut show = |name: &str, kind: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _infallible = writeln!(out, "# TYPE {name} {kind}\n{name} {value}");
        }
    };
    // The program's name, in parentheses, may hold anything: fields are counted from behind it.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .collect();
    let field = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok());
    let per_second = number(SysconfVar::CLK_TCK);
    let ticks = |value: Option<f64>| Some(value? / per_second?);
    let (user, system) = (ticks(field(11)), ticks(field(12)));
    show(
        "process_cpu_seconds_total",
        "counter",
        user.zip(system).map(|(user, system)| user + system),
    );
    show("process_threads", "gauge", field(17));
    show(
        "process_start_time_seconds",
        "gauge",
        ticks(field(19)).zip(boot_time()).map(|(after, boot)| boot + after),
    );
    let pages = statm
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|text| text.parse::<f64>().ok());
    let resident = pages
        .zip(number(SysconfVar::PAGE_SIZE))
        .map(|(pages, size)| pages * size);
    show("process_resident_memory_bytes", "gauge", resident);
    #[expect(clippy::cast_precision_loss, reason = "nobody has so many files open")]
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as f64);
    show("process_open_fds", "gauge", open);
    out
}

fn read(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "these numbers are small")]
fn number(variable: SysconfVar) -> Option<f64> {
    sysconf(variable).ok().flatten().map(|value| value as f64)
}

/// Seconds since the epoch.
fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_there_and_plausible() {
        let text = text(2);
        assert!(text.contains("nexus_limping_parts 2\n"), "{text}");
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            line.and_then(|line| line.split(' ').nth(1)?.parse().ok())
                .unwrap_or_else(|| panic!("no {name}: {text}"))
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970");
        assert!((now.as_secs_f64() - value("process_start_time_seconds")).abs() < 86_400.0);
    }
}
