//! What a model is shown when its text is not in the file: the lines most like it, as they are.

use std::collections::HashSet;

use crate::{
    error::{Code, Error},
    output::shorten_line,
};

/// How many lines are shown.
const LINES: usize = 20;
/// Longest line that is shown, in characters.
const LINE_CHARS: usize = 300;
/// Most lines of a file that are compared, and of the text sought.
const COMPARED: usize = 100_000;
const SOUGHT: usize = 40;

/// The error with the lines around the place that is most like `old`.
pub(crate) fn no_match(path: &str, text: &str, old: &str) -> Error {
    let error = Error::new(Code::NoMatch, format!("the text does not occur in {path}"));
    let lines: Vec<&str> = text.lines().take(COMPARED).collect();
    if lines.is_empty() {
        return error.with_next("The file is empty; write_file gives it content.");
    }
    let from = nearest(&lines, old);
    let to = (from + LINES).min(lines.len());
    let mut next = format!("The nearest lines, {} to {to} of {}:\n", from + 1, text.lines().count());
    for line in &lines[from..to] {
        next.push_str(&shorten_line(line, LINE_CHARS));
        next.push('\n');
    }
    next.push_str("Copy the text exactly, or read the file again.");
    error.with_next(next)
}

/// The first line of the part that has most in common with `old`. Each line counts by the pairs of characters it shares
/// with the lines sought; work is linear in the file.
fn nearest(lines: &[&str], old: &str) -> usize {
    let sought: HashSet<(char, char)> = old.lines().take(SOUGHT).flat_map(pairs).collect();
    let exact: HashSet<&str> = old
        .lines()
        .take(SOUGHT)
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let scores: Vec<u64> = lines
        .iter()
        .map(|line| {
            let own: HashSet<(char, char)> = pairs(line).collect();
            let shared = own.intersection(&sought).count() as u64;
            let alike = if own.is_empty() {
                0
            } else {
                shared * shared / own.len() as u64
            };
            if exact.contains(line.trim()) {
                alike + 100
            } else {
                alike
            }
        })
        .collect();
    // A window that slides over the file; the text sought stands in its middle.
    let height = old.lines().count().clamp(1, LINES);
    let height = height.min(lines.len());
    let mut sum: u64 = scores[..height].iter().sum();
    let (mut best, mut best_at) = (sum, 0);
    for at in 1..=lines.len() - height {
        sum = sum + scores[at + height - 1] - scores[at - 1];
        if sum > best {
            (best, best_at) = (sum, at);
        }
    }
    best_at
        .saturating_sub((LINES - height) / 2)
        .min(lines.len().saturating_sub(LINES))
}

fn pairs(line: &str) -> impl Iterator<Item = (char, char)> {
    let line = line.trim();
    line.chars().zip(line.chars().skip(1)).take(400)
}
