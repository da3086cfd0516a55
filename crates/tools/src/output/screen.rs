//! What a terminal would show in the end: colours and other codes are gone, a line that was overwritten (`\r`, backspace,
//! cursor up) is as it was left.
//!
//! The last 40 lines can still be overwritten; a line that is older is told on. Lines and codes have a greatest length,
//! so memory is bounded whatever is written, and a code that never ends hides no more than one line.

use std::collections::VecDeque;

use super::cutter::Cutter;

/// Lines that can still be overwritten: the height of the terminal that programs are given.
const ROWS: usize = 40;
/// Longest line that can still be overwritten, in characters.
const ROW_CHARS: usize = 4096;
/// How far to the right of a line's end the cursor may move: twice the width of the terminal.
const COLUMNS: usize = 240;
/// Longest parameters of a code, in characters.
const CODE_CHARS: usize = 256;
/// Longest text for the terminal itself, in characters.
const TEXT_CHARS: usize = 4096;
/// Text of this length is worth the way past the rows.
const BULK_BYTES: usize = 4096;

#[derive(Debug)]
pub(super) struct Screen {
    /// Never empty.
    rows: VecDeque<Row>,
    row: usize,
    column: usize,
    code: Code,
}

#[derive(Debug, Default)]
struct Row {
    cells: Vec<char>,
    /// Blanks at its end are what is left of erased text.
    overwritten: bool,
}

/// Where in a code the next character stands.
#[derive(Debug)]
enum Code {
    /// In none.
    None,
    /// After ESC.
    Escape,
    /// After ESC and characters that another one ends.
    Intermediate,
    /// After `ESC [`: the parameters so far.
    Control(String),
    /// In a text for the terminal itself, such as a title: how long it is, and whether an ESC may end it.
    Text(usize, bool),
}

impl Default for Screen {
    fn default() -> Self {
        Screen {
            rows: VecDeque::from([Row::default()]),
            row: 0,
            column: 0,
            code: Code::None,
        }
    }
}

impl Screen {
    pub(super) fn push(&mut self, mut text: &str, out: &mut Cutter) {
        while !text.is_empty() {
            if matches!(self.code, Code::None) {
                let (plain, rest) = text.split_at(plain_len(text.as_bytes()));
                self.plain(plain, out);
                text = rest;
            }
            let mut characters = text.chars();
            if let Some(c) = characters.next() {
                self.special(c, out);
                text = characters.as_str();
            }
        }
    }

    /// Tells everything; nothing before this can be overwritten any more.
    pub(super) fn flush(&mut self, out: &mut Cutter) {
        while self.rows.len() > 1 {
            self.tell_first(out);
        }
        self.rows[0].tell(out);
        self.rows[0] = Row::default();
        (self.row, self.column) = (0, 0);
    }

    /// Text without codes: letters, tabs and line ends.
    fn plain(&mut self, mut text: &str, out: &mut Cutter) {
        if text.len() >= BULK_BYTES && self.at_end() {
            // All but the last lines goes on as it is.
            let last = text.rmatch_indices('\n').nth(ROWS - 1).map_or(0, |(at, _)| at + 1);
            if last > 0 {
                self.flush(out);
                out.push(&text[..last]);
                text = &text[last..];
            }
        }
        while let Some(end) = text.find('\n') {
            self.put(&text[..end], out);
            self.line_end(out);
            text = &text[end + 1..];
        }
        self.put(text, out);
    }

    fn put(&mut self, text: &str, out: &mut Cutter) {
        if text.is_empty() {
            return;
        }
        if self.at_end() && self.column + text.len() > ROW_CHARS {
            // A very long line: nobody overwrites it.
            self.flush(out);
            out.push(text);
            return;
        }
        if self.column + text.len() > 2 * ROW_CHARS {
            self.flush(out);
            return self.put(text, out);
        }
        let row = &mut self.rows[self.row];
        let column = self.column.min(row.cells.len() + COLUMNS);
        if row.cells.len() < column {
            row.cells.resize(column, ' ');
        }
        let over = row.cells.len() - column;
        self.column = column;
        if over == 0 {
            row.cells.extend(text.chars());
            self.column = row.cells.len();
        } else {
            row.overwritten = true;
            for c in text.chars() {
                match row.cells.get_mut(self.column) {
                    Some(cell) => *cell = c,
                    None => row.cells.push(c),
                }
                self.column += 1;
            }
        }
    }

    fn at_end(&self) -> bool {
        self.row + 1 == self.rows.len() && self.column == self.rows[self.row].cells.len()
    }

    fn line_end(&mut self, out: &mut Cutter) {
        self.column = 0;
        self.row += 1;
        if self.row == self.rows.len() {
            self.rows.push_back(Row::default());
            if self.rows.len() > ROWS {
                self.tell_first(out);
            }
        }
    }

    fn tell_first(&mut self, out: &mut Cutter) {
        if let Some(row) = self.rows.pop_front() {
            row.tell(out);
            out.push("\n");
            self.row = self.row.saturating_sub(1);
        }
    }

    /// A character that is not plain text, or stands within a code.
    fn special(&mut self, c: char, out: &mut Cutter) {
        match std::mem::replace(&mut self.code, Code::None) {
            Code::None => self.control(c, out),
            // These end or break off any code.
            _ if c == '\x18' || c == '\x1a' => {}
            // ESC and a backslash end it; ESC and anything else begins another code.
            Code::Text(_, true) if c == '\\' => {}
            Code::Text(_, true) => self.escape(c, out),
            Code::Text(length, false) => match c {
                '\x07' | '\u{9c}' => {}
                '\n' => self.line_end(out),
                '\x1b' => self.code = Code::Text(length, true),
                _ if length >= TEXT_CHARS => {}
                _ => self.code = Code::Text(length + 1, false),
            },
            Code::Escape => self.escape(c, out),
            Code::Intermediate => match c {
                ' '..='/' => self.code = Code::Intermediate,
                '\x1b' => self.code = Code::Escape,
                '\n' => self.line_end(out),
                _ => {}
            },
            Code::Control(mut parameters) => match c {
                '@'..='~' => self.act(&parameters, c),
                ' '..='?' if parameters.len() < CODE_CHARS => {
                    parameters.push(c);
                    self.code = Code::Control(parameters);
                }
                '\x1b' => self.code = Code::Escape,
                c => self.control(c, out),
            },
        }
    }

    fn control(&mut self, c: char, out: &mut Cutter) {
        match c {
            '\r' => self.column = 0,
            '\x08' => self.column = self.column.saturating_sub(1),
            '\n' | '\x0b' | '\x0c' | '\u{85}' => self.line_end(out),
            '\x1b' => self.code = Code::Escape,
            '\u{9b}' => self.code = Code::Control(String::new()),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => self.code = Code::Text(0, false),
            _ => {}
        }
    }

    fn escape(&mut self, c: char, out: &mut Cutter) {
        match c {
            '[' => self.code = Code::Control(String::new()),
            ']' | 'P' | 'X' | '^' | '_' => self.code = Code::Text(0, false),
            ' '..='/' => self.code = Code::Intermediate,
            '\x1b' => self.code = Code::Escape,
            'M' => self.row = self.row.saturating_sub(1),
            'E' | '\n' => self.line_end(out),
            _ => {}
        }
    }

    /// A code that moves or erases. Everything else is about looks.
    fn act(&mut self, parameters: &str, action: char) {
        let mut numbers = parameters
            .split(';')
            .map(|number| number.parse::<usize>().ok().map(|number| number.min(9999)));
        let first = numbers.next().flatten();
        let second = numbers.next().flatten();
        let count = first.unwrap_or(1).max(1);
        let lowest = self.rows.len() - 1;
        match action {
            'A' | 'F' => self.row = self.row.saturating_sub(count),
            'B' | 'E' => self.row = (self.row + count).min(lowest),
            'C' => self.column += count,
            'D' => self.column = self.column.saturating_sub(count),
            'G' | '`' => self.column = count - 1,
            'd' => self.row = (count - 1).min(lowest),
            'H' | 'f' => {
                self.row = (count - 1).min(lowest);
                self.column = second.unwrap_or(1).max(1) - 1;
            }
            'J' => self.erase_rows(first.unwrap_or(0)),
            'K' => self.rows[self.row].erase(self.column, first.unwrap_or(0)),
            'P' => self.rows[self.row].remove(self.column, count),
            'X' => self.rows[self.row].blank(self.column, self.column + count),
            _ => {}
        }
        if matches!(action, 'E' | 'F') {
            self.column = 0;
        }
        self.column = self.column.min(self.rows[self.row].cells.len() + COLUMNS);
    }

    fn erase_rows(&mut self, what: usize) {
        match what {
            0 => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].erase(self.column, 0);
            }
            1 => {
                self.rows.iter_mut().take(self.row).for_each(|row| row.cells.clear());
                self.rows[self.row].erase(self.column, 1);
            }
            _ => {
                self.rows = VecDeque::from([Row::default()]);
                (self.row, self.column) = (0, 0);
            }
        }
    }
}

impl Row {
    fn tell(&self, out: &mut Cutter) {
        let mut text: String = self.cells.iter().collect();
        if self.overwritten {
            text.truncate(text.trim_end_matches(' ').len());
        }
        if !text.is_empty() {
            out.push(&text);
        }
    }

    /// From `column` to the end (0), from the beginning to `column` (1), or all (2).
    fn erase(&mut self, column: usize, what: usize) {
        match what {
            0 => self.cells.truncate(column),
            1 => self.blank(0, column + 1),
            _ => self.cells.clear(),
        }
        self.overwritten = true;
    }

    fn remove(&mut self, column: usize, count: usize) {
        let end = (column + count).min(self.cells.len());
        self.cells.drain(column.min(end)..end);
    }

    fn blank(&mut self, from: usize, to: usize) {
        let to = to.min(self.cells.len());
        self.cells[from.min(to)..to].fill(' ');
        self.overwritten = true;
    }
}

/// How many bytes at the beginning are text, tabs and line ends.
fn plain_len(bytes: &[u8]) -> usize {
    let mut from = 0;
    while let Some(at) = bytes[from..]
        .iter()
        .position(|b| (*b < 0x20 && *b != b'\n' && *b != b'\t') || *b == 0x7f || *b == 0xc2)
    {
        let at = from + at;
        // The controls beyond ASCII are two bytes, of which the first begins letters too.
        if bytes[at] != 0xc2 || bytes.get(at + 1).is_some_and(|b| *b < 0xa0) {
            return at;
        }
        from = at + 1;
    }
    bytes.len()
}
