//! The helper program: from its arguments to its exit code.

mod access;
mod account;
mod cgroup;
mod cgroup_files;
mod collect;
mod etc;
mod filter;
mod guard;
mod host;
mod idmap;
mod init;
mod join;
mod lock;
mod logs;
mod monitor;
mod mounts;
mod output;
mod probe;
mod proc;
mod program;
mod root;
mod rules;
mod step;
mod terminal;
mod wire;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::ExitCode;

use crate::report::{FAILED, Failed, Report};
use crate::{Request, sys};

use step::{Step, failed};

const HELP: &str = "\
Runs one command in a sandbox. Made to be executed by nexus-orchestrator; there is little reason to call it by hand.

usage: nexus-sandbox [OPTION...]    run what one line of JSON asks for
       nexus-sandbox --probe        say as JSON what works here for this user

  --spec-fd N        read the request there (default: standard input, and the command then has none)
  --spec-file F      read the request from a file
  --status-fd N      say there what happens, one JSON object a line (default: only a failure, on standard error);
                     1 is allowed where output goes to a log
  --status-file F    say it in a file
  --version, --help

The exit code is that of the command, 128 and the number of the signal that ended it, or 125 if nothing was run.
";

/// The longest request.
const MAX_REQUEST: u64 = 16 << 20;

pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut spec, mut status) = (None, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--probe" => return probe::main(),
            "--version" => {
                println!("nexus-sandbox {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            "--help" | "-h" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            "--spec-fd" | "--spec-file" | "--status-fd" | "--status-file" => {
                let Some(value) = arguments.next() else {
                    return usage(&format!("{argument} wants a value"));
                };
                let channel = match Channel::open(&argument, &value) {
                    Ok(channel) => channel,
                    Err(error) => return usage(&format!("{argument} {value}: {error}")),
                };
                let place = if argument.starts_with("--spec") {
                    &mut spec
                } else {
                    &mut status
                };
                if place.replace(channel).is_some() {
                    return usage("one place to read the request from, and one to report to");
                }
            }
            other => return usage(&format!("unknown argument {other}")),
        }
    }
    let mut reporter = Reporter(status.map(|Channel(fd)| File::from(fd)));
    let code = serve(spec, &mut reporter).unwrap_or_else(|failed| {
        reporter.say(&Report::Failed(failed));
        FAILED
    });
    ExitCode::from(code)
}

/// A descriptor above 2, closed on exec.
struct Channel(OwnedFd);

impl Channel {
    fn open(argument: &str, value: &str) -> std::io::Result<Channel> {
        let fd = match argument {
            "--spec-file" => File::open(value)?.into(),
            "--status-file" => File::options().append(true).create(true).open(value)?.into(),
            _ => {
                let number = value.parse::<i32>().ok().filter(|number| *number > 0 && *number != 2);
                let number = number.ok_or_else(|| std::io::Error::other("not the number of a descriptor"))?;
                let given = sys::inherited(number);
                let fd = rustix::io::fcntl_dupfd_cloexec(&given, 3)?;
                if number == 1 {
                    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
                    std::mem::forget(given);
                }
                fd
            }
        };
        Ok(Channel(fd))
    }
}

fn usage(mistake: &str) -> ExitCode {
    eprintln!("nexus-sandbox: {mistake}\n\n{HELP}");
    ExitCode::from(64)
}

fn serve(spec: Option<Channel>, reporter: &mut Reporter) -> Result<u8, Failed> {
    let spec = spec.map(|Channel(fd)| fd);
    let keep: Vec<i32> = spec.iter().map(AsRawFd::as_raw_fd).chain(reporter.fd()).collect();
    close_others(&keep).step("descriptors", "")?;
    let request = read_request(spec)?;
    match request {
        Request::Run(run) => monitor::run(*run, reporter),
        Request::Join(join) => join::run(*join, reporter),
        Request::Access(access) => {
            access::check(&access)?;
            reporter.say(&Report::Allowed);
            Ok(0)
        }
    }
}

/// Nothing that the caller had open by accident comes along.
fn close_others(keep: &[i32]) -> std::io::Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            sys::close_range(first, (fd - 1) as u32, false)?;
        }
        sys::close_range(fd, fd as u32, true)?;
        first = fd + 1;
    }
    sys::close_range(first, u32::MAX, false)
}

fn read_request(spec: Option<OwnedFd>) -> Result<Request, Failed> {
    use std::io::Read;
    let mut line = Vec::new();
    match spec {
        Some(spec) => BufReader::new(File::from(spec).take(MAX_REQUEST)).read_until(b'\n', &mut line),
        None => {
            let read = BufReader::new(std::io::stdin().lock().take(MAX_REQUEST)).read_until(b'\n', &mut line);
            read.and_then(|read| {
                let null = File::open("/dev/null")?;
                rustix::stdio::dup2_stdin(&null)?;
                Ok(read)
            })
        }
    }
    .step("spec", "")?;
    serde_json::from_slice(&line).map_err(|error| failed("spec", format!("not a request: {error}"), ""))
}

/// Where reports go.
pub struct Reporter(Option<File>);

impl Reporter {
    fn fd(&self) -> Option<i32> {
        self.0.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// A caller that went away does not stop what it started.
    pub fn say(&mut self, report: &Report) {
        match (&mut self.0, report) {
            (Some(file), report) => {
                let mut line = serde_json::to_vec(report).expect("reports are plain data");
                line.push(b'\n');
                let _ = file.write_all(&line);
            }
            (None, Report::Failed(failed)) => eprintln!("nexus-sandbox: {failed}"),
            (None, Report::Started(_) | Report::Exited(_) | Report::Allowed) => {}
        }
    }
}
