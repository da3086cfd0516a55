//! Not a check of speed, which other work on the machine decides: prints what a run takes beside `unshare` and bwrap.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nexus_sandbox::Request;

use crate::helper::{everybody, send, shell};

/// `cargo test -p nexus-sandbox --profile dist --test escape -- --ignored --nocapture create_to_exit`
#[test]
#[ignore = "a measurement"]
fn create_to_exit() {
    const ROUNDS: usize = 200;
    let helper = env!("CARGO_BIN_EXE_nexus-sandbox");
    let mut wanted = shell("");
    wanted.command = vec!["/bin/true".into()];
    let mut limited = wanted.clone();
    limited.limits.memory = Some(512 << 20);
    limited.limits.nano_cpus = Some(1_000_000_000);
    limited.limits.pids = Some(256);
    let quiet = |command: &mut Command| {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let sandbox = |run: &nexus_sandbox::Run| {
        let mut child = Command::new(helper)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        send(&mut child, &Request::Run(Box::new(run.clone())));
        child.wait().unwrap().success()
    };
    let unshare = || quiet(Command::new("unshare").args(["-Urmpfniu", "--mount-proc", "/bin/true"]));
    let bwrap = || {
        let args = [
            "--unshare-all",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/tmp",
            "/bin/true",
        ];
        quiet(Command::new("bwrap").args(args))
    };
    let plain = || quiet(&mut Command::new("/bin/true"));
    let first = || sandbox(&wanted);
    let second = || sandbox(&limited);
    let runners: [(&str, &dyn Fn() -> bool); 5] = [
        ("/bin/true", &plain),
        ("unshare", &unshare),
        ("bwrap", &bwrap),
        ("nexus-sandbox", &first),
        ("nexus-sandbox, limits", &second),
    ];
    println!("{:?}", everybody());
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); runners.len()];
    for _ in 0..ROUNDS {
        for ((_, runner), times) in runners.iter().zip(&mut times) {
            let begin = Instant::now();
            if runner() {
                times.push(begin.elapsed());
            }
        }
    }
    for ((name, _), times) in runners.iter().zip(&mut times) {
        times.sort();
        match times.len() {
            0 => println!("{name:24} does not work here"),
            n => println!(
                "{name:24} p50 {:>8.2?}  p95 {:>8.2?}",
                times[n / 2],
                times[n * 95 / 100]
            ),
        }
    }
}
