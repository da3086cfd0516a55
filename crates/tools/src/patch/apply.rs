//! The hunks of a patch in the text of one file. Lines that the patch only names stay as they are, with their line ends;
//! new ones get the line end of their neighbour, and the end of the file stays as it was.

use std::borrow::Cow;

use super::parse::{Hunk, Line};
use crate::{
    edit::{no_match, plain_line},
    error::{Code, Error},
};

/// The text after all hunks.
pub(super) fn apply(path: &str, text: &str, hunks: &[Hunk]) -> Result<String, Error> {
    let (mark, body) = match text.strip_prefix('\u{feff}') {
        Some(body) => ("\u{feff}", body),
        None => ("", text),
    };
    let lines: Vec<FileLine<'_>> = body.split_inclusive('\n').map(FileLine::new).collect();
    let mut after: Vec<FileLine<'_>> = Vec::with_capacity(lines.len());
    let mut cursor = 0;
    for hunk in hunks {
        let at = find(path, text, &lines, cursor, hunk)?;
        after.extend_from_slice(&lines[cursor..at]);
        cursor = at;
        // A new line takes the end of the one that it replaces.
        let mut replaced = None;
        for line in &hunk.lines {
            match line {
                Line::Keep(_) => {
                    after.push(lines[cursor]);
                    (cursor, replaced) = (cursor + 1, None);
                }
                Line::Remove(_) => {
                    replaced = Some(lines[cursor].end).filter(|end| !end.is_empty());
                    cursor += 1;
                }
                Line::Add(text) => {
                    let end = replaced.unwrap_or_else(|| neighbour_end(&lines, cursor));
                    after.push(FileLine { text, end });
                }
            }
        }
    }
    after.extend_from_slice(&lines[cursor..]);
    let ends = body.is_empty() || body.ends_with('\n');
    let default = lines
        .first()
        .map_or("\n", |line| if line.end.is_empty() { "\n" } else { line.end });
    let mut result = String::with_capacity(text.len() + 256);
    result.push_str(mark);
    for (place, line) in after.iter().enumerate() {
        result.push_str(line.text);
        let last = place + 1 == after.len();
        if !last || ends {
            result.push_str(if line.end.is_empty() { default } else { line.end });
        }
    }
    Ok(result)
}

/// A line of the file, without and with its end.
#[derive(Clone, Copy)]
struct FileLine<'a> {
    text: &'a str,
    end: &'a str,
}

impl<'a> FileLine<'a> {
    fn new(line: &'a str) -> FileLine<'a> {
        let text = line
            .strip_suffix('\n')
            .map_or(line, |text| text.strip_suffix('\r').unwrap_or(text));
        FileLine {
            text,
            end: &line[text.len()..],
        }
    }
}

/// The end of the line that will stand next to a new one: the one it comes before, else the one it comes after.
fn neighbour_end<'a>(lines: &[FileLine<'a>], at: usize) -> &'a str {
    let near = lines.get(at).or(lines.last()).or(lines.first());
    let own = near.map_or("", |line| line.end);
    if own.is_empty() {
        lines.first().map_or("", |line| line.end)
    } else {
        own
    }
}

/// How lines are compared, from strict to loose. Uniqueness counts within the first level that finds anything.
const LEVELS: [fn(&str) -> Cow<'_, str>; 4] = [
    |line| Cow::Borrowed(line),
    |line| Cow::Borrowed(line.trim_end()),
    |line| Cow::Borrowed(line.trim()),
    |line| match plain_line(line) {
        Cow::Borrowed(line) => Cow::Borrowed(line.trim()),
        Cow::Owned(line) => Cow::Owned(line.trim().to_owned()),
    },
];

/// Where the lines of a hunk stand, at or after `cursor`.
fn find(path: &str, text: &str, lines: &[FileLine<'_>], cursor: usize, hunk: &Hunk) -> Result<usize, Error> {
    let mut from = cursor;
    for heading in &hunk.headings {
        let found = LEVELS.iter().find_map(|level| {
            let sought = level(heading);
            (from..lines.len()).find(|at| level(lines[*at].text) == sought)
        });
        let Some(at) = found else {
            return Err(missing(path, text, heading, hunk));
        };
        from = at + 1;
    }
    let old = hunk.old();
    if old.is_empty() {
        return Ok(if hunk.headings.is_empty() || hunk.at_end {
            lines.len()
        } else {
            from
        });
    }
    // Some models repeat the heading as the first line: then it is sought from there.
    let starts = if hunk.headings.is_empty() {
        vec![from]
    } else {
        vec![from, from - 1]
    };
    for start in starts {
        for level in LEVELS {
            let places = occurrences(lines, start.max(cursor), &old, hunk.at_end, level);
            match places.as_slice() {
                [] => {}
                [one] => return Ok(*one),
                several => return Err(ambiguous(path, several, hunk)),
            }
        }
    }
    Err(missing(path, text, &old.join("\n"), hunk))
}

/// Where all of `old` stands, six places at most. The first line is compared first, so work is linear in usual files; each
/// line is made comparable once.
fn occurrences(
    lines: &[FileLine<'_>],
    from: usize,
    old: &[&str],
    at_end: bool,
    level: fn(&str) -> Cow<'_, str>,
) -> Vec<usize> {
    if lines.len() < from + old.len() {
        return Vec::new();
    }
    let old: Vec<Cow<'_, str>> = old.iter().map(|line| level(line)).collect();
    let last = lines.len() - old.len();
    let first = if at_end { last.max(from) } else { from };
    let own: Vec<Cow<'_, str>> = lines[first..].iter().map(|line| level(line.text)).collect();
    own.windows(old.len())
        .enumerate()
        .filter(|(_, window)| *window == old.as_slice())
        .map(|(at, _)| first + at)
        .take(6)
        .collect()
}

fn missing(path: &str, text: &str, old: &str, hunk: &Hunk) -> Error {
    let mut error = no_match(path, text, old);
    error.what = format!(
        "line {} of the patch: these lines do not occur in {path} where they are sought",
        hunk.line
    );
    error
}

fn ambiguous(path: &str, places: &[usize], hunk: &Hunk) -> Error {
    let lines: Vec<String> = places.iter().take(5).map(|at| (at + 1).to_string()).collect();
    let more = if places.len() > 5 { " and others" } else { "" };
    let what = format!(
        "line {} of the patch: these lines occur more than once in {path}, at lines {}{more}",
        hunk.line,
        lines.join(", ")
    );
    Error::new(Code::NotUnique, what)
        .with_next("Add lines around them, or a heading such as \"@@ def name():\" with a line above them.")
}
