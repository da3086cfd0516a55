//! How a command fails: exit code, message, and a hint about the next step.

use std::{fmt, io, process::ExitCode};

use nexus_client::Kind;
use tonic::Status;

/// What scripts read. `--help` lists the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    /// It was tried and did not work; of `status`: something is degraded or has failed.
    Failed = 1,
    /// Asked for wrongly: nothing was tried.
    Usage = 2,
    NotRunning = 3,
    NotFound = 4,
    /// Not allowed, or the socket belongs to somebody else.
    Refused = 5,
    TimedOut = 6,
    /// Of a secret: its store must be unlocked first.
    Locked = 7,
    /// What would give it is not installed or does not run.
    NoProvider = 8,
    Malformed = 9,
    Expired = 10,
    /// Of an upgrade: the new version did not work, and the one before is back.
    Returned = 11,
    /// Of an upgrade: neither version works as it did before.
    Stuck = 12,
    /// Of a run: `nexus stop` or `/stop` ended it.
    Stopped = 13,
    /// Of a run: it passed a limit that was set for it.
    Limit = 14,
    /// As `sysexits` has it, and as the daemons say it too: a store that this version cannot work with.
    Data = 65,
    /// As `sysexits` has it, and as the daemons say it too.
    Config = 78,
    Interrupted = 130,
}

impl Exit {
    /// As another process of ours told it.
    pub fn of(code: u8) -> Exit {
        let all = [
            Exit::Ok,
            Exit::Usage,
            Exit::NotRunning,
            Exit::NotFound,
            Exit::Refused,
            Exit::TimedOut,
            Exit::Data,
            Exit::Config,
            Exit::Interrupted,
        ];
        all.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
    /// The reader of our output has gone: there is nobody to tell.
    pub quiet: bool,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failure {
            exit,
            message: message.into(),
            hint: None,
            quiet: false,
        }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A file operation that failed, with the file's name.
    pub fn file(action: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let failed = Failure::new(Exit::Failed, format!("failed to {action} {}: {error}", path.display()));
        if is_full(error) {
            let message = format!("failed to {action} {}: the disk is full", path.display());
            return Failure::new(Exit::Failed, message).hint(MAKE_ROOM);
        }
        failed
    }
}

const MAKE_ROOM: &str = "make room there, then try again";

/// The disk, or this user's share of it, has no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<nexus_client::Error> for Failure {
    fn from(error: nexus_client::Error) -> Self {
        let exit = match error.kind {
            Kind::NotRunning => Exit::NotRunning,
            Kind::NotFound => Exit::NotFound,
            Kind::Refused(_) | Kind::Denied | Kind::Unauthenticated => Exit::Refused,
            Kind::Timeout => Exit::TimedOut,
            Kind::Cancelled
            | Kind::Invalid
            | Kind::Exists
            | Kind::Precondition
            | Kind::Exhausted
            | Kind::Aborted
            | Kind::OutOfRange
            | Kind::Unimplemented
            | Kind::Unavailable
            | Kind::Internal => Exit::Failed,
        };
        let message = match error.kind {
            Kind::NotRunning => format!("the orchestrator is not running ({})", error.message),
            _ => error.message,
        };
        Failure {
            exit,
            message,
            hint: error.hint,
            quiet: false,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        nexus_client::Error::from(status).into()
    }
}

/// Only for writing to standard output; files go through [`Failure::file`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let gone = error.kind() == io::ErrorKind::BrokenPipe;
        let exit = if gone { Exit::Ok } else { Exit::Failed };
        if is_full(&error) {
            return Failure::new(exit, "failed to write the output: the disk that it goes to is full").hint(MAKE_ROOM);
        }
        Failure {
            quiet: gone,
            ..Failure::new(exit, format!("failed to write the output: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.quiet);
        assert_eq!(failure.exit, Exit::Ok);
        assert!(!Failure::from(io::Error::from(io::ErrorKind::StorageFull)).quiet);
    }

    #[test]
    fn a_full_disk_is_told_with_the_path_and_what_to_do() {
        let failure = Failure::file(
            "write",
            std::path::Path::new("/srv/x"),
            &io::ErrorKind::StorageFull.into(),
        );
        assert_eq!(failure.message, "failed to write /srv/x: the disk is full");
        assert!(failure.hint.unwrap().contains("make room"));
    }

    #[test]
    fn a_missing_session_and_a_missing_daemon_have_their_own_codes() {
        assert_eq!(
            Failure::from(Status::not_found("session not found: x")).exit,
            Exit::NotFound
        );
        assert_eq!(Failure::from(Status::permission_denied("no")).exit, Exit::Refused);
        let absent = nexus_client::Error::new(Kind::NotRunning, "nothing is listening on /x");
        let failure = Failure::from(absent);
        assert_eq!(failure.exit, Exit::NotRunning);
        assert_eq!(failure.hint.as_deref(), Some("start it with: nexus up"));
    }
}
