//! Ids: 32 lowercase hex digits that carry where their thing is kept, so that no index from id to place is needed.
//!
//! ```text
//! session, agent, task   kkkkkkkkkkkkkkkk rrrrrrrrrrrrrrrr    k: key, rises with time      r: random
//! message                nnnnnnnnnnnnnnnn rrrrrrrrrrrrrrrr    n: place in its session
//! ```
//!
//! The key is the creation time in milliseconds shifted left by 20 bits, one more where that is taken: things sort by
//! age. To everybody else an id is opaque; a made-up one finds nothing, since the whole id is compared.

/// Where fresh ids come from. The random half is drawn outside of the domain.
#[derive(Debug)]
pub struct Ids {
    last: u64,
    random: fn() -> u64,
}

impl Ids {
    /// `last` is the highest key that is in use.
    pub fn new(last: u64, random: fn() -> u64) -> Self {
        Ids { last, random }
    }

    /// A key that was never used, and its id.
    pub fn keyed(&mut self, now: i64) -> (u64, String) {
        self.last = (self.last + 1).max(least(now));
        (self.last, self.with(self.last))
    }

    /// The id of the `n`th message of a session, or of anything else that is counted.
    pub fn with(&mut self, n: u64) -> String {
        hex([n, (self.random)()])
    }

    /// An id that says nothing.
    pub fn plain(&mut self) -> String {
        hex([(self.random)(), (self.random)()])
    }
}

/// 16 digits for each number. Every message has an id or two, and the formatter takes ten times as long.
fn hex(numbers: [u64; 2]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut id = String::with_capacity(32);
    for byte in numbers.into_iter().flat_map(u64::to_be_bytes) {
        id.push(DIGITS[usize::from(byte >> 4)].into());
        id.push(DIGITS[usize::from(byte & 15)].into());
    }
    id
}

/// The lowest key that something made at this time or later can have.
pub fn least(time: i64) -> u64 {
    let millis = u64::try_from(time / 1_000_000).unwrap_or(0);
    (millis << 20) & (i64::MAX as u64)
}

/// The number that an id of ours carries; `None` for an id that is not of our making.
pub fn number(id: &str) -> Option<u64> {
    let ours = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if ours {
        u64::from_str_radix(&id[..16], 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_rise_even_within_a_millisecond_and_when_the_clock_falls_back() {
        let mut ids = Ids::new(0, || 7);
        let (a, id) = ids.keyed(1_700_000_000_000_000_000);
        let (b, _) = ids.keyed(1_700_000_000_000_000_000);
        let (c, _) = ids.keyed(1_600_000_000_000_000_000);
        assert!(a < b && b < c);
        assert_eq!(number(&id), Some(a));
    }

    #[test]
    fn after_a_restart_no_key_is_given_again_though_the_clock_fell_back() {
        let now = 1_700_000_000_000_000_000;
        let mut before = Ids::new(0, || 7);
        let used = [before.keyed(now).0, before.keyed(now).0];
        let mut after = Ids::new(used[1], || 7);
        let (key, _) = after.keyed(now - 1_000_000_000);
        assert!(used.iter().all(|used| *used < key));
    }

    #[test]
    fn both_halves_are_sixteen_digits() {
        let mut ids = Ids::new(0, || 0xfedc_ba98_0000_0001);
        assert_eq!(ids.with(0x0102), "0000000000000102fedcba9800000001");
    }

    #[test]
    fn foreign_ids_carry_no_number() {
        for id in [
            "",
            "abc",
            "0000000000000001000000000000000G",
            "0000000000000001000000000000000A",
        ] {
            assert_eq!(number(id), None, "{id}");
        }
    }
}
