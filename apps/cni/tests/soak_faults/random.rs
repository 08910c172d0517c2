//! Choices that can be repeated: the seed is printed, and `WATARI_SEED` sets it.

use std::time::{SystemTime, UNIX_EPOCH};

/// The generator `SplitMix64`.
pub struct Random(u64);

impl Random {
    /// Seeded by `WATARI_SEED`, else by the clock; says which.
    pub fn new(what: &str) -> Self {
        let clock = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(1, |now| u64::from(now.subsec_nanos()) ^ now.as_secs())
        };
        let given = std::env::var("WATARI_SEED").ok();
        let seed = given.map_or_else(clock, |text| text.parse().expect("WATARI_SEED is a number"));
        println!("{what}: WATARI_SEED={seed}");
        Self(seed)
    }

    /// One of its own for a thread.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("fits")
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// `count` of the items, in their order; all of them if there are fewer.
    pub fn sample<T: Clone>(&mut self, items: &[T], count: usize) -> Vec<T> {
        let mut left = count.min(items.len());
        let mut chosen = Vec::with_capacity(left);
        for (at, item) in items.iter().enumerate() {
            if self.below(items.len() - at) < left {
                chosen.push(item.clone());
                left -= 1;
            }
        }
        chosen
    }
}

/// True for the full length: `./run soak`.
pub fn soak() -> bool {
    std::env::var_os("WATARI_SOAK").is_some()
}
