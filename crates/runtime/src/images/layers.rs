//! Layers as they come: opened, unpacked whatever packed them, and compared with the digest that the image's config
//! names for them.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;
use sha2::{Digest, Sha256};

/// What is below the compression, told by its first bytes: what a manifest calls it is not needed.
pub fn unpacked<'a>(packed: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut packed = BufReader::with_capacity(256 << 10, packed);
    let start = packed.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(packed)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(StreamingDecoder::new(packed).map_err(io::Error::other)?),
        _ => Box::new(packed),
    })
}

/// A stream that knows the digest of what has been read.
pub struct Hashed<R> {
    from: R,
    digest: Sha256,
}

impl<R: Read> Hashed<R> {
    pub fn new(from: R) -> Hashed<R> {
        Hashed {
            from,
            digest: Sha256::new(),
        }
    }

    /// Reads what is left, at most `most` bytes, and says the digest of everything.
    pub fn finish(mut self, most: u64) -> io::Result<String> {
        let left = io::copy(&mut (&mut self).take(most), &mut io::sink())?;
        if left == most {
            return Err(io::Error::other("there is far more in the layer than its files"));
        }
        Ok(text(self.digest))
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.digest.update(&buffer[..length]);
        Ok(length)
    }
}

pub fn digest(bytes: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(bytes);
    text(digest)
}

pub fn digest_file(file: &mut impl Read) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(text(digest)),
            length => digest.update(&buffer[..length]),
        }
    }
}

pub fn text(digest: Sha256) -> String {
    format!("sha256:{}", hex::encode(digest.finalize()))
}

/// The hexadecimal part, if it is a digest that can be checked.
pub fn hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some(hex)
}
