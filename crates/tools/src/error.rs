//! What a model is told when a call fails: one line `error <code>: <what>`, then what to do next.

use std::fmt;

/// Longest first line, in bytes: it may quote paths and names that a model chose.
const LINE_BYTES: usize = 2048;

/// Why a call failed, for programs and models alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The arguments do not fit the tool's schema.
    InvalidArguments,
    /// No tool has this name.
    UnknownTool,
    /// Policy forbids the call.
    NotAllowed,
    /// A person denied the call.
    Denied,
    /// Nobody decided in time.
    ApprovalExpired,
    /// A file is not what the session last saw.
    Changed,
    /// There is no such file, process or result.
    NotFound,
    /// The text to replace does not occur.
    NoMatch,
    /// The text to replace occurs more than once.
    NotUnique,
    /// An argument or a file is larger than the limit.
    TooLarge,
    /// The call ran into its time limit.
    Timeout,
    /// Somebody cancelled the call.
    Cancelled,
    /// How the call ended is not known.
    Interrupted,
    /// What the call needs does not answer.
    Unavailable,
    /// The sandbox cannot be set up; nothing ran.
    SandboxUnavailable,
    /// A budget of tokens, money or time is used up.
    Budget,
}

impl Code {
    /// Every code, in the order of the enum.
    pub const ALL: [Code; 16] = [
        Code::InvalidArguments,
        Code::UnknownTool,
        Code::NotAllowed,
        Code::Denied,
        Code::ApprovalExpired,
        Code::Changed,
        Code::NotFound,
        Code::NoMatch,
        Code::NotUnique,
        Code::TooLarge,
        Code::Timeout,
        Code::Cancelled,
        Code::Interrupted,
        Code::Unavailable,
        Code::SandboxUnavailable,
        Code::Budget,
    ];

    /// The code as models and the wire know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArguments => "invalid_arguments",
            Code::UnknownTool => "unknown_tool",
            Code::NotAllowed => "not_allowed",
            Code::Denied => "denied",
            Code::ApprovalExpired => "approval_expired",
            Code::Changed => "changed",
            Code::NotFound => "not_found",
            Code::NoMatch => "no_match",
            Code::NotUnique => "not_unique",
            Code::TooLarge => "too_large",
            Code::Timeout => "timeout",
            Code::Cancelled => "cancelled",
            Code::Interrupted => "interrupted",
            Code::Unavailable => "unavailable",
            Code::SandboxUnavailable => "sandbox_unavailable",
            Code::Budget => "budget",
        }
    }

    /// The code with this name.
    pub fn from_name(name: &str) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// What to do next, where the caller of [`Error::new`] knows nothing better.
    fn next_step(self) -> &'static str {
        match self {
            Code::InvalidArguments => "Correct the arguments and call the tool again.",
            Code::UnknownTool => "Use one of the tools you were given.",
            Code::NotAllowed => "Do it another way, or ask the user.",
            Code::Denied => "Do not repeat this call. Do it another way, or ask the user.",
            Code::ApprovalExpired => "Nobody decided in time. Go on without this call, or ask the user.",
            Code::Changed => "Look at the present content, then decide again.",
            Code::NotFound => "Look for the right name with list_dir or find.",
            Code::NoMatch => "Read the file and copy the text exactly.",
            Code::NotUnique => "Add lines around the text until it occurs once, or set replace_all.",
            Code::TooLarge => "Work on a smaller part.",
            Code::Timeout => "Raise timeout_s, run it in the background, or do less at once.",
            Code::Cancelled => "It may have half happened. Look before you repeat it.",
            Code::Interrupted => "The outcome is unknown. Look before you repeat it.",
            Code::Unavailable => "Try once more later, or go on without it.",
            Code::SandboxUnavailable => "Nothing ran. Tell the user that the sandbox does not work on this host.",
            Code::Budget => "Report what is done and what is left.",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed call. `Display` writes what the model is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Which kind of failure.
    pub code: Code,
    /// What failed, on one line.
    pub what: String,
    /// What to do next; may have several lines.
    pub next: String,
}

impl Error {
    /// A failure with the usual next step of its code. Line ends in `what` become blanks, and it is cut at 2 KiB.
    pub fn new(code: Code, what: impl Into<String>) -> Error {
        let mut what: String = what.into();
        if what.contains(['\n', '\r']) {
            what = what.replace(['\n', '\r'], " ");
        }
        if what.len() > LINE_BYTES {
            what.truncate(what.floor_char_boundary(LINE_BYTES));
            what.push_str("...");
        }
        Error {
            code,
            what,
            next: code.next_step().to_owned(),
        }
    }

    /// Puts `next` in the place of the code's usual next step.
    #[must_use]
    pub fn with_next(mut self, next: impl Into<String>) -> Error {
        self.next = next.into();
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}: {}", self.code, self.what)?;
        if !self.next.is_empty() {
            write!(f, "\n{}", self.next)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::{Code, Error};

    #[test]
    fn the_first_line_has_the_code_and_the_next_says_what_to_do() {
        let error = Error::new(Code::NotFound, "no file \"a\nb\"");
        assert_eq!(
            error.to_string(),
            "error not_found: no file \"a b\"\nLook for the right name with list_dir or find."
        );
        assert_eq!(
            error.with_next("Try c.").to_string(),
            "error not_found: no file \"a b\"\nTry c."
        );
    }

    #[test]
    fn names_lead_back_to_their_codes() {
        for code in Code::ALL {
            assert_eq!(Code::from_name(code.as_str()), Some(code));
            assert!(!code.next_step().is_empty());
        }
        assert_eq!(Code::from_name("nope"), None);
    }

    #[test]
    fn a_quoted_name_cannot_make_the_line_long() {
        assert!(Error::new(Code::NotFound, "ä".repeat(5000)).what.len() < 2100);
    }
}
