//! Commands that share a network: what they have in common, what not, and how their output and input go.

use std::fs;
use std::path::Path;
use std::process::Child;

use nexus_sandbox::collect::{CLOSE, COUNTS, Counts, INPUT, OUTPUT, TAIL, data};
use nexus_sandbox::{Collect, Ended, Run, Started, Terminal};

use crate::helper::{As, everybody, own_dir, shell};
use crate::life::{kill, start};

fn collected(mut run: Run, collect: Collect) -> Run {
    run.collect = Some(collect);
    run
}

const PIPES: Collect = Collect {
    bytes: 1 << 20,
    tty: None,
    stdin: false,
};

fn finish(mut child: Child, state: &Path) -> (String, Counts, Ended) {
    child.wait().unwrap();
    let output = String::from_utf8_lossy(&fs::read(state.join(OUTPUT)).unwrap()).into_owned();
    let counts = serde_json::from_slice(&fs::read(state.join(COUNTS)).unwrap()).unwrap();
    let ended = serde_json::from_slice(&fs::read(state.join("exit.json")).unwrap()).unwrap();
    (output, counts, ended)
}

fn run(user: As, wanted: Run) -> (String, Counts, Ended) {
    let (_dir, state) = own_dir(user);
    let (child, _) = start(user, wanted, &state);
    finish(child, &state)
}

/// The attack: a call looks for processes, names and messages of another one of its session.
#[test]
fn calls_of_a_session_share_their_loopback_and_nothing_else() {
    for user in everybody() {
        let (_dir, state) = own_dir(user);
        let look = "for n in user net pid mnt ipc uts; do readlink /proc/self/ns/$n; done; ls -d /proc/[0-9]*";
        let (mut pause, held): (Child, Started) = start(user, shell("sleep 60"), &state);
        let mut wanted = collected(shell(look), PIPES);
        wanted.network_of = Some(Box::new(held.clone()));
        let (first, _, ended) = run(user, wanted.clone());
        assert_eq!(ended.code, 0, "{user:?}: {first}");
        let (second, _, _) = run(user, wanted.clone());
        let line = |text: &str, index: usize| text.lines().nth(index).unwrap().to_owned();
        assert_eq!(line(&first, 1), line(&second, 1), "{user:?}: one network");
        let of_pause = fs::read_link(format!("/proc/{}/fd/{}", held.monitor.pid, held.namespaces["net"])).unwrap();
        assert_eq!(line(&first, 1), of_pause.display().to_string());
        // Of one that has ended the numbers are given again, so that only the one that runs can be compared with.
        for (index, name) in [(0, "user"), (2, "pid"), (3, "mnt"), (4, "ipc"), (5, "uts")] {
            let of_pause = fs::read_link(format!("/proc/{}/fd/{}", held.monitor.pid, held.namespaces[name])).unwrap();
            assert_ne!(line(&first, index), of_pause.display().to_string(), "{user:?}: {name}");
        }
        assert!(first.lines().count() <= 6 + 4, "only its own processes: {first}");
        kill(held.init.pid);
        pause.wait().unwrap();
        let (_dir, state) = own_dir(user);
        wanted.state = Some(state);
        let done = crate::helper::run(user, wanted);
        assert_eq!(
            done.failed(),
            "join",
            "{user:?}: a network that is gone is not replaced by another one"
        );
    }
}

#[test]
fn output_is_one_file_in_the_order_of_writing_and_what_is_too_much_is_counted() {
    for user in everybody() {
        let (output, counts, ended) = run(user, collected(shell("echo a; echo b >&2; echo c; exit 4"), PIPES));
        assert_eq!((output.as_str(), ended.code), ("a\nb\nc\n", 4));
        assert_eq!((counts.bytes, counts.newlines, counts.kept), (6, 3, 6));

        let (_dir, state) = own_dir(user);
        let flood = shell("yes 012345678 | head -c 3000000; echo the end");
        let (child, _) = start(user, collected(flood, PIPES), &state);
        let (output, counts, _) = finish(child, &state);
        assert_eq!(output.len(), 1 << 20);
        assert_eq!(
            (counts.bytes, counts.newlines, counts.kept),
            (3_000_008, 300_001, 1 << 20)
        );
        let tail = fs::read(state.join(TAIL)).unwrap();
        assert!(tail.len() == 64 << 10 && tail.ends_with(b"012345678\nthe end\n"));
    }
}

/// A caller that dies as soon as the command runs is not to be heard of by the command.
#[test]
fn the_death_of_its_caller_is_nothing_to_a_command() {
    for user in everybody() {
        let (_dir, state) = own_dir(user);
        let mut wanted = collected(shell("sleep 0.3; echo still here"), PIPES);
        wanted.state = Some(state.clone());
        let mut child = crate::helper::command(user)
            .args(["--status-fd", "1"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody reads its reports.
        drop(child.stdout.take());
        crate::helper::send(&mut child, &nexus_sandbox::Request::Run(Box::new(wanted)));
        let (output, _, ended) = finish(child, &state);
        assert_eq!((output.as_str(), ended.code), ("still here\n", 0), "{user:?}");
    }
}

#[test]
fn input_comes_over_a_fifo_and_ends() {
    for user in everybody() {
        let (_dir, state) = own_dir(user);
        let collect = Collect { stdin: true, ..PIPES };
        let (child, _) = start(
            user,
            collected(shell("read a; echo got $a; cat; echo over"), collect),
            &state,
        );
        let mut fifo = fs::File::options().write(true).open(state.join(INPUT)).unwrap();
        for frame in [data(b"one\ntw"), data(b"o\n"), CLOSE.to_vec()] {
            std::io::Write::write_all(&mut fifo, &frame).unwrap();
        }
        let (output, _, _) = finish(child, &state);
        assert_eq!(output, "got one\ntwo\nover\n");
        assert!(!state.join(INPUT).exists());
    }
}

#[test]
fn a_terminal_is_the_sandboxs_own() {
    for user in everybody() {
        let (_dir, state) = own_dir(user);
        let collect = Collect {
            tty: Some(Terminal { columns: 120, rows: 40 }),
            stdin: true,
            ..PIPES
        };
        let script = "tty; stty size; read a; echo got $a; sleep 60";
        let (child, _) = start(user, collected(shell(script), collect), &state);
        let mut fifo = fs::File::options().write(true).open(state.join(INPUT)).unwrap();
        std::io::Write::write_all(&mut fifo, &data(b"hello\n")).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !fs::read_to_string(state.join(OUTPUT)).unwrap().contains("got hello") {
            assert!(
                std::time::Instant::now() < until,
                "{:?}",
                fs::read_to_string(state.join(OUTPUT))
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // What is typed as ^C ends what runs.
        std::io::Write::write_all(&mut fifo, &data(&[3])).unwrap();
        let (output, _, ended) = finish(child, &state);
        // What was typed early is shown in between.
        assert!(
            output.contains("/dev/pts/0\r\n") && output.contains("40 120\r\n"),
            "{output:?}"
        );
        assert_eq!(ended.code, 130, "{output:?}");
    }
}
