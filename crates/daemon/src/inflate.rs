//! Inflates the messages of a request that came as gzip, one after the other, a small step at a time. The size of what
//! comes out is bounded while it is inflated, so a small message cannot become a large one.

use std::io::{self, Write};

use bytes::{Buf, Bytes};
use flate2::write::GzDecoder;
use tonic::{Code, Status};

use crate::{
    inbound::{PREFIX, length},
    status::status,
};

/// Bytes that go in at once: at most a thousand times as much comes out.
const PIECE: usize = 1 << 10;
/// Bytes that come out before others have their turn.
const TURN: usize = 1 << 20;

pub(crate) enum Step {
    /// A whole message, with the prefix of one that is not compressed.
    Message(Bytes),
    /// Nothing to inflate is left.
    Hungry,
    /// There is more to do.
    Busy,
}

pub(crate) struct Inflate {
    limit: usize,
    raw: Bytes,
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that are there.
    begun: usize,
    /// Bytes of the compressed message that are missing.
    missing: usize,
    message: Message,
}

enum Message {
    None,
    Plain(Bounded),
    Gzip(Box<GzDecoder<Bounded>>),
}

/// A message and room for its prefix, of bounded length.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Bounded {
    fn new(limit: usize) -> Self {
        Bounded {
            bytes: vec![0; PREFIX],
            limit,
        }
    }
}

impl Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > self.limit.saturating_add(PREFIX) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inflate {
    pub fn new(limit: usize) -> Self {
        Inflate {
            limit,
            raw: Bytes::new(),
            prefix: [0; PREFIX],
            begun: 0,
            missing: 0,
            message: Message::None,
        }
    }

    /// What came from the caller; only when the last step was hungry.
    pub fn feed(&mut self, data: Bytes) {
        self.raw = data;
    }

    /// Bytes of the message that is not whole.
    pub fn held(&self) -> usize {
        match &self.message {
            Message::None => self.begun,
            Message::Plain(plain) => plain.bytes.len(),
            Message::Gzip(gzip) => gzip.get_ref().bytes.len(),
        }
    }

    pub fn step(&mut self) -> Result<Step, Status> {
        let before = self.held();
        while !self.raw.is_empty() || self.is_whole() {
            if self.is_whole() {
                return self.finish().map(Step::Message);
            }
            if self.begun < PREFIX {
                self.read_prefix()?;
                continue;
            }
            let piece = self.raw.split_to(self.raw.len().min(self.missing).min(PIECE));
            self.missing -= piece.len();
            let wrote = match &mut self.message {
                Message::None => Ok(()),
                Message::Plain(plain) => plain.write_all(&piece),
                Message::Gzip(gzip) => gzip.write_all(&piece),
            };
            wrote.map_err(|error| self.refused(&error))?;
            if self.held() > before + TURN {
                return Ok(Step::Busy);
            }
        }
        Ok(Step::Hungry)
    }

    /// The caller sends no more.
    pub fn end(&self) -> Result<(), Status> {
        match self.begun {
            0 => Ok(()),
            _ => Err(malformed("the call ended within a message".into())),
        }
    }

    fn is_whole(&self) -> bool {
        self.begun == PREFIX && self.missing == 0
    }

    fn read_prefix(&mut self) -> Result<(), Status> {
        self.prefix[self.begun] = self.raw.get_u8();
        self.begun += 1;
        if self.begun < PREFIX {
            return Ok(());
        }
        self.missing = length(self.prefix);
        if self.missing > self.limit {
            return Err(self.too_large());
        }
        let into = Bounded::new(self.limit);
        self.message = match self.prefix[0] {
            0 => Message::Plain(into),
            1 => Message::Gzip(Box::new(GzDecoder::new(into))),
            flag => return Err(malformed(format!("{flag} is not a compression flag of gRPC"))),
        };
        Ok(())
    }

    fn finish(&mut self) -> Result<Bytes, Status> {
        let message = std::mem::replace(&mut self.message, Message::None);
        let mut bytes = match message {
            Message::None => vec![0; PREFIX],
            Message::Plain(plain) => plain.bytes,
            Message::Gzip(gzip) => gzip.finish().map_err(|error| self.refused(&error))?.bytes,
        };
        // At most `limit`, which a length of gRPC holds.
        let len = u32::try_from(bytes.len() - PREFIX).map_err(|_| self.too_large())?;
        bytes[1..PREFIX].copy_from_slice(&len.to_be_bytes());
        self.begun = 0;
        Ok(bytes.into())
    }

    fn refused(&self, error: &io::Error) -> Status {
        match error.kind() {
            io::ErrorKind::FileTooLarge => self.too_large(),
            _ => malformed(format!("failed to inflate a message: {error}")),
        }
    }

    fn too_large(&self) -> Status {
        let message = format!(
            "a compressed message is longer than {} bytes (max_message_bytes)",
            self.limit
        );
        status(Code::ResourceExhausted, message, "MAX_MESSAGE_BYTES")
    }
}

fn malformed(message: String) -> Status {
    status(Code::InvalidArgument, message, "MALFORMED_MESSAGE")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    fn frame(flag: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![flag];
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    fn gzip(payload: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(payload).unwrap();
        frame(1, &encoder.finish().unwrap())
    }

    fn all(inflate: &mut Inflate, data: Vec<u8>) -> Result<Vec<Bytes>, Status> {
        inflate.feed(data.into());
        let mut messages = Vec::new();
        loop {
            match inflate.step()? {
                Step::Message(message) => messages.push(message),
                Step::Busy => {}
                Step::Hungry => return Ok(messages),
            }
        }
    }

    #[test]
    fn messages_come_out_plain_however_they_are_cut() {
        let sent = [gzip(b"one"), frame(0, b"two"), gzip(b""), gzip(&[7; 5000])].concat();
        let whole = all(&mut Inflate::new(9000), sent.clone()).unwrap();
        let expected = [frame(0, b"one"), frame(0, b"two"), frame(0, b""), frame(0, &[7; 5000])];
        assert_eq!(whole, expected);
        let mut inflate = Inflate::new(9000);
        let cut: Vec<Bytes> = sent
            .iter()
            .flat_map(|byte| all(&mut inflate, vec![*byte]).unwrap())
            .collect();
        assert_eq!(cut, expected);
        inflate.end().unwrap();
        all(&mut inflate, vec![1, 0]).unwrap();
        assert_eq!(inflate.end().unwrap_err().code(), Code::InvalidArgument);
    }

    /// Attack: a few kilobytes of gzip that become a gigabyte.
    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100 << 10);
        let mut inflate = Inflate::new(1 << 20);
        let refused = all(&mut inflate, bomb).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(inflate.held() <= (1 << 20) + PREFIX);
        let garbage = all(&mut Inflate::new(1 << 20), frame(1, b"no gzip at all")).unwrap_err();
        assert_eq!(garbage.code(), Code::InvalidArgument);
        let large = all(&mut Inflate::new(10), frame(1, &[0; 11])).unwrap_err();
        assert_eq!(large.code(), Code::ResourceExhausted);
    }
}
