//! `nexus-sandbox --probe`: runs an empty sandbox, and reports the result.

use std::process::ExitCode;

use crate::report::{Failed, Probe};
use crate::spec::{Limits, Request, Run};
use crate::sys;

use super::cgroup::Groups;
use super::step::failed;

pub fn main() -> ExitCode {
    let probe = probe();
    println!("{}", serde_json::to_string(&probe).expect("plain data"));
    ExitCode::from(u8::from(probe.failure.is_some()))
}

fn probe() -> Probe {
    let cgroups = Groups::probe().versions();
    let held = |name: &str| (name.to_string(), cgroups.contains_key(name));
    Probe {
        version: env!("CARGO_PKG_VERSION").into(),
        uid: rustix::process::geteuid().as_raw(),
        failure: attempt().err(),
        landlock: sys::landlock_version(),
        seccomp: sys::has_seccomp(),
        enforced: [held("memory"), held("cpu"), ("pids".into(), true)].into(),
        cgroups,
    }
}

/// In a process of its own, as a sandbox is.
fn attempt() -> Result<(), Failed> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let wrong = |error: std::io::Error| failed("probe", error.to_string(), "");
    let mut run = Run::new(["true"]);
    run.limits = Limits {
        pids: Some(16),
        ..Limits::default()
    };
    let mut helper = Command::new("/proc/self/exe")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(wrong)?;
    let mut line = serde_json::to_vec(&Request::Run(Box::new(run))).expect("plain data");
    line.push(b'\n');
    helper.stdin.take().expect("piped").write_all(&line).map_err(wrong)?;
    let output = helper.wait_with_output().map_err(wrong)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed("probe", said.trim().trim_start_matches("nexus-sandbox: "), ""))
}
