//! Gives back the memory of code that only the start needed.
//!
//! A page of the program that was once touched stays mapped, with those around it, and counts as this process's memory
//! for as long as it lives. Most of what a daemon runs while it starts it never runs again: once it is ready all of the
//! program's code is let go, and what is still used comes back from the page cache by itself, within microseconds.

#![cfg(target_os = "linux")]

use std::time::Duration;

/// The first callers have been served by then.
const AFTER: Duration = Duration::from_secs(1);

pub(crate) async fn forget_start() {
    tokio::time::sleep(AFTER).await;
    match forget() {
        Ok(bytes) => tracing::debug!(bytes, "let go of the code of the start"),
        Err(error) => tracing::debug!(%error, "the code of the start stays in memory"),
    }
}

/// Lets the program's code go; how much of it there is.
fn forget() -> std::io::Result<usize> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut gone = 0;
    for line in maps
        .lines()
        .filter(|line| program.to_str().is_some_and(|path| line.ends_with(path)))
    {
        let mut parts = line.split_ascii_whitespace();
        let (Some(range), Some("r-xp")) = (parts.next(), parts.next()) else {
            continue;
        };
        let Some((from, to)) = range.split_once('-') else {
            continue;
        };
        if let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)) {
            let_go(from, to - from)?;
            gone += to - from;
        }
    }
    Ok(gone)
}

#[expect(
    unsafe_code,
    reason = "advice on memory has no safe form, since it can change what is in it; not here"
)]
fn let_go(from: usize, bytes: usize) -> nix::Result<()> {
    let Some(start) = std::ptr::NonNull::new(std::ptr::without_provenance_mut(from)) else {
        return Ok(());
    };
    // SAFETY: the kernel just told that this range is code of our own program, mapped from its file and not writable. What
    // is let go is read back from that file when it is next used, and is what it was.
    unsafe { nix::sys::mman::madvise(start, bytes, nix::sys::mman::MmapAdvise::MADV_DONTNEED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// KiB of the program's code that are mapped.
    fn mapped() -> u64 {
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps
            .lines()
            .skip_while(|line| !(line.contains("r-xp") && line.ends_with(program.to_str().unwrap())));
        let rss = lines.find(|line| line.starts_with("Rss:")).unwrap();
        rss.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn code_is_let_go_and_comes_back() {
        let before = mapped();
        let all = forget().unwrap();
        let after = mapped();
        assert!(
            all > 0 && after < before,
            "{after} KiB of {before} KiB are still mapped"
        );
    }
}
