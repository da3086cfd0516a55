//! Cuts text into chunks of at most N bytes, never within a character.

/// How many bytes of `text` the next chunk takes: at most `size`, but never less than one character. Zero: all.
pub fn cut(text: &str, size: usize) -> usize {
    if size == 0 || text.len() <= size {
        return text.len();
    }
    match text.floor_char_boundary(size) {
        0 => text.chars().next().map_or(0, char::len_utf8),
        at => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(mut text: &str, size: usize) -> Vec<&str> {
        let mut found = Vec::new();
        while !text.is_empty() {
            let (piece, rest) = text.split_at(cut(text, size));
            found.push(piece);
            text = rest;
        }
        found
    }

    #[test]
    fn a_character_wider_than_a_chunk_is_kept_whole() {
        assert_eq!(pieces("aé€😀", 1), ["a", "é", "€", "😀"]);
        assert_eq!(pieces("aé€😀", 3), ["aé", "€", "😀"]);
        assert_eq!(pieces("aé€😀", 0), ["aé€😀"]);
    }

    proptest! {
        #[test]
        fn pieces_make_the_text_again(text in "\\PC{0,200}", size in 0usize..40) {
            let pieces = pieces(&text, size);
            prop_assert_eq!(&pieces.concat(), &text);
            for piece in pieces {
                prop_assert!(!piece.is_empty());
                prop_assert!(size == 0 || piece.len() <= size || piece.chars().count() == 1);
            }
        }
    }
}
