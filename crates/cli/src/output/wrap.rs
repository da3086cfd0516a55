//! Breaks text at words, while it arrives in pieces: a word is held back until it is known where it ends.

use unicode_width::UnicodeWidthChar;

#[derive(Debug)]
pub struct Wrap {
    width: usize,
    /// Columns of the line that are taken.
    column: usize,
    /// Blanks that are written before the next word, unless the line breaks there.
    blanks: String,
    word: String,
    word_width: usize,
}

impl Wrap {
    /// For lines of this many columns.
    pub fn new(width: usize) -> Wrap {
        Wrap {
            width: width.max(1),
            column: 0,
            blanks: String::new(),
            word: String::new(),
            word_width: 0,
        }
    }

    /// What may be written now.
    pub fn piece(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '\n' => {
                    self.end_word(&mut out);
                    self.blanks.clear();
                    out.push('\n');
                    self.column = 0;
                }
                ' ' | '\t' => {
                    self.end_word(&mut out);
                    self.blanks.push(c);
                }
                c => {
                    let width = c.width().unwrap_or(0);
                    // A word that no line holds is broken where it must be.
                    if self.word_width + width > self.width {
                        self.end_word(&mut out);
                    }
                    self.word.push(c);
                    self.word_width += width;
                }
            }
        }
        out
    }

    /// What was held back; the text ends here.
    pub fn end(&mut self) -> String {
        let mut out = String::new();
        self.end_word(&mut out);
        self.blanks.clear();
        self.column = 0;
        out
    }

    fn end_word(&mut self, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        // A tab is as wide as it can be.
        let blanks: usize = self.blanks.chars().map(|c| if c == '\t' { 8 } else { 1 }).sum();
        if self.column > 0 && self.column + blanks + self.word_width > self.width {
            out.push('\n');
            self.column = 0;
        } else {
            out.push_str(&self.blanks);
            self.column += blanks;
        }
        out.push_str(&self.word);
        self.column += self.word_width;
        self.blanks.clear();
        self.word.clear();
        self.word_width = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(width: usize, pieces: &[&str]) -> String {
        let mut wrap = Wrap::new(width);
        let mut out: String = pieces.iter().map(|piece| wrap.piece(piece)).collect();
        out.push_str(&wrap.end());
        out
    }

    #[test]
    fn lines_break_between_words_however_the_text_arrives() {
        let text = "the quick brown fox jumps";
        assert_eq!(wrapped(10, &[text]), "the quick\nbrown fox\njumps");
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert_eq!(wrapped(10, &letters), "the quick\nbrown fox\njumps");
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let code = "fn a() {\n    let b  = 1;\n}\n";
        assert_eq!(wrapped(40, &[code]), code);
    }

    #[test]
    fn a_word_without_an_end_is_broken_and_wide_letters_count_twice() {
        assert_eq!(wrapped(4, &["abcdefghij"]), "abcd\nefgh\nij");
        assert_eq!(wrapped(4, &["日本語です"]), "日本\n語で\nす");
    }

    #[test]
    fn a_whole_word_is_written_as_soon_as_it_is_known_to_be_whole() {
        let mut wrap = Wrap::new(80);
        assert_eq!(wrap.piece("hel"), "");
        assert_eq!(wrap.piece("lo wor"), "hello");
        assert_eq!(wrap.end(), " wor");
    }
}
