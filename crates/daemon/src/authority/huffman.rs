//! The Huffman code of HPACK (RFC 7541 appendix B).
//!
//! The code is canonical: codes of one length are consecutive, in the order of their symbols, and follow those of the length
//! before. So the lengths alone define it. It decodes bit by bit, which suits the one short string of a connection.

const SYMBOLS: usize = 257;
const END: u16 = 256;
const LONGEST: usize = 30;

/// How many bits the code of each octet has, then that of the end of a string.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // 00
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, // 10
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // 20
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // 30
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // 40
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 50
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // 60
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 70
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 80
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, // 90
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, // a0
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, // b0
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, // c0
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, // d0
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, // e0
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, // f0
    30, // end of string
];

/// The codes of each length: the first one, how many there are, and where their symbols start in `symbols`.
struct Code {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    start: [usize; LONGEST + 1],
    symbols: [u16; SYMBOLS],
}

const CODE: Code = build();

const fn build() -> Code {
    let mut code = Code {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        symbols: [0; SYMBOLS],
    };
    let (mut next, mut filled, mut len) = (0, 0, 1);
    while len <= LONGEST {
        next <<= 1;
        code.first[len] = next;
        code.start[len] = filled;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == len {
                code.symbols[filled] = symbol as u16;
                filled += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.count[len] = next - code.first[len];
        len += 1;
    }
    code
}

/// `None` if this is no coding: the end symbol within, or padding other than at most seven ones.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    static TABLE: Code = CODE;
    let mut out = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut len) = (0_u32, 0);
    for byte in coded {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            len += 1;
            let nth = code.wrapping_sub(TABLE.first[len]);
            if nth < TABLE.count[len] {
                match TABLE.symbols[TABLE.start[len] + nth as usize] {
                    END => return None,
                    symbol => out.push(symbol as u8),
                }
                (code, len) = (0, 0);
            }
        }
    }
    (len < 8 && code + 1 == 1 << len).then_some(out)
}

/// The other way, for tests.
#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u64, 0);
    for &byte in text {
        let len = usize::from(LENGTHS[usize::from(byte)]);
        let nth = (0..byte)
            .filter(|b| usize::from(LENGTHS[usize::from(*b)]) == len)
            .count();
        bits = bits << len | (u64::from(CODE.first[len]) + nth as u64);
        held += len;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        out.push((bits << (8 - held)) as u8 | (0xff >> held));
    }
    out
}

#[cfg(test)]
mod tests {
    use fluke_hpack::huffman::HuffmanDecoder;
    use proptest::prelude::*;

    use super::{decode, encode};

    fn hex(text: &str) -> Vec<u8> {
        hex::decode(text.replace(' ', "")).expect("hex digits")
    }

    /// Every Huffman-coded value of RFC 7541 appendix C.4 and C.6.
    #[test]
    fn reads_the_vectors_of_the_rfc() {
        for (coded, text) in [
            ("f1e3 c2e5 f23a 6ba0 ab90 f4ff", "www.example.com"),
            ("a8eb 1064 9cbf", "no-cache"),
            ("25a8 49e9 5ba9 7d7f", "custom-key"),
            ("25a8 49e9 5bb8 e8b4 bf", "custom-value"),
            ("6402", "302"),
            ("aec3 771a 4b", "private"),
            (
                "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            ("9d29 ad17 1863 c78f 0b97 c8e9 ae82 ae43 d3", "https://www.example.com"),
            ("640e ff", "307"),
            (
                "d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff",
                "Mon, 21 Oct 2013 20:13:22 GMT",
            ),
            ("9bd9 ab", "gzip"),
            (
                "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
            ),
        ] {
            assert_eq!(decode(&hex(coded)).as_deref(), Some(text.as_bytes()), "{text}");
            assert_eq!(encode(text.as_bytes()), hex(coded), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_coding() {
        assert_eq!(decode(&[]), Some(vec![]));
        assert_eq!(decode(&hex("ff")), None, "a whole byte of padding");
        assert_eq!(decode(&hex("ffff ffff")), None, "the end symbol");
        assert_eq!(decode(&hex("00")), None, "padding of zeros");
    }

    proptest! {
        #[test]
        fn agrees_with_another_decoder(coded: Vec<u8>, text: Vec<u8>) {
            prop_assert_eq!(decode(&coded), HuffmanDecoder::new().decode(&coded).ok());
            let coded = encode(&text);
            prop_assert_eq!(decode(&coded), Some(text.clone()));
            prop_assert_eq!(HuffmanDecoder::new().decode(&coded).ok(), Some(text));
        }
    }

    #[test]
    fn has_a_code_for_every_octet() {
        for octet in 0..=u8::MAX {
            let coded = encode(&[octet]);
            assert_eq!(HuffmanDecoder::new().decode(&coded).ok(), Some(vec![octet]));
            assert_eq!(decode(&coded), Some(vec![octet]));
        }
    }
}
