//! What the targets share: a place for files, a call in bytes, and real daemons to send it to.

pub mod call;
pub mod world;

use std::path::PathBuf;

/// A directory of its own, in memory where the host has such a place.
pub fn directory() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
    tempfile::Builder::new()
        .prefix("nexus-fuzz-")
        .tempdir_in(place)
        .expect("a temporary directory")
}

/// Bytes in pieces of `size`.
pub fn pieces(bytes: &[u8], size: u8) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(usize::from(size).max(1))
}
