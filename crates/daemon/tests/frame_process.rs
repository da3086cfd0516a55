//! The same daemon as a process: command line, exit codes, signals, logs, the service manager.
//!
//! No test harness: this program is the daemon too, started by its own tests with `FRAME_PROBE` set.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

#[path = "frame/probe.rs"]
mod probe;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    if std::env::var_os("FRAME_PROBE").is_some() {
        return nexus_daemon::main::<probe::Probe>();
    }
    let tests: &[(&str, fn())] = &[
        ("help_teaches_and_version_answers", help_teaches_and_version_answers),
        ("a_wrong_command_line_is_64", a_wrong_command_line_is_64),
        (
            "check_config_lists_every_mistake_and_creates_nothing",
            check_config_lists_every_mistake_and_creates_nothing,
        ),
        ("dump_config_reads_back", dump_config_reads_back),
        (
            "ready_is_said_once_and_stop_flushes",
            ready_is_said_once_and_stop_flushes,
        ),
        ("an_interrupt_stops_too", an_interrupt_stops_too),
        ("failures_have_their_own_codes", failures_have_their_own_codes),
        ("a_taken_socket_is_75", a_taken_socket_is_75),
        ("a_stop_during_boot_is_a_stop", a_stop_during_boot_is_a_stop),
        ("hangup_applies_what_is_live", hangup_applies_what_is_live),
        ("a_broken_file_changes_nothing", a_broken_file_changes_nothing),
        (
            "a_second_signal_ends_even_a_hanging_daemon",
            a_second_signal_ends_even_a_hanging_daemon,
        ),
        (
            "the_watchdog_is_fed_only_while_calls_are_answered",
            the_watchdog_is_fed_only_while_calls_are_answered,
        ),
        ("json_logs_are_json", json_logs_are_json),
        ("rust_log_wins", rust_log_wins),
        ("a_panic_is_logged_with_its_place", a_panic_is_logged_with_its_place),
        (
            "logs_are_kept_once_in_a_private_file",
            logs_are_kept_once_in_a_private_file,
        ),
        ("many_threads_serve_as_well", many_threads_serve_as_well),
    ];
    run(tests)
}

/// As much of a harness as `cargo test -- NAME` needs.
fn run(tests: &[(&str, fn())]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let names: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part.as_str()));
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        World {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("nexus")
    }

    fn socket(&self) -> PathBuf {
        self.root().join("state/run/agent-probe.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root().join("state/logs/agent-probe.log")).unwrap()
    }

    fn file(&self, text: &str) -> String {
        let path = self.dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .env_clear()
            .env("FRAME_PROBE", "1")
            .env("HOME", self.dir.path())
            .env("NEXUS_ROOT", self.root());
        command.args(args).stdin(Stdio::null());
        command
    }

    fn output(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn start(&self, args: &[&str]) -> Process {
        Process::start(self.command(args))
    }
}

struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    fn start(mut command: Command) -> Process {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Process {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The first line from now on that has all these parts.
    fn line(&mut self, parts: &[&str]) -> String {
        let end = Instant::now() + SOON;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.seen.push(line.clone());
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
        panic!("no line with {parts:?} after {:#?}", self.seen);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// The exit code and everything that was logged.
    fn ended(mut self) -> (i32, Vec<String>) {
        let end = Instant::now() + SOON;
        let mut seen = std::mem::take(&mut self.seen);
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            seen.push(line);
        }
        assert!(Instant::now() < end, "still running after {seen:#?}");
        (self.child.wait().unwrap().code().unwrap(), seen)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Of an ended process neither works, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a service manager listens on.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(dir: &Path) -> Manager {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Manager { socket, path }
    }

    fn told(&self) -> std::io::Result<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

fn help_teaches_and_version_answers() {
    let world = World::new();
    let (code, out, _) = world.output(&["--help"]);
    assert_eq!(code, 0);
    for part in [
        "nexus-agent",
        "--check-config",
        "--greeting",
        "--grpc-max-recv-msg-size",
        "NEXUS_AGENT__KEY",
        "NEXUS_COMMON__KEY",
        "socket_path",
        "also GREETING",
        "78   the settings are wrong",
        "SIGHUP",
    ] {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    let (code, out, _) = world.output(&["--version"]);
    assert_eq!(
        (code, out.trim()),
        (0, concat!("nexus-agent ", env!("CARGO_PKG_VERSION")))
    );
}

fn a_wrong_command_line_is_64() {
    let world = World::new();
    let (code, _, err) = world.output(&["--greting", "x"]);
    assert_eq!(code, 64);
    assert!(err.contains("--greeting"), "the nearest is named: {err}");
    assert_eq!(world.output(&["--set", "greeting"]).0, 64);
    assert_eq!(world.output(&["run"]).0, 64);
    // What existing start scripts say.
    assert_eq!(world.output(&["serve", "--log-level", "info", "--check-config"]).0, 0);
    assert_eq!(
        world
            .output(&["--grpc-max-send-msg-size", "1048576", "--check-config"])
            .0,
        0
    );
}

fn check_config_lists_every_mistake_and_creates_nothing() {
    let world = World::new();
    let (code, out, err) = world.output(&["--check-config"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "ok\n", ""));

    let file = world.file("[agent]\ngreting = \"x\"\nflush_takes = 5\n[common]\nroles = { \"uid:1\" = \"king\" }\n");
    let mut command = world.command(&["--config", &file, "--check-config", "--set", "low=10"]);
    let Output { status, stdout, stderr } = command
        .env("RUST_LOG", "x=loud")
        .env("NEXUS_AGENT__LO", "1")
        .output()
        .unwrap();
    let err = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), stdout.as_slice()), (Some(78), b"".as_slice()), "{err}");
    for part in [
        "6 mistakes",
        ":2: agent.greting: there is no such setting; did you mean \"greeting\"?",
        ":3: agent.flush_takes = \"5\": a duration needs a unit",
        ":5: common.roles: \"uid:1\": unknown role \"king\"",
        "environment NEXUS_AGENT__LO: there is no such setting; did you mean \"NEXUS_AGENT__LOW\"?",
        "low (10) is above high (9)",
        "RUST_LOG",
    ] {
        assert!(err.contains(part), "{part} is not in\n{err}");
    }
    assert!(!world.root().exists());
    let (code, _, started) = world.output(&["--config", &file]);
    assert_eq!(code, 78, "{started}");
}

fn dump_config_reads_back() {
    let world = World::new();
    let file = world.file("[agent]\ngreeting = \"from file\"\n");
    let dump = |file: &str, env: &[(&str, &str)]| {
        let mut command = world.command(&["--config", file, "--dump-config", "--log-level", "debug"]);
        let Output { status, stdout, .. } = command.envs(env.iter().copied()).output().unwrap();
        assert!(status.success());
        String::from_utf8(stdout).unwrap()
    };
    let first = dump(&file, &[("NEXUS_AGENT__LOW", "3"), ("NEXUS_AGENT__WORD", "hunter2")]);
    assert!(
        first.contains(&format!("greeting = \"from file\"  # {file}:2\n")),
        "{first}"
    );
    assert!(first.contains("low = 3  # environment NEXUS_AGENT__LOW\n"), "{first}");
    assert!(first.contains("log_level = \"debug\"  # flag --log-level\n"), "{first}");
    assert!(first.contains("high = 9  # default\n"), "{first}");
    assert!(!first.contains("hunter2"), "{first}");
    let again = dump(&world.file(&first), &[]);
    assert!(
        again.contains("low = 3  # ") && again.contains("greeting = \"from file\""),
        "{again}"
    );
}

fn ready_is_said_once_and_stop_flushes() {
    let world = World::new();
    let manager = Manager::new(world.dir.path());
    let mut command = world.command(&["--greeting", "hi"]);
    command.env("NOTIFY_SOCKET", &manager.path);
    let begun = Instant::now();
    let mut process = Process::start(command);
    let ready = manager.told().unwrap();
    println!(
        "     exec to READY=1 of an empty daemon, unoptimised: {:?}",
        begun.elapsed()
    );
    assert!(ready.contains("READY=1\n"), "{ready}");
    std::os::unix::net::UnixStream::connect(world.socket()).unwrap();
    process.line(&["ready", "agent-probe.sock"]);
    process.signal(Signal::SIGTERM);
    let stopping = manager.told().unwrap();
    assert!(stopping.contains("STOPPING=1\n"), "{stopping}");
    let (code, lines) = process.ended();
    assert_eq!(code, 0, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("greeting=\"hi\"")), "{lines:#?}");
    let place = |part: &str| lines.iter().position(|line| line.contains(part)).unwrap();
    assert!(place("SIGTERM") < place("flushed") && place("flushed") < place("stopped"));
    assert!(!world.socket().exists());
}

fn an_interrupt_stops_too() {
    let world = World::new();
    let mut process = world.start(&[]);
    process.line(&["ready"]);
    process.signal(Signal::SIGINT);
    assert_eq!(process.ended().0, 0);
}

fn failures_have_their_own_codes() {
    for (fail, code, said) in [
        ("data", 65, "damaged at 4711"),
        ("failed", 70, "out of luck"),
        ("config", 78, "second"),
    ] {
        let world = World::new();
        let (found, _, err) = world.output(&["--set", &format!("fail={fail}")]);
        assert_eq!(found, code, "{err}");
        assert!(err.contains(said), "{err}");
        assert!(!world.socket().exists());
    }
    let world = World::new();
    std::fs::write(world.root(), "a file").unwrap();
    let (code, _, err) = world.output(&[]);
    assert_eq!(code, 70);
    assert!(err.contains("NEXUS_ROOT"), "{err}");
}

fn a_taken_socket_is_75() {
    let world = World::new();
    let mut first = world.start(&[]);
    first.line(&["ready"]);
    let (code, _, err) = world.output(&[]);
    assert_eq!(code, 75, "{err}");
    assert!(err.contains("agent-probe.sock") && err.contains("uid "), "{err}");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.ended().0, 0);
}

fn a_stop_during_boot_is_a_stop() {
    let world = World::new();
    let mut process = world.start(&["--set", "fail=hang"]);
    process.line(&["building"]);
    process.signal(Signal::SIGTERM);
    let (code, lines) = process.ended();
    assert_eq!(code, 0, "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.contains("before it was ready")),
        "{lines:#?}"
    );
    assert!(!world.socket().exists());
}

fn hangup_applies_what_is_live() {
    let world = World::new();
    let manager = Manager::new(world.dir.path());
    let file = world.file("[agent]\nhigh = 50\n");
    let mut command = world.command(&["--config", &file]);
    command.env("NOTIFY_SOCKET", &manager.path);
    let mut process = Process::start(command);
    process.line(&["ready"]);
    assert!(manager.told().unwrap().contains("READY=1"));

    world.file("[agent]\nhigh = 60\ngreeting = \"changed\"\n[common]\nlog_level = \"debug\"\nmax_streams = 5\n");
    process.signal(Signal::SIGHUP);
    let line = process.line(&["reloaded", "greeting=\"changed\""]);
    assert!(line.contains("high=50"), "what is not live is not passed on: {line}");
    let line = process.line(&["settings read again"]);
    assert!(
        line.contains("agent.greeting") && line.contains("common.log_level"),
        "{line}"
    );
    let line = process.line(&["not in force before a restart"]);
    assert!(
        line.contains("agent.high") && line.contains("common.max_streams"),
        "{line}"
    );
    let reloading = manager.told().unwrap();
    assert!(
        reloading.contains("RELOADING=1\n") && reloading.contains("MONOTONIC_USEC="),
        "{reloading}"
    );
    assert!(manager.told().unwrap().contains("READY=1\n"));
    assert!(
        !process.seen.iter().any(|line| line.contains("said at debug")),
        "{:#?}",
        process.seen
    );

    // Back to what it was: the change is told again, so nothing was forgotten.
    world.file("[agent]\nhigh = 50\n");
    process.signal(Signal::SIGHUP);
    process.line(&["reloaded", "greeting=\"hello\""]);
    process.line(&["DEBUG", "said at debug"]);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().0, 0);
}

fn a_broken_file_changes_nothing() {
    let world = World::new();
    let file = world.file("");
    let mut process = world.start(&["--config", &file]);
    process.line(&["ready"]);
    world.file("[agent]\ngreeting = \"x\"\nlow = 200\nlo = 3\n");
    process.signal(Signal::SIGHUP);
    process.line(&["agent.lo: there is no such setting"]);
    process.line(&["agent.low", "must be from 0 to 100"]);
    process.line(&["the old settings stay in force"]);
    // Right in the file, but not beside what stays in force until a restart.
    world.file("[agent]\nlow = 20\nhigh = 30\n");
    process.signal(Signal::SIGHUP);
    process.line(&["change only with a restart", "low (20) is above high (9)"]);
    process.line(&["the old settings stay in force"]);
    world.file("[agent]\ngreeting = \"good\"\n");
    process.signal(Signal::SIGHUP);
    let line = process.line(&["reloaded"]);
    assert!(line.contains("greeting=\"good\"") && line.contains("low=1 "), "{line}");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().0, 0);
}

fn a_second_signal_ends_even_a_hanging_daemon() {
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let world = World::new();
        let file = world.file("");
        let mut process = world.start(&["--config", &file]);
        process.line(&["ready"]);
        world.file("[agent]\nstuck = true\n");
        process.signal(Signal::SIGHUP);
        process.line(&["settings read again"]);
        process.signal(signal);
        process.line(&["stopping"]);
        process.signal(signal);
        assert_eq!(process.ended().0, code);
    }
}

fn the_watchdog_is_fed_only_while_calls_are_answered() {
    let world = World::new();
    let manager = Manager::new(world.dir.path());
    let file = world.file("");
    let mut command = world.command(&["--config", &file]);
    command
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "600000");
    let mut process = Process::start(command);
    process.line(&["ready"]);
    let mut fed = 0;
    while fed < 3 {
        fed += usize::from(manager.told().unwrap().contains("WATCHDOG=1"));
    }
    world.file("[agent]\nstuck = true\n");
    process.signal(Signal::SIGHUP);
    process.line(&["settings read again"]);
    // Up to its next READY it may have been fed; then its thread hangs and for two whole periods nothing comes.
    while !manager.told().unwrap().contains("READY=1") {}
    manager
        .socket
        .set_read_timeout(Some(Duration::from_millis(1200)))
        .unwrap();
    let late = manager.told();
    assert!(late.is_err(), "fed though it answers no call: {late:?}");
}

fn json_logs_are_json() {
    let world = World::new();
    let mut process = world.start(&["--log-format", "json"]);
    process.line(&["ready"]);
    process.signal(Signal::SIGTERM);
    let (code, lines) = process.ended();
    assert_eq!(code, 0);
    let lines: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ready = lines.iter().find(|line| line["message"] == "ready").unwrap();
    assert_eq!(ready["service"], "agent-probe");
    assert_eq!(ready["level"], "INFO");
}

fn rust_log_wins() {
    let world = World::new();
    for filter in ["error", "error,frame_process=error", "error,[x{y=1}]=debug"] {
        let mut command = world.command(&["--log-level", "debug", "--set", "fail=failed"]);
        let Output { stderr, .. } = command.env("RUST_LOG", filter).output().unwrap();
        let err = String::from_utf8(stderr).unwrap();
        assert!(
            err.contains("out of luck") && !err.contains("building"),
            "{filter}: {err}"
        );
    }
}

fn a_panic_is_logged_with_its_place() {
    let world = World::new();
    let mut process = world.start(&["--set", "fail=panic"]);
    let line = process.line(&["panicked: as planned"]);
    assert!(line.contains("ERROR") && line.contains("probe.rs:"), "{line}");
    process.line(&["went on", "panicked=true"]);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().0, 0);
}

fn logs_are_kept_once_in_a_private_file() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let mut process = world.start(&[]);
    process.line(&["ready"]);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().0, 0);
    assert_eq!(world.log().matches("flushed").count(), 1);
    let path = world.root().join("state/logs/agent-probe.log");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // A supervisor that points standard error at the same file gets every line once, too.
    let stderr = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    let mut child = world.command(&["--set", "fail=failed"]).stderr(stderr).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(70));
    assert_eq!(world.log().matches("out of luck").count(), 1);
}

fn many_threads_serve_as_well() {
    let world = World::new();
    let mut process = world.start(&["--set", "worker_threads=3"]);
    process.line(&["ready"]);
    let mut stream = std::os::unix::net::UnixStream::connect(world.socket()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    std::io::Write::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().0, 0);
}
