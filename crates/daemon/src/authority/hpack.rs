//! Finds the `:authority` literal in a HEADERS frame and overwrites its value if `h2` would refuse it.
//!
//! Walks the representations of RFC 7541 section 6 only to find their ends; never resolves an index, so it needs no table.
//! A name that refers to an `:authority` in the dynamic table is therefore not seen; encoders take the static index.

use std::borrow::Cow;
use std::ops::Range;

use super::huffman;

const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
const HUFFMAN: u8 = 0x80;
const WITH_INDEXING: u8 = 0x40;
/// `:authority` in the static table.
const STATIC_AUTHORITY: usize = 1;
const NAME: &[u8] = b":authority";
/// Any letter makes a valid authority of any length.
const FILL: u8 = b'x';

/// What a HEADERS frame held.
pub(super) enum Authority {
    /// None as a literal: no authority, a reference to an earlier one, or bytes that are no header block.
    Absent,
    Valid,
    Overwritten,
    /// Invalid, and cannot be overwritten.
    Left,
}

/// `payload` is what follows the frame's head.
pub(super) fn mend(payload: &mut [u8], flags: u8) -> Authority {
    let Some(block) = header_block(payload, flags) else {
        return Authority::Absent;
    };
    let Some((value, stored)) = find(block) else {
        return Authority::Absent;
    };
    let Some(text) = value.read(block) else {
        return Authority::Left;
    };
    // The very function that h2 judges it by.
    if http::uri::Authority::try_from(&*text).is_ok() {
        return Authority::Valid;
    }
    // A stored value that grew would be evicted earlier than the encoder believes.
    if value.bytes.is_empty() || (stored && value.bytes.len() > text.len()) {
        return Authority::Left;
    }
    block[value.head] &= !HUFFMAN;
    block[value.bytes].fill(FILL);
    Authority::Overwritten
}

/// The payload without padding and priority.
fn header_block(payload: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let (mut start, mut padding) = (0, 0);
    if flags & PADDED != 0 {
        padding = usize::from(*payload.first()?);
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    let end = payload.len().checked_sub(padding)?;
    payload.get_mut(start..end)
}

/// The value of the block's first `:authority` literal, and whether the decoder's table will hold it.
fn find(block: &[u8]) -> Option<(Text, bool)> {
    let mut cursor = Cursor { block, at: 0 };
    while let Some(&first) = block.get(cursor.at) {
        let (prefix, literal) = match first {
            0x80.. => (7, false),      // indexed
            0x40..=0x7f => (6, true),  // literal, stored
            0x20..=0x3f => (5, false), // table size update
            0x00..=0x1f => (4, true),  // literal, not stored
        };
        let index = cursor.integer(prefix)?;
        if !literal {
            continue;
        }
        let is_authority = match index {
            0 => cursor.text()?.read(block)? == NAME,
            index => index == STATIC_AUTHORITY,
        };
        let value = cursor.text()?;
        if is_authority {
            return Some((value, first & WITH_INDEXING != 0));
        }
    }
    None
}

struct Text {
    /// Where the Huffman bit is.
    head: usize,
    bytes: Range<usize>,
    coded: bool,
}

impl Text {
    /// `None` if the bytes are no Huffman coding.
    fn read<'a>(&self, block: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let bytes = &block[self.bytes.clone()];
        if self.coded {
            huffman::decode(bytes).map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(bytes))
        }
    }
}

struct Cursor<'a> {
    block: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// RFC 7541 section 5.1, of at most five bytes, as h2 takes it.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let mask = (1 << prefix) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(self.byte()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// RFC 7541 section 5.2. `None` if it reaches beyond the block.
    fn text(&mut self) -> Option<Text> {
        let head = self.at;
        let coded = self.block.get(head)? & HUFFMAN != 0;
        let len = self.integer(7)?;
        let bytes = self.at..self.at + len;
        self.block.get(bytes.clone())?;
        self.at = bytes.end;
        Some(Text { head, bytes, coded })
    }
}
