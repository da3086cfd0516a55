//! The orchestrator and a logind: it holds the delay lock, lets it go once it has written down that the host sleeps, and
//! takes it again afterwards.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nexus_tests::{Daemon, PATIENCE, Site, skipped};
use tokio::time::sleep;

use crate::kit::{QUICK, event, length, log_of, logged};

struct Logind {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    address: String,
}

/// Debian's own: its packages are not there for any other.
fn python() -> &'static str {
    let system = "/usr/bin/python3";
    if std::path::Path::new(system).exists() {
        system
    } else {
        "python3"
    }
}

impl Logind {
    fn start() -> Option<Logind> {
        let mut process = Command::new(python())
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/wake/logind.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let mut address = String::new();
        output.read_line(&mut address).ok()?;
        let input = process.stdin.take();
        let address = address.trim().to_owned();
        if address.is_empty() {
            let _ended = process.wait();
            return None;
        }
        Some(Logind {
            process,
            input,
            output,
            address,
        })
    }

    fn tell(&mut self, command: &str) -> String {
        let input = self.input.as_mut().expect("open until dropped");
        writeln!(input, "{command}").expect("it listens");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("it answers");
        answer.trim().to_owned()
    }

    async fn locks(&mut self, wanted: &str) {
        let until = Instant::now() + PATIENCE;
        while self.tell("locks") != wanted {
            assert!(Instant::now() < until, "never {wanted} locks");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Logind {
    fn drop(&mut self) {
        // Its end of input is its end.
        self.input.take();
        let _ended = self.process.wait();
    }
}

#[tokio::test]
async fn the_sleep_waits_until_it_is_written_down() {
    let Some(mut logind) = Logind::start() else {
        return skipped(
            "the_sleep_waits_until_it_is_written_down",
            "dbus-daemon and python3-dbusmock (tests/wake/setup.sh)",
        );
    };
    let mut site = Site::new()
        .settings(QUICK)
        .env("DBUS_SYSTEM_BUS_ADDRESS", &logind.address);
    site.up(&[Daemon::Orchestrator]).await;
    logind.locks("1").await;
    let log = log_of(&mut site, Daemon::Orchestrator);
    let mark = length(&log);
    logind.tell("sleep");
    logind.locks("0").await;
    // The lock went only after this.
    logged(&log, mark, "the host is about to sleep").await;
    event(&site.connect(), "system.sleep").await;
    logind.tell("wake");
    logind.locks("1").await;
    site.stopped(Daemon::Orchestrator).await;
    logind.locks("0").await;
}
