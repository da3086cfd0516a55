//! What the bytes of a file are, as far as tools treat them differently.

/// Largest image that a model is given, in bytes.
pub const MAX_IMAGE_BYTES: usize = 5 << 20;

/// The media type of an image that models take, by its first bytes; twelve are enough.
pub fn image_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// Whether bytes are no text: there is a NUL among the first 8 KiB.
pub fn is_binary(bytes: &[u8]) -> bool {
    bytes.iter().take(8 << 10).any(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::{image_type, is_binary};

    #[test]
    fn images_are_known_by_their_beginning() {
        assert_eq!(image_type(b"\x89PNG\r\n\x1a\n..."), Some("image/png"));
        assert_eq!(image_type(b"\xff\xd8\xff\xe0"), Some("image/jpeg"));
        assert_eq!(image_type(b"GIF89a"), Some("image/gif"));
        assert_eq!(image_type(b"RIFF\x01\x02\x03\x04WEBPVP8 "), Some("image/webp"));
        for bytes in [&b""[..], b"RIFF\x01\x02\x03\x04WAVE", b"<svg", b"GIF88a", b"BM"] {
            assert_eq!(image_type(bytes), None);
        }
        assert!(is_binary(b"a\0b") && !is_binary("ä\n".as_bytes()));
    }
}
