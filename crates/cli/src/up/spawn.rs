//! Starting one daemon, and what it had to say if it does not stay.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::{Plan, detach};
use crate::{
    failure::{Exit, Failure},
    place::Place,
};

/// Lines of the log that are shown, and the most that is read for them.
const LINES: usize = 12;
const TAIL: u64 = 16 * 1024;

#[derive(Debug)]
pub struct Started {
    child: Child,
    log: PathBuf,
    /// Where the log ended before: what follows is this daemon's.
    begin: u64,
}

/// The program of each plan, or which are missing.
pub fn programs(plans: &[Plan]) -> Result<Vec<PathBuf>, Failure> {
    let places = places();
    let find = |plan: &Plan| {
        places
            .iter()
            .map(|place| place.join(plan.binary))
            .find(|path| is_program(path))
    };
    let found: Vec<Option<PathBuf>> = plans.iter().map(find).collect();
    let missing: Vec<&str> = plans
        .iter()
        .zip(&found)
        .filter(|(_, found)| found.is_none())
        .map(|(plan, _)| plan.binary)
        .collect();
    if missing.is_empty() {
        return Ok(found.into_iter().flatten().collect());
    }
    Err(
        Failure::new(Exit::Failed, format!("cannot find {}", missing.join(", ")))
            .hint("put them beside nexus, in PATH, or where NEXUS_BIN_DIR says; from a checkout: cargo xtask up"),
    )
}

/// `NEXUS_BIN_DIR` alone if it is set, else beside this program, then `PATH`.
fn places() -> Vec<PathBuf> {
    if let Some(told) = env::var_os("NEXUS_BIN_DIR").filter(|told| !told.is_empty()) {
        return vec![PathBuf::from(told)];
    }
    let beside = env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.to_path_buf()));
    let path = env::var_os("PATH").unwrap_or_default();
    beside.into_iter().chain(env::split_paths(&path)).collect()
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

pub fn spawn(place: &Place, plan: &Plan, program: &Path) -> Result<Started, Failure> {
    let log = place.root.log_dir().join(format!("{}.log", plan.service));
    let failed = |error: io::Error| Failure::file("open", &log, &error);
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log)
        .map_err(failed)?;
    let begin = file.metadata().map_err(failed)?.len();
    let own = env::current_exe()
        .map_err(|error| Failure::new(Exit::Failed, format!("failed to find this program: {error}")))?;
    let program = std::path::absolute(program).map_err(|error| Failure::file("find", program, &error))?;
    let mut command = Command::new(own);
    command
        .arg(detach::ARGUMENT)
        .arg(&program)
        .args(plan.args)
        .envs(variables(place))
        .current_dir(place.root.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    let child = command
        .spawn()
        .map_err(|error| Failure::file("start", &program, &error))?;
    Ok(Started { child, log, begin })
}

fn variables(place: &Place) -> Vec<(&'static str, OsString)> {
    let mut variables = vec![("NEXUS_ROOT", place.root.path().as_os_str().to_owned())];
    if let Some(socket) = &place.told {
        variables.push(("GRPC_SOCKET_PATH", socket.as_os_str().to_owned()));
    }
    variables
}

impl Started {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The end of what it wrote.
    pub fn said(&self) -> Vec<String> {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.begin.max(end.saturating_sub(TAIL)).min(end)))?;
            let mut bytes = Vec::new();
            file.take(TAIL).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LINES)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }
}

/// An end in words, with what the daemons' own codes mean.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => match meaning(code) {
            Some(meaning) => format!("exited with {code}: {meaning}"),
            None => format!("exited with {code}"),
        },
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn meaning(code: i32) -> Option<&'static str> {
    match code {
        0 => Some("it stopped in good order"),
        64 => Some("its command line cannot be understood"),
        65 => Some("its data is damaged, or a newer version wrote it"),
        70 => Some("something that should have worked did not"),
        75 => Some("its socket is in use"),
        78 => Some("the config is wrong"),
        127 => Some("it cannot be run"),
        _ => None,
    }
}
