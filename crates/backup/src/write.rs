//! Writes an archive: one entry after the other, in the order of the manifest.

use std::io::{self, Read, Write};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

/// Adds the data of one file under its name.
///
/// # Errors
/// What the reader or the writer said.
pub fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    mode: u32,
    bytes: u64,
    data: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(mode & 0o777);
    header.set_mtime(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs());
    archive.append_data(&mut header, path, data)
}

/// As the manifest has it.
#[must_use]
pub fn digest(hash: Sha256) -> String {
    hex::encode(hash.finalize())
}
