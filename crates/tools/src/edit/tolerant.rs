//! A text sought without regard to what people and models confuse: blanks at line ends, CRLF, typographic quotes, dashes
//! and blanks. Each character is compared with one character, so a match has the same letters in the same places.

use std::borrow::Cow;

/// Where `old` occurs in `text`, by whole characters of `text`, without overlaps. Ends of lines that were ignored belong to
/// a match only between its lines.
pub(super) fn places(text: &str, old: &str) -> Vec<(usize, usize)> {
    let (haystack, origin) = plain_text(text);
    let (needle, _) = plain_text(old);
    // Blanks at the end of the last line of `old` mean the end of a line, which is not sought.
    let needle = if old.ends_with('\n') {
        needle.as_str()
    } else {
        needle.trim_end_matches(' ')
    };
    if needle.trim().is_empty() {
        return Vec::new();
    }
    haystack
        .match_indices(needle)
        .map(|(at, found)| {
            let last = at + found.len() - 1;
            (origin[at].0, origin[last].1)
        })
        .collect()
}

/// A line without what is ignored.
pub(crate) fn plain_line(line: &str) -> Cow<'_, str> {
    let line = line.trim_end();
    if line.chars().all(|c| plain_char(c) == c) {
        Cow::Borrowed(line)
    } else {
        Cow::Owned(line.chars().map(plain_char).collect())
    }
}

/// The text without what is ignored, and for each of its bytes where in `text` the character it comes from begins and ends.
/// Blanks before a line end are left out; the line end then begins where they begin.
fn plain_text(text: &str) -> (String, Vec<(usize, usize)>) {
    let mut plain = String::with_capacity(text.len());
    let mut origin = Vec::with_capacity(text.len());
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let ends = line.ends_with('\n');
        let kept = if ends { line.trim_end() } else { line };
        for (place, c) in kept.char_indices() {
            let before = plain.len();
            plain.push(plain_char(c));
            origin.resize(
                origin.len() + plain.len() - before,
                (at + place, at + place + c.len_utf8()),
            );
        }
        if ends {
            plain.push('\n');
            origin.push((at + kept.len(), at + line.len()));
        }
        at += line.len();
    }
    (plain, origin)
}

fn plain_char(c: char) -> char {
    match c {
        '\u{2018}'..='\u{201b}' | '\u{2032}' => '\'',
        '\u{201c}'..='\u{201f}' | '\u{2033}' => '"',
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{a0}' | '\u{2002}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
        c => c,
    }
}
