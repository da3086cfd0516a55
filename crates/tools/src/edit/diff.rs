//! The difference of two texts, as `diff -u` writes it.

use std::fmt::Write as _;

use imara_diff::{Algorithm, Diff, InternedInput};

use crate::output::shorten_line;

/// Lines around each change.
const AROUND: u32 = 3;
/// Most bytes of a difference; more is left out, which is said.
const MAX_DIFF_BYTES: usize = 24 << 10;
/// Longest line that is shown, in characters.
const LINE_CHARS: usize = 2_000;

/// The difference, with three lines around each change. Line ends of `\r\n` are shown as line ends; a change of nothing
/// else is told in words. Empty if the texts are the same.
pub fn unified_diff(before_path: &str, after_path: &str, before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    let input = InternedInput::new(imara_diff::sources::lines(before), imara_diff::sources::lines(after));
    let mut diff = Diff::compute(Algorithm::Histogram, &input);
    diff.postprocess_lines(&input);
    let old: Vec<&str> = before.split_inclusive('\n').collect();
    let new: Vec<&str> = after.split_inclusive('\n').collect();
    let mut text = format!("--- {before_path}\n+++ {after_path}\n");
    let hunks: Vec<imara_diff::Hunk> = diff.hunks().collect();
    let mut rest = hunks.as_slice();
    while let Some(first) = rest.first() {
        // Changes whose surroundings touch are shown together.
        let together = 1 + rest
            .windows(2)
            .take_while(|pair| pair[1].before.start - pair[0].before.end <= 2 * AROUND)
            .count();
        let (group, after) = rest.split_at(together);
        let last = group.last().unwrap_or(first);
        rest = after;
        let from = (
            first.before.start.saturating_sub(AROUND),
            first.after.start.saturating_sub(AROUND.min(first.before.start)),
        );
        let to = (
            (last.before.end + AROUND).min(old.len() as u32),
            (last.after.end + AROUND).min(new.len() as u32),
        );
        let _ = writeln!(text, "@@ -{} +{} @@", range(from.0, to.0), range(from.1, to.1));
        let mut at = from.0;
        for hunk in group {
            show(&mut text, ' ', &old, at..hunk.before.start);
            show(&mut text, '-', &old, hunk.before.clone());
            show(&mut text, '+', &new, hunk.after.clone());
            at = hunk.before.end;
        }
        show(&mut text, ' ', &old, at..to.0);
        if text.len() > MAX_DIFF_BYTES {
            let end = text[..text.floor_char_boundary(MAX_DIFF_BYTES)]
                .rfind('\n')
                .map_or(0, |at| at + 1);
            text.truncate(end);
            let _ = writeln!(
                text,
                "[... the rest of the difference is left out: {} changes in all]",
                hunks.len()
            );
            break;
        }
    }
    text
}

fn show(text: &mut String, mark: char, lines: &[&str], range: std::ops::Range<u32>) {
    for line in &lines[range.start as usize..range.end as usize] {
        let whole = line.ends_with('\n');
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        text.push(mark);
        text.push_str(&shorten_line(line, LINE_CHARS));
        text.push('\n');
        if !whole {
            text.push_str("\\ No newline at end of file\n");
        }
        if text.len() > 2 * MAX_DIFF_BYTES {
            break;
        }
    }
}

/// Of lines `from..to`, counted from 0, as `diff -u` writes it.
fn range(from: u32, to: u32) -> String {
    match to - from {
        0 => format!("{from},0"),
        1 => format!("{}", from + 1),
        count => format!("{},{count}", from + 1),
    }
}
