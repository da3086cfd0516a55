//! The files by which a command's output is collected and its input is passed on, in the state directory of its sandbox.
//!
//! ```text
//!   output        what it wrote, stdout and stderr in the order of writing, up to the bound
//!   output.tail   the newest of what came after the bound; written at the end
//!   output.json   [`Counts`]; written at the end
//!   input         a FIFO: frames of [`data`] and [`CLOSE`], which the helper passes on
//! ```

use serde::{Deserialize, Serialize};

/// What the command wrote.
pub const OUTPUT: &str = "output";
/// The newest of what was not kept.
pub const TAIL: &str = "output.tail";
/// How much that was.
pub const COUNTS: &str = "output.json";
/// Where input comes in.
pub const INPUT: &str = "input";

/// The most that [`TAIL`] holds.
pub const TAIL_BYTES: usize = 64 << 10;
/// The most bytes of one frame, so that a frame is written at once or not at all.
pub const MAX_DATA: usize = 4096 - HEADER;
const HEADER: usize = 3;
const IS_DATA: u8 = 1;
const IS_CLOSE: u8 = 2;

/// The end of the input.
pub const CLOSE: [u8; HEADER] = [IS_CLOSE, 0, 0];

/// Kept as `output.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Everything that was written.
    pub bytes: u64,
    /// Newlines in it.
    pub newlines: u64,
    /// Bytes in `output`.
    pub kept: u64,
}

/// A frame of input, of at most [`MAX_DATA`] bytes.
pub fn data(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len().min(MAX_DATA)).unwrap_or_default();
    let [low, high] = length.to_le_bytes();
    let mut frame = vec![IS_DATA, low, high];
    frame.extend_from_slice(&bytes[..usize::from(length)]);
    frame
}

/// What a frame says.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// So many bytes of the buffer, after the header, are input.
    Data(Vec<u8>),
    /// There is no more.
    Close,
}

/// Bytes that begin no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAFrame;

/// Takes a whole frame off the front, and says how long it is. `None` where there is none yet; `Err` where the bytes are no
/// frame.
pub fn parse(bytes: &[u8]) -> Result<Option<(Frame, usize)>, NotAFrame> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_le_bytes([header[1], header[2]]));
    match header[0] {
        IS_CLOSE => Ok(Some((Frame::Close, HEADER))),
        IS_DATA => Ok(rest
            .get(..length)
            .map(|data| (Frame::Data(data.to_vec()), HEADER + length))),
        _ => Err(NotAFrame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut bytes = data(b"hello");
        bytes.extend(CLOSE);
        assert_eq!(parse(&bytes[..4]), Ok(None));
        assert_eq!(parse(&bytes), Ok(Some((Frame::Data(b"hello".to_vec()), 8))));
        assert_eq!(parse(&bytes[8..]), Ok(Some((Frame::Close, 3))));
        assert_eq!(parse(&[9, 0, 0]), Err(NotAFrame));
        assert_eq!(data(&[0; 10_000]).len(), 4096);
    }
}
