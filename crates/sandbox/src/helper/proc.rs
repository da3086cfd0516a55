//! Reads processes from `/proc`.

use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::report::Process;

pub fn process(pid: i32) -> io::Result<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let start = start(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in stat"))?;
    Ok(Process { pid, start })
}

/// The name, in parentheses, may hold anything; what follows the last one are numbers.
fn start(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
