//! Shows text that somebody else wrote so that what is seen is what is there: characters that hide, move or reorder other
//! text are written as escapes.

/// Text of one or more lines in which nothing is invisible. Line ends stay; everything else that has no shape of its own,
/// or changes how its neighbours are shown, becomes `\u{...}`.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push(c),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            c if c.is_control() || hides(c) => shown.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => shown.push(c),
        }
    }
    shown
}

/// Characters without a shape, and those that reorder the text around them.
fn hides(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}'
        | '\u{ffa0}' | '\u{feff}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}'
    ) || (c.is_whitespace() && c != ' ')
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn nothing_that_hides_or_reorders_is_left() {
        let hostile = "rm \u{202e}fdp.x\u{202c}\u{200b}\u{e0041}\u{a0}\u{1b}[2J\r\t\u{feff}";
        assert_eq!(
            visible(hostile),
            "rm \\u{202e}fdp.x\\u{202c}\\u{200b}\\u{e0041}\\u{a0}\\u{1b}[2J\\r\\t\\u{feff}"
        );
        assert_eq!(visible("äöü 日本\nb"), "äöü 日本\nb");
    }
}
