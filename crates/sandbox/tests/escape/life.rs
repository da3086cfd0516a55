//! From start to end: exit codes, signals, logs, and the death of the helper.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nexus_sandbox::log::{parse, segment, segments};
use nexus_sandbox::{Ended, Join, Report, Request, Run, Started};
use rustix::process::{Pid, Signal, kill_process};

use crate::helper::{As, command, everybody, join, own_dir, run, send, shell};

pub fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// A sandbox that goes on, its files in `state`.
pub fn start(user: As, mut wanted: Run, state: &Path) -> (Child, Started) {
    wanted.state = Some(state.into());
    let mut child = command(user)
        .args(["--status-fd", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    send(&mut child, &Request::Run(Box::new(wanted)));
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    match serde_json::from_str(&line).unwrap() {
        Report::Started(started) => (child, started),
        other => panic!("{other:?}"),
    }
}

fn ended(state: &Path) -> Ended {
    serde_json::from_slice(&fs::read(state.join("exit.json")).unwrap()).unwrap()
}

/// Everything in the log: stdout, stderr.
fn logged(state: &Path) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    for number in segments(state).unwrap() {
        let bytes = fs::read(segment(state, number)).unwrap();
        let (records, used) = parse(&bytes).unwrap();
        assert_eq!(used, bytes.len(), "whole records only");
        for record in records {
            if record.stderr {
                err.extend(record.bytes)
            } else {
                out.extend(record.bytes)
            }
        }
    }
    (out, err)
}

#[test]
fn the_end_is_told_as_it_was() {
    for user in everybody() {
        for (script, code, signal) in [
            ("exit 0", 0, None),
            ("exit 7", 7, None),
            ("kill -TERM $$", 143, Some(15)),
        ] {
            let done = run(user, shell(script)).ran();
            let Some(Report::Exited(ended)) = done.reports.last() else {
                panic!("{done:?}")
            };
            assert_eq!(
                (done.code, ended.code, ended.signal, ended.oom),
                (code, code, signal, false)
            );
        }
    }
}

#[test]
fn a_command_that_is_not_there_is_a_failure_of_its_own() {
    for user in everybody() {
        for command in ["no-such-command", "/no/such/command", "/etc"] {
            let done = run(user, Run::new([command]));
            assert_eq!((done.failed(), done.code), ("exec", 125));
        }
        let mut wanted = shell("true");
        wanted.workdir = "/nowhere".into();
        assert_eq!(run(user, wanted).failed(), "workdir");
    }
}

#[test]
fn a_flood_is_logged_to_the_last_byte_with_both_streams_apart() {
    for user in everybody() {
        let (_dir, state) = own_dir(user);
        let wanted = shell("i=0; while [ $i -lt 3000 ]; do echo out-$i; echo err-$i >&2; i=$((i+1)); done; seq 200000");
        let (mut child, _) = start(user, wanted, &state);
        assert!(child.wait().unwrap().success());
        let (out, err) = logged(&state);
        let mut expected: String = (0..3000).map(|i| format!("out-{i}\n")).collect();
        expected.extend((1..=200_000).map(|i| format!("{i}\n")));
        assert!(out == expected.as_bytes(), "{} of {} bytes", out.len(), expected.len());
        assert_eq!(
            err,
            (0..3000).map(|i| format!("err-{i}\n")).collect::<String>().into_bytes()
        );
        assert_eq!(ended(&state).code, 0);
    }
}

#[test]
fn the_log_keeps_its_newest_within_its_bound() {
    let user = everybody()[0];
    let (_dir, state) = own_dir(user);
    let mut wanted = shell("seq 1000000");
    wanted.log_bytes = 2 << 20;
    let (mut child, _) = start(user, wanted, &state);
    assert!(child.wait().unwrap().success());
    let numbers = segments(&state).unwrap();
    let total: u64 = numbers
        .iter()
        .map(|number| fs::metadata(segment(&state, *number)).unwrap().len())
        .sum();
    assert!(total <= (2 << 20) + (1 << 18), "{total}");
    assert!(numbers[0] > 0, "what was dropped shows in the numbers");
    assert!(logged(&state).0.ends_with(b"\n1000000\n"));
}

/// The attack: a container that is started again and again, each time with a log of its own.
#[test]
fn the_logs_of_all_runs_share_one_bound() {
    let user = everybody()[0];
    let (_dir, state) = own_dir(user);
    for run in 0..12 {
        let mut wanted = shell(&format!("seq 30000; echo run-{run}"));
        wanted.log_bytes = 1 << 20;
        let (mut child, _) = start(user, wanted, &state);
        assert!(child.wait().unwrap().success());
    }
    let size = |number: &u64| fs::metadata(segment(&state, *number)).unwrap().len();
    let total: u64 = segments(&state).unwrap().iter().map(size).sum();
    assert!(total <= (1 << 20) + (1 << 18), "{total}");
    assert!(logged(&state).0.ends_with(b"run-11\n"));
}

#[test]
fn a_signal_to_the_helper_reaches_the_command() {
    for user in everybody() {
        let (_dir, state) = own_dir(user);
        let (mut child, started) = start(
            user,
            shell("trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done"),
            &state,
        );
        wait_until("it is ready", || logged(&state).0.starts_with(b"ready"));
        kill_process(Pid::from_raw(started.monitor.pid).unwrap(), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        assert_eq!(logged(&state).0, b"ready\ntold\n");
        assert_eq!(ended(&state).code, 3);
    }
}

#[test]
fn killing_the_helper_kills_everything_in_it() {
    for user in everybody() {
        let (_dir, state) = own_dir(user);
        let (mut child, started) = start(user, shell("setsid sleep 600 & sleep 600"), &state);
        kill(started.monitor.pid);
        child.wait().unwrap();
        let gone = || !Path::new(&format!("/proc/{}", started.init.pid)).exists();
        wait_until("pid 1 is gone, and with it its namespace", gone);
        for dir in started.cgroups.values() {
            wait_until("its control groups are empty", || {
                fs::read_to_string(format!("{dir}/cgroup.procs")).unwrap().is_empty()
            });
            wait_until("they can be removed", || {
                fs::remove_dir(dir).is_ok() || !Path::new(dir).exists()
            });
        }
    }
}

#[test]
fn no_control_group_is_left_behind() {
    for user in everybody() {
        let (_dir, state) = own_dir(user);
        let mut wanted = shell("true");
        wanted.limits.memory = Some(64 << 20);
        wanted.limits.pids = Some(30);
        let (mut child, started) = start(user, wanted, &state);
        child.wait().unwrap();
        for dir in started.cgroups.values() {
            assert!(!Path::new(dir).exists(), "{dir}");
        }
    }
}

#[test]
fn one_more_command_is_held_by_everything_that_holds_the_first() {
    for user in everybody() {
        let (_dir, state) = own_dir(user);
        let mut first = shell("echo here > /tmp/mark; sleep 600");
        first.limits.pids = Some(50);
        let (mut child, started) = start(user, first.clone(), &state);
        let mut second = first;
        second.command[2] = "until [ -e /tmp/mark ]; do sleep 0.02; done; cat /tmp/mark; \
            grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp:)' /proc/self/status | tr -s '\\t\\n' '  '; \
            ls /proc/1/fd 2>/dev/null; touch /usr/x 2>/dev/null && echo wrote; unshare -U true 2>/dev/null && echo user; \
            ls /proc/self/fd | tr '\\n' ' '; id -u"
            .into();
        let done = join(
            user,
            Join {
                started: started.clone(),
                run: second.clone(),
            },
        )
        .ran();
        done.prints("here\nCapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 0 1 2 3 1000");
        second.command = vec!["no-such".into()];
        assert_eq!(
            join(
                user,
                Join {
                    started: started.clone(),
                    run: second.clone()
                }
            )
            .failed(),
            "exec"
        );
        kill(started.init.pid);
        assert_eq!(child.wait().unwrap().code(), Some(137));
        assert_eq!(join(user, Join { started, run: second }).failed(), "join");
    }
}

/// Looks again and again, and gives up in the end.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not in 30 s: {what}");
        std::thread::yield_now();
    }
}
