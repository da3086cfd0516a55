//! Keeps the start and the end of a text of any length, in whole lines where lines have a usual length.

use std::collections::VecDeque;

use super::{Counter, Keep, MAX_RESULT_BYTES, MAX_RESULT_LINES, Output, Size, newlines};

/// What is shown if nothing is cut. The caller adds a line or two, such as an exit code.
const WHOLE_BYTES: usize = MAX_RESULT_BYTES - 512;
const WHOLE_LINES: usize = MAX_RESULT_LINES - 4;
/// What is shown if something is cut: the first line and the mark have to fit too.
const PART_BYTES: usize = MAX_RESULT_BYTES - 1536;
const PART_LINES: usize = MAX_RESULT_LINES - 8;

#[derive(Debug)]
pub(super) struct Cutter {
    keep: Keep,
    /// What it is filled up to.
    start_bytes: usize,
    start_lines: usize,
    start: String,
    /// Line ends in `start`.
    start_ends: usize,
    /// Nothing more is added to `start`.
    start_full: bool,
    /// Bytes after `start`; the first of them go when it is too long.
    end: VecDeque<u8>,
    total: Counter,
}

impl Cutter {
    pub(super) fn new(keep: Keep) -> Cutter {
        let parts = match keep {
            Keep::Start => 1,
            Keep::Ends => 3,
        };
        Cutter {
            keep,
            start_bytes: PART_BYTES / parts,
            start_lines: PART_LINES / parts,
            start: String::new(),
            start_ends: 0,
            start_full: false,
            end: VecDeque::new(),
            total: Counter::default(),
        }
    }

    pub(super) fn push(&mut self, mut text: &str) {
        self.total.add(text.as_bytes());
        if !self.start_full {
            let fits = text.floor_char_boundary(self.start_bytes - self.start.len());
            self.start.push_str(&text[..fits]);
            self.start_ends += newlines(&text.as_bytes()[..fits]) as usize;
            text = &text[fits..];
            if !text.is_empty() || self.start_ends >= self.start_lines {
                self.close_start();
            }
        }
        self.push_end(text.as_bytes());
    }

    /// What is beyond the last whole line goes over to the end, unless that would be most of it: a very long line.
    fn close_start(&mut self) {
        self.start_full = true;
        let whole = if self.start_ends > self.start_lines {
            self.start
                .match_indices('\n')
                .nth(self.start_lines - 1)
                .map_or(0, |(at, _)| at + 1)
        } else {
            self.start.rfind('\n').map_or(0, |at| at + 1)
        };
        if self.start_ends >= self.start_lines || whole >= self.start_bytes / 2 {
            let over = self.start.split_off(whole);
            self.start_ends -= newlines(over.as_bytes()) as usize;
            self.push_end(over.as_bytes());
        }
    }

    fn push_end(&mut self, bytes: &[u8]) {
        let room = WHOLE_BYTES - self.start.len();
        if bytes.len() >= room {
            self.end.clear();
            self.end.extend(&bytes[bytes.len() - room..]);
        } else {
            let over = (self.end.len() + bytes.len()).saturating_sub(room);
            self.end.drain(..over);
            self.end.extend(bytes);
        }
    }

    pub(super) fn finish(mut self, written: Size) -> Output {
        let total = self.total.size();
        let whole = total.bytes == (self.start.len() + self.end.len()) as u64 && total.lines <= WHOLE_LINES as u64;
        if whole {
            let end = String::from_utf8_lossy(self.end.make_contiguous()).into_owned();
            let start = self.start + &end;
            return Output {
                written,
                total,
                start,
                end: String::new(),
                shown_lines: (total.lines, 0),
                cut: false,
            };
        }
        let (end, part) = match self.keep {
            Keep::Start => (String::new(), false),
            Keep::Ends => self.last_lines(),
        };
        // A line without an end is whole if the text ends there; a line whose beginning is missing is not.
        let open = !end.is_empty() && self.total.open;
        let end_lines = newlines(end.as_bytes()) + u64::from(open) - u64::from(part);
        Output {
            written,
            total,
            start: self.start,
            end,
            shown_lines: (self.start_ends as u64, end_lines),
            cut: true,
        }
    }

    /// The last lines that fit, and whether the first of them lacks its beginning, which a very long one does.
    fn last_lines(&mut self) -> (String, bool) {
        let room = PART_BYTES - self.start.len();
        let lines = PART_LINES - self.start_ends;
        let open = usize::from(self.total.open);
        let bytes = self.end.make_contiguous();
        let ends: Vec<usize> = bytes
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'\n')
            .map(|(at, _)| at)
            .collect();
        let mut from = bytes.len().saturating_sub(room);
        if ends.len() + open > lines {
            // After the end of the line before the first that is shown.
            from = from.max(ends[ends.len() + open - lines - 1] + 1);
        }
        let mut part = from > 0 && bytes[from - 1] != b'\n';
        if part {
            match ends.iter().find(|at| **at >= from).map(|at| at + 1) {
                Some(next) if bytes.len() - next >= room / 2 => (from, part) = (next, false),
                // Within a character.
                _ => from += bytes[from..].iter().take_while(|b| **b & 0xc0 == 0x80).count(),
            }
        }
        (String::from_utf8_lossy(&bytes[from..]).into_owned(), part)
    }
}
