//! The exit codes of a daemon.

use std::process::ExitCode;

/// How a daemon's process ends. The numbers are those of `sysexits.h` where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Stopped because it was asked to, everything flushed; or a question on the command line was answered.
    Ok = 0,
    /// The command line cannot be understood.
    Usage = 64,
    /// The store is damaged, or a newer version wrote it.
    Data = 65,
    /// Something that should have worked did not.
    Failed = 70,
    /// The socket or address belongs to somebody else.
    Taken = 75,
    /// The settings are wrong; each mistake is listed.
    Config = 78,
}

/// For `--help` and the documents.
pub const TABLE: &str = "\
  0    stopped when asked to, everything flushed
  64   the command line cannot be understood
  65   the store is damaged, or a newer version wrote it
  70   something that should have worked did not; the log says what
  75   the socket or address belongs to somebody else
  78   the settings are wrong; each mistake is listed
  130  a second SIGINT (143: SIGTERM) ended it at once, without a flush";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_code() {
        for exit in [
            Exit::Ok,
            Exit::Usage,
            Exit::Data,
            Exit::Failed,
            Exit::Taken,
            Exit::Config,
        ] {
            let code = (exit as u8).to_string();
            assert!(
                TABLE.lines().any(|line| line.split_whitespace().next() == Some(&code)),
                "{code} is missing"
            );
        }
    }
}
