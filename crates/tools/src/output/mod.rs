//! Output of calls as a model is told of it: at most 32 KiB and 2,000 lines, in whole lines, with exact figures of what
//! was left out. Whatever a program writes is taken piece by piece and in bounded memory.
//!
//! ```text
//!  bytes ─▶ utf8 (split characters joined) ─▶ screen (terminal codes folded) ─▶ cutter (start and end kept) ─▶ Output
//! ```

mod cutter;
mod screen;
mod utf8;

use std::borrow::Cow;

use cutter::Cutter;
use screen::Screen;
use utf8::Joiner;

/// Most bytes of a result that a model is told, with its first line.
pub const MAX_RESULT_BYTES: usize = 32 << 10;
/// Most lines of a result that a model is told.
pub const MAX_RESULT_LINES: usize = 2_000;
/// Most bytes of one call's output that are kept to be read later; what is beyond is counted.
pub const MAX_SPILL_BYTES: u64 = 64 << 20;
/// Most bytes of output that are kept for one session.
pub const MAX_SESSION_SPILL_BYTES: u64 = 512 << 20;
/// Longest line that `read_file` shows, in characters.
pub const MAX_LINE_CHARS: usize = 2_000;
/// Longest line that `grep` shows, in characters.
pub const MAX_MATCH_CHARS: usize = 500;

/// Which part of a long result is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The beginning.
    Start,
    /// The first third and the last two thirds: a program says last what went wrong.
    Ends,
}

/// How bytes become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As they are, but for bad UTF-8.
    Plain,
    /// As a terminal would show them in the end: colours gone, overwritten lines as they were left.
    Terminal,
}

/// A number of bytes and of lines. A line without an end counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Bytes.
    pub bytes: u64,
    /// Lines.
    pub lines: u64,
}

/// Takes output as it appears and keeps what a model will be told of it.
#[derive(Debug)]
pub struct Collector {
    keep: Keep,
    joiner: Joiner,
    screen: Option<Screen>,
    cutter: Cutter,
    written: Counter,
}

/// What a model is told of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What was written, before terminal codes were folded. Exact, however much it was.
    pub written: Size,
    /// The text after folding.
    pub total: Size,
    /// The part before the cut; all of it, if nothing was cut.
    pub start: String,
    /// The part after the cut.
    pub end: String,
    /// Whole lines shown in `start` and `end`.
    shown_lines: (u64, u64),
    cut: bool,
}

/// Where the whole output can be read.
#[derive(Debug, Clone, Copy)]
pub struct Spill<'a> {
    /// A path for `read_file` and `grep`.
    pub name: &'a str,
    /// How many bytes of it there are; less than were written if it was too much to keep.
    pub kept_bytes: u64,
}

impl Collector {
    /// For one call.
    pub fn new(keep: Keep, reading: Reading) -> Collector {
        let screen = (reading == Reading::Terminal).then(Screen::default);
        Collector {
            keep,
            joiner: Joiner::default(),
            screen,
            cutter: Cutter::new(keep),
            written: Counter::default(),
        }
    }

    /// Takes the next bytes, wherever they are split.
    pub fn push(&mut self, bytes: &[u8]) {
        self.written.add(bytes);
        let Collector {
            joiner, screen, cutter, ..
        } = self;
        joiner.push(bytes, |text| match screen {
            Some(screen) => screen.push(text, cutter),
            None => cutter.push(text),
        });
    }

    /// What was written since the beginning, or since the last [`Collector::take`].
    pub fn written(&self) -> Size {
        self.written.size()
    }

    /// What is to be told of everything since the last time, and begins anew. A character or code that is not complete
    /// belongs to the next time.
    pub fn take(&mut self) -> Output {
        if let Some(screen) = &mut self.screen {
            screen.flush(&mut self.cutter);
        }
        let cutter = std::mem::replace(&mut self.cutter, Cutter::new(self.keep));
        cutter.finish(std::mem::take(&mut self.written).size())
    }

    /// What is to be told, after the last byte.
    pub fn finish(mut self) -> Output {
        let Collector {
            joiner, screen, cutter, ..
        } = &mut self;
        joiner.finish(|text| match screen {
            Some(screen) => screen.push(text, cutter),
            None => cutter.push(text),
        });
        self.take()
    }
}

impl Output {
    /// Whether anything was left out.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// What is shown.
    pub fn shown(&self) -> Size {
        Size {
            bytes: (self.start.len() + self.end.len()) as u64,
            lines: self.shown_lines.0 + self.shown_lines.1,
        }
    }

    /// What is not shown. Lines of which a part is shown count here.
    pub fn omitted(&self) -> Size {
        let shown = self.shown();
        Size {
            bytes: self.total.bytes - shown.bytes,
            lines: self.total.lines - shown.lines,
        }
    }

    /// The text for the model. If something was left out, the first line says how much and where the rest is, and a mark
    /// stands at the cut.
    pub fn render(&self, spill: Option<Spill<'_>>) -> String {
        if !self.cut {
            return format!("{}{}", self.start, self.end);
        }
        let omitted = self.omitted();
        let mut text = String::with_capacity(self.start.len() + self.end.len() + 1024);
        text.push_str(&self.header(spill));
        text.push('\n');
        text.push_str(&self.start);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!(
            "[... {} bytes, {} omitted here ...]\n",
            omitted.bytes,
            lines(omitted.lines)
        ));
        text.push_str(&self.end);
        text
    }

    /// The first line of a result that was cut.
    fn header(&self, spill: Option<Spill<'_>>) -> String {
        let Output { written, total, .. } = self;
        let omitted = self.omitted();
        let mut line = format!("[cut: {} bytes, {} in all", total.bytes, lines(total.lines));
        if written.bytes != total.bytes {
            line.push_str(&format!(
                " ({} bytes, {} as written)",
                written.bytes,
                lines(written.lines)
            ));
        }
        line.push_str(&format!(
            "; shown: the first {} bytes, {}",
            self.start.len(),
            lines(self.shown_lines.0)
        ));
        if !self.end.is_empty() {
            line.push_str(&format!(
                ", and the last {} bytes, {}",
                self.end.len(),
                lines(self.shown_lines.1)
            ));
        }
        line.push_str(&format!("; omitted: {} bytes, {}", omitted.bytes, lines(omitted.lines)));
        match spill {
            None => line.push_str("; the rest was not kept]"),
            Some(spill) if spill.kept_bytes < written.bytes => {
                line.push_str(&format!(
                    "; the first {} bytes can be read as {}]",
                    spill.kept_bytes, spill.name
                ));
            }
            Some(spill) => line.push_str(&format!("; all of it can be read as {}]", spill.name)),
        }
        line
    }
}

/// A line of at most `max` characters; a longer one is cut and says so.
pub fn shorten_line(line: &str, max: usize) -> Cow<'_, str> {
    match line.char_indices().nth(max) {
        None => Cow::Borrowed(line),
        Some((end, _)) => Cow::Owned(format!(
            "{} [... {} more characters]",
            &line[..end],
            line[end..].chars().count()
        )),
    }
}

fn lines(count: u64) -> String {
    if count == 1 {
        "1 line".to_owned()
    } else {
        format!("{count} lines")
    }
}

/// Counts bytes and lines of a stream.
#[derive(Debug, Default)]
struct Counter {
    bytes: u64,
    ends: u64,
    open: bool,
}

impl Counter {
    fn add(&mut self, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        self.bytes += bytes.len() as u64;
        self.ends += newlines(bytes);
        self.open = *last != b'\n';
    }

    fn size(&self) -> Size {
        Size {
            bytes: self.bytes,
            lines: self.ends + u64::from(self.open),
        }
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|b| u64::from(*b == b'\n')).sum()
}

#[cfg(test)]
mod tests;
