//! Numbers that look random and come again with the same seed.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

/// SplitMix64: enough to choose moments, nothing else.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// From `NEXUS_TEST_SEED`, or from the clock; says which, so that a failure can be had again.
    pub fn seeded() -> Self {
        let given = env::var("NEXUS_TEST_SEED").ok();
        let seed = given.map_or_else(
            || {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                now.as_secs() << 20 ^ u64::from(now.subsec_nanos())
            },
            |text| text.parse().expect("NEXUS_TEST_SEED is a number"),
        );
        println!("NEXUS_TEST_SEED={seed}");
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Another series, of its own.
    pub fn fork(&mut self) -> Self {
        Random(self.number())
    }
}
