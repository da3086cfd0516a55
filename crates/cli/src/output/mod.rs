//! What a command prints: tables and prose for people, JSON for programs.
//!
//! Results go to standard output, everything else to standard error. Text that came from elsewhere is never let
//! through to a terminal with its control characters.

pub mod table;
pub mod time;
pub mod view;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::{Exit, Failure};

#[derive(Debug)]
pub struct Output {
    pub json: bool,
    /// Standard output is a person's terminal.
    pub terminal: bool,
    colour: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Output {
            json,
            terminal,
            colour: terminal && io::stderr().is_terminal() && !plain && !json,
        }
    }

    pub fn line(&self, text: impl AsRef<str>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_ref().as_bytes())?;
        out.write_all(b"\n")
    }

    /// One value, on lines of its own, for people who read JSON too.
    pub fn value(&self, value: &impl Serialize) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, value)?;
        out.write_all(b"\n")
    }

    /// One value on one line, at once: for streams of them.
    pub fn record(&self, value: &impl Serialize) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, value)?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Text without an end of line, at once.
    pub fn piece(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.terminal {
            out.write_all(clean(text).as_bytes())?;
        } else {
            out.write_all(text.as_bytes())?;
        }
        out.flush()
    }

    /// As it is, at once: for what was made here and cleaned where it had to be.
    pub fn piece_raw(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    pub fn dim(&self, text: &str) -> String {
        if self.colour {
            format!("\x1b[2m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub fn bold(&self, text: &str) -> String {
        if self.colour {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// For people, beside the result. A terminal that has gone cannot be told so.
    pub fn note(&self, text: &str) {
        if !self.json {
            self.warn(text);
        }
    }

    pub fn warn(&self, text: &str) {
        // In one piece: a line of another process does not come between.
        let _gone = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
    }

    /// Says what went wrong and the next step; gives the exit code.
    pub fn fail(&self, failure: &Failure) -> Exit {
        if failure.quiet {
            return failure.exit;
        }
        if self.json {
            let said = serde_json::json!({
                "error": failure.message, "hint": failure.hint, "exit": failure.exit as u8,
            });
            self.warn(&said.to_string());
        } else {
            self.warn(&format!("nexus: {}", clean(&failure.message)));
            if let Some(hint) = &failure.hint {
                self.warn(&format!("  {}", clean(hint)));
            }
        }
        failure.exit
    }
}

/// Text as a terminal may have it: control characters other than line ends and tabs become visible.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            '\x7f' => '\u{2421}',
            // The control pictures stand in the order of the characters they show.
            c if (c as u32) < 0x20 => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
            c if c.is_control() || is_bidi_override(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Characters that reorder what follows them, and so can show a text other than the one that is there.
fn is_bidi_override(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\rc\x07"), "a\u{241b}[2Jb\u{240d}c\u{2407}");
        assert_eq!(clean("\u{9b}31m\u{202e}x"), "\u{fffd}31m\u{fffd}x");
        assert_eq!(clean("fine: äöü\n\tnext"), "fine: äöü\n\tnext");
    }
}
