//! Passes input to the helper of a container, which passes it on.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use nexus_sandbox::collect::{CLOSE, INPUT, MAX_DATA, data};
use rustix::fs::OFlags;

use super::containers::state;
use super::helper::failed;
use super::record::Record;
use crate::{Input, Result};

/// Never waits: the helper reads on as long as little input waits for the command.
pub fn write(record: &Record, input: Input) -> Result<()> {
    if !record.run.collect.is_some_and(|collect| collect.stdin) {
        return Err(state(&record.id, "has no input"));
    }
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let opened = File::options()
        .write(true)
        .custom_flags(flags.bits().cast_signed())
        .open(record.dir.join(INPUT));
    let mut fifo = opened.map_err(|_| state(&record.id, "has closed its input"))?;
    let frames: Vec<Vec<u8>> = match &input {
        Input::Data(bytes) => bytes.chunks(MAX_DATA).map(data).collect(),
        Input::Close => vec![CLOSE.to_vec()],
    };
    for frame in frames {
        // A frame is short enough to be written whole or not at all.
        match fifo.write_all(&frame) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(state(
                    &record.id,
                    "does not read its input, and more waits than is kept",
                ));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}
