//! Returns memory to the system: of code that only the start needed, and of a burst of callers that is over.
//!
//! A page of the program that was once touched stays mapped, with those around it, and counts as this process's memory
//! for as long as it lives. Most of what a daemon runs while it starts it never runs again: once it is ready all of the
//! program's code is let go, and what is still used comes back from the page cache by itself, within microseconds.

//!
//! What callers needed is freed when they go, but the allocator keeps what lies between blocks that are still in use, for
//! good: after 20,000 streams had closed it held 230 MB, of which 2 MB were in use. So it is looked at now and then, and
//! told to give back what has become free since the last time.

#![cfg(target_os = "linux")]

use std::time::Duration;

/// The first callers have been served by then.
const AFTER: Duration = Duration::from_secs(1);

/// How often the allocator is looked at. Longer than an idle thread for blocking work is kept, so that none stays for this.
#[cfg(target_env = "gnu")]
const LOOK: Duration = Duration::from_secs(15);
/// Free memory that is kept for the next rush.
#[cfg(target_env = "gnu")]
const KEPT: usize = 16 << 20;

/// Gives back what became free, for as long as this process runs.
#[cfg(target_env = "gnu")]
pub(crate) async fn give_back() {
    let mut free = Free::default();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        // The allocator holds its locks meanwhile, and walks all that is free.
        let looked = tokio::task::spawn_blocking(move || {
            free.look();
            free
        });
        match looked.await {
            Ok(now) => free = now,
            Err(_) => return, // the runtime ends
        }
    }
}

/// Other allocators give back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) async fn give_back() {}

/// What the allocator holds free. What it gave back still counts as free, so only what was in use since counts.
#[cfg(target_env = "gnu")]
#[derive(Clone, Copy, Debug, Default)]
struct Free {
    /// The least that was free since the last time; unknown before the first look.
    least: Option<usize>,
}

#[cfg(target_env = "gnu")]
impl Free {
    fn look(&mut self) {
        if self.rose_to(free_bytes()) {
            trim();
        }
    }

    /// Whether so much became free that it is worth giving back.
    fn rose_to(&mut self, free: usize) -> bool {
        let least = self.least.unwrap_or(0).min(free);
        let rose = free - least > KEPT;
        self.least = Some(if rose { free } else { least });
        rose
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library has no safe form of it")]
fn free_bytes() -> usize {
    // SAFETY: it takes nothing, and reads the allocator's counters under the allocator's own locks.
    unsafe { libc::mallinfo2() }.fordblks
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library has no safe form of it")]
fn trim() {
    // SAFETY: it gives back pages that hold no block in use, under the allocator's own locks.
    let given = unsafe { libc::malloc_trim(0) };
    tracing::debug!(given = given == 1, "gave back memory that had become free");
}

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

    /// KiB that are this process's own.
    #[cfg(target_env = "gnu")]
    fn anonymous() -> u64 {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_lies_free_between_blocks_in_use_is_given_back() {
        let blocks: Vec<Box<[u8; 1000]>> = (0..100_000).map(|_| Box::new([1; 1000])).collect();
        let mut free = Free::default();
        free.look();
        let with = anonymous();
        let every = |(n, block)| (n % 1000 == 0).then_some(block);
        let kept: Vec<_> = blocks.into_iter().enumerate().filter_map(every).collect();
        free.look();
        let after = anonymous();
        assert!(after + 50_000 < with, "{with} KiB before, {after} after");
        assert_eq!(kept.len(), 100);
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_was_given_back_is_not_given_back_again_before_it_was_used() {
        const MB: usize = 1 << 20;
        let mut free = Free::default();
        let looks = [
            (5, false),
            (230, true),
            (231, false),
            (240, false),
            (10, false),
            (20, false),
            (200, true),
        ];
        for (mb, gives) in looks {
            assert_eq!(free.rose_to(mb * MB), gives, "{mb} MB");
        }
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
