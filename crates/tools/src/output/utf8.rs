//! Bytes to text: characters that were split between two pieces are joined, what is no UTF-8 is replaced.

/// Holds the beginning of a character that is not complete.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    /// At most three bytes.
    pending: Vec<u8>,
}

impl Joiner {
    pub(super) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        if self.pending.is_empty() {
            let rest = decode(bytes, &mut each);
            self.pending.extend_from_slice(rest);
            return;
        }
        // A character has four bytes at most: these decide the pending one.
        let (near, far) = bytes.split_at(bytes.len().min(3));
        let mut joined = std::mem::take(&mut self.pending);
        joined.extend_from_slice(near);
        let rest = decode(&joined, &mut each);
        if rest.is_empty() || far.is_empty() {
            self.pending = rest.to_vec();
            self.push_if_any(far, each);
            return;
        }
        // A second character began within them: it is shorter than `near`, so it can be read together with `far`.
        let start = near.len() - rest.len();
        let rest = decode(&bytes[start..], &mut each);
        self.pending.extend_from_slice(rest);
    }

    pub(super) fn finish(&mut self, mut each: impl FnMut(&str)) {
        if !std::mem::take(&mut self.pending).is_empty() {
            each("\u{fffd}");
        }
    }

    fn push_if_any(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        if !bytes.is_empty() {
            let rest = decode(bytes, &mut each);
            self.pending.extend_from_slice(rest);
        }
    }
}

/// Tells the text; returns the beginning of a character at the end that may go on.
fn decode<'a>(mut bytes: &'a [u8], each: &mut impl FnMut(&str)) -> &'a [u8] {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                if !text.is_empty() {
                    each(text);
                }
                return &[];
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                if !valid.is_empty() {
                    each(std::str::from_utf8(valid).expect("it is valid up to there"));
                }
                let Some(bad) = error.error_len() else { return rest };
                each("\u{fffd}");
                bytes = &rest[bad..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Joiner;

    fn text_of(pieces: &[&[u8]]) -> String {
        let mut joiner = Joiner::default();
        let mut text = String::new();
        for piece in pieces {
            joiner.push(piece, |part| text.push_str(part));
        }
        joiner.finish(|part| text.push_str(part));
        text
    }

    #[test]
    fn characters_split_byte_by_byte_are_whole() {
        let bytes = "aä€😀z".as_bytes();
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(text_of(&single), "aä€😀z");
        assert_eq!(text_of(&[b"a\xff\xfe", b"b\xe2\x82"]), "a\u{fffd}\u{fffd}b\u{fffd}");
    }

    proptest! {
        /// Wherever the bytes are split, the text is what the standard library makes of them.
        #[test]
        fn splits_change_nothing(
            parts in proptest::collection::vec(prop_oneof![any::<u8>().prop_map(|b| vec![b]), any::<char>().prop_map(|c| c.to_string().into_bytes())], 0..40),
            sizes in proptest::collection::vec(1usize..6, 1..60),
        ) {
            let bytes = parts.concat();
            let mut rest = bytes.as_slice();
            let mut pieces = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*size));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(text_of(&pieces), String::from_utf8_lossy(&bytes));
        }
    }
}
