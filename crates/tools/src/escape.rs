//! Text of others as people are shown it: whatever is invisible, or moves other characters, is written as an escape. What
//! somebody consents to is what they see.

/// The text with each such character as `\u{...}`. Line ends and tabs stay. A backslash that would read as the beginning of
/// an escape is doubled, so that no text can pretend to be another one escaped.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' | '\t' => shown.push(c),
            '\\' if rest.peek() == Some(&'u') => shown.push_str("\\\\"),
            c if is_hidden(c) => shown.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => shown.push(c),
        }
    }
    shown
}

/// Whether a character shows nothing, shows a blank that is none, or changes where others stand.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}'
            | '\u{600}'..='\u{605}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}' | '\u{8e2}'
            | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{2800}' | '\u{3164}' | '\u{ffa0}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::visible;

    /// A command that reads as another one, by characters that nobody sees.
    #[test]
    fn nothing_stays_hidden() {
        for (text, shown) in [
            ("plain\ttext\nline", "plain\ttext\nline"),
            ("äöü 日本語 😀", "äöü 日本語 😀"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("a\u{2066}b\u{2069}", "a\\u{2066}b\\u{2069}"),
            ("a\u{200b}\u{200d}\u{feff}b", "a\\u{200b}\\u{200d}\\u{feff}b"),
            ("a\u{a0}b\u{3000}c", "a\\u{a0}b\\u{3000}c"),
            ("a\u{3164}b\u{2800}", "a\\u{3164}b\\u{2800}"),
            ("\x1b[2J\r\x08", "\\u{1b}[2J\\u{d}\\u{8}"),
            ("\u{e0041}\u{e0042}", "\\u{e0041}\\u{e0042}"),
            ("\u{2028}", "\\u{2028}"),
            ("a\u{fe0f}", "a\\u{fe0f}"),
            ("C:\\users \\n", "C:\\\\users \\n"),
            ("\\u{202e}", "\\\\u{202e}"),
        ] {
            assert_eq!(visible(text), shown, "{text:?}");
        }
    }
}
