//! Output of commands: tables and text for people, JSON for programs.
//!
//! Results go to standard output, everything else to standard error. Text that came from elsewhere is never let
//! through with its control characters, nor with those that change the order of what is shown: neither to a terminal nor
//! into a pipe, which often ends at one. In JSON they are escapes, so that nothing is lost.

pub mod approval;
pub mod calls;
pub mod ended;
pub mod escape;
pub mod runs;
pub mod table;
pub mod time;
pub mod view;
pub mod wrap;

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
        out.write_all(self.shown(text.as_ref()).as_bytes())?;
        out.write_all(b"\n")
    }

    /// A line exactly as it is: a value that a program reads.
    pub fn exact(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")
    }

    /// One value, on lines of its own, for people who read JSON too.
    pub fn value(&self, value: &impl Serialize) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(escaped(&serde_json::to_string_pretty(value)?).as_bytes())?;
        out.write_all(b"\n")
    }

    /// One value on one line, at once: for streams of them.
    pub fn record(&self, value: &impl Serialize) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(escaped(&serde_json::to_string(value)?).as_bytes())?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Text without an end of line, at once.
    pub fn piece(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(self.shown(text).as_bytes())?;
        out.flush()
    }

    /// As it is, at once: for what was made here and cleaned where it had to be.
    pub fn piece_raw(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Columns of the terminal; `None` where the output goes somewhere else.
    pub fn columns(&self) -> Option<usize> {
        let columns = self.terminal.then(|| comfy_table::Table::new().width()).flatten();
        columns.map(usize::from)
    }

    /// Cleaned, but for our own marks of bold and dim.
    fn shown(&self, text: &str) -> String {
        if !self.colour {
            return clean(text);
        }
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, from)) = rest.find('\x1b').map(|at| rest.split_at(at)) {
            shown.push_str(&clean(before));
            let ours = [DIM, BOLD, PLAIN].into_iter().find(|mark| from.starts_with(mark));
            let taken = ours.map_or(1, str::len);
            match ours {
                Some(mark) => shown.push_str(mark),
                None => shown.push_str(&clean("\x1b")),
            }
            rest = &from[taken..];
        }
        shown.push_str(&clean(rest));
        shown
    }

    pub fn dim(&self, text: &str) -> String {
        if self.colour {
            format!("{DIM}{text}{PLAIN}")
        } else {
            text.to_owned()
        }
    }

    pub fn bold(&self, text: &str) -> String {
        if self.colour {
            format!("{BOLD}{text}{PLAIN}")
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
        let _gone = io::stderr()
            .lock()
            .write_all(format!("{}\n", self.shown(text)).as_bytes());
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
            self.warn(&escaped(&said.to_string()));
        } else {
            self.warn(&format!("nexus: {}", clean(&failure.message)));
            if let Some(hint) = &failure.hint {
                self.warn(&format!("  {}", clean(hint)));
            }
        }
        failure.exit
    }
}

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// JSON in which no character hides or reorders another: those are written as escapes.
pub fn escaped(json: &str) -> String {
    let hides = |c: char| (c.is_control() && c != '\n') || reorders(c);
    if !json.contains(hides) {
        return json.to_owned();
    }
    // Outside of strings JSON has none of them.
    json.chars().fold(String::with_capacity(json.len()), |mut text, c| {
        if hides(c) {
            text.push_str(&format!("\\u{:04x}", c as u32));
        } else {
            text.push(c);
        }
        text
    })
}

/// Text as a terminal may have it: control characters other than line ends and tabs become visible.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            '\x7f' => '\u{2421}',
            // The control pictures stand in the order of the characters they show.
            c if (c as u32) < 0x20 => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
            c if c.is_control() || reorders(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Characters that reorder text around them or break its line, and so can show a text other than the one that is there.
fn reorders(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::{Output, clean, escaped};

    #[test]
    fn no_escape_sequence_reaches_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\rc\x07"), "a\u{241b}[2Jb\u{240d}c\u{2407}");
        assert_eq!(clean("\u{9b}31m\u{202e}x"), "\u{fffd}31m\u{fffd}x");
        assert_eq!(clean("fine: äöü\n\tnext"), "fine: äöü\n\tnext");
    }

    #[test]
    fn json_says_the_same_in_escapes() {
        let hostile = "a\u{9b}31m \u{7f}\u{202e}dcba\u{2066}\u{200f}\u{61c}\u{2028}\x1b[2J\r\n";
        for json in [
            serde_json::to_string(&[hostile]).unwrap(),
            serde_json::to_string_pretty(&[hostile]).unwrap(),
        ] {
            let shown = escaped(&json);
            assert!(
                shown.chars().all(|c| c == '\n' || (' '..='~').contains(&c)),
                "{shown:?}"
            );
            let read: Vec<String> = serde_json::from_str(&shown).unwrap();
            assert_eq!(read, [hostile]);
        }
        assert_eq!(escaped(r#"{"a":"äöü 😀"}"#), r#"{"a":"äöü 😀"}"#);
    }

    #[test]
    fn only_our_own_marks_of_colour_reach_the_terminal() {
        let coloured = Output {
            json: false,
            terminal: true,
            colour: true,
        };
        let text = format!("{} and \x1b[31mred\x1b]0;title\x07", coloured.bold("bold"));
        assert_eq!(
            coloured.shown(&text),
            "\x1b[1mbold\x1b[0m and \u{241b}[31mred\u{241b}]0;title\u{2407}"
        );
        let plain = Output {
            colour: false,
            ..coloured
        };
        assert_eq!(plain.shown("\x1b[1mx"), "\u{241b}[1mx");
    }
}
