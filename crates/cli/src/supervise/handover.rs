//! A supervisor becomes another version of its program: the same process, the same children, the same sockets.
//!
//! ```text
//!   old: memory written ──▶ sockets and pipes survive the exec, named in NEXUS_HANDED ──▶ exec
//!   new: takes them by number ──▶ its control socket ──▶ adopts the daemons by the memory
//! ```
//!
//! Nobody is refused meanwhile: the sockets never stop listening. If the exec fails nothing has happened. What the
//! variable names is only believed if it was written for this very process.

use std::{
    collections::HashMap,
    io::PipeReader,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{net::UnixListener, process::CommandExt},
    },
    path::Path,
    process::Command,
};

use nexus_daemon::listener::Kept;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::executor::Executor;
use crate::{
    failure::{Exit, Failure},
    supervise::process::Held,
};

/// `PID name=number,...`
pub(super) const VARIABLE: &str = "NEXUS_HANDED";
/// The name of the supervisor's own socket.
pub const CONTROL: &str = "control";
/// What is printed by a service has its name with this before it.
const PRINTED: &str = "printed:";

/// Becomes the other program; gives the reason if it could not.
pub fn hand_over(program: &Path, executor: &Executor, control: &Kept) -> Failure {
    use std::os::fd::AsFd;
    let mut passed: Vec<(String, BorrowedFd<'_>)> = vec![(CONTROL.to_owned(), control.listener().as_fd())];
    for (name, kept, printed) in executor.belongings() {
        passed.extend(kept.map(|kept| (name.to_owned(), kept.listener().as_fd())));
        passed.extend(printed.map(|printed| (format!("{PRINTED}{name}"), printed.as_fd())));
    }
    for (_, descriptor) in &passed {
        survive(*descriptor, true);
    }
    let names = passed
        .iter()
        .map(|(name, descriptor)| format!("{name}={}", descriptor.as_raw_fd()));
    let names = names.collect::<Vec<_>>().join(",");
    let context = &executor.context;
    let mut command = Command::new(program);
    let failed = |error: std::io::Error| {
        Failure::new(
            Exit::Failed,
            format!("the supervisor cannot become {}: {error}", program.display()),
        )
    };
    let environment = &executor.environment;
    // Held until the exec, which it survives.
    let sealed = match environment.sealed() {
        Ok(sealed) => sealed,
        Err(error) => return failed(error),
    };
    if let Err(error) = crate::environment::hand_to(&mut command, environment, &sealed) {
        return failed(error);
    }
    command
        .arg("supervise")
        .arg("--root")
        .arg(context.root.path())
        .env(VARIABLE, format!("{} {names}", std::process::id()));
    if let Some(told) = &context.told {
        command.arg("--socket").arg(told);
    }
    let error = command.exec();
    for (_, descriptor) in &passed {
        survive(*descriptor, false);
    }
    failed(error)
}

fn survive(descriptor: BorrowedFd<'_>, survives: bool) {
    let flags = if survives { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    // One that cannot be told is open all the same; it stays behind, and the successor makes its own.
    let _ignored = fcntl(descriptor, FcntlArg::F_SETFD(flags));
}

/// What was handed to this process by the one that it was before.
#[derive(Default)]
pub struct Handed {
    by_name: HashMap<String, OwnedFd>,
}

impl Handed {
    pub fn take() -> Handed {
        let pid = nix::unistd::getpid().as_raw();
        let told = std::env::var(VARIABLE).unwrap_or_default();
        let Some((_, names)) = told.split_once(' ').filter(|(whose, _)| *whose == pid.to_string()) else {
            return Handed::default();
        };
        let Ok(Some(me)) = Held::of(pid) else {
            return Handed::default();
        };
        let mut by_name = HashMap::new();
        for (name, number) in names.split(',').filter_map(|one| one.split_once('=')) {
            let Ok(number) = number.parse::<RawFd>() else { continue };
            // A second descriptor of the same, which no child inherits; the first is closed.
            if let Ok(descriptor) = me.descriptor(number) {
                by_name.insert(name.to_owned(), descriptor);
                let _closed = nix::unistd::close(number);
            }
        }
        Handed { by_name }
    }

    /// The listener of this name, if it is the one at this path.
    pub fn listener(&mut self, name: &str, path: &Path) -> Option<Kept> {
        let listener = UnixListener::from(self.by_name.remove(name)?);
        let here = listener.local_addr().ok()?.as_pathname() == Some(path);
        here.then(|| Kept::of(listener, path).ok()).flatten()
    }

    pub fn pipe(&mut self, service: &str) -> Option<PipeReader> {
        self.by_name
            .remove(&format!("{PRINTED}{service}"))
            .map(PipeReader::from)
    }
}
