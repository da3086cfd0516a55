//! The last step of starting a daemon: a session of its own, so that no terminal takes it along, then exec.
//!
//! It is this same program run once more, because a process may only leave its session after the fork and before the
//! exec, and that cannot be done from a running runtime. The process id stays the same through both.

use std::{env, os::unix::process::CommandExt, process::Command, process::ExitCode};

/// The first argument that asks for it. Not a command of the tree: it is of no use to people.
pub const ARGUMENT: &str = "\u{1}detach";

/// `None` if this is an ordinary run. Else it only comes back if the program could not be started.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    if args.next()? != ARGUMENT {
        return None;
    }
    let program = args.next()?;
    if let Err(errno) = nix::unistd::setsid() {
        eprintln!("failed to start a session: {errno}");
        return Some(ExitCode::from(71));
    }
    let error = Command::new(&program).args(args).exec();
    eprintln!("failed to start {}: {error}", program.display());
    Some(ExitCode::from(127))
}
