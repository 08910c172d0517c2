//! Medians, percentiles, and how far a ratio of medians can be trusted.

/// How often the pairs are drawn anew for an interval.
const DRAWS: usize = 4000;

/// The value below which the share `at` (0 to 1) of the samples lies, interpolated.
pub fn quantile(samples: &[f64], at: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted_quantile(&sorted, at)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sample counts are far below 2^52"
)]
fn sorted_quantile(sorted: &[f64], at: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = at * last as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(last);
    sorted[below] * (1.0 - part) + sorted[above] * part
}

/// The middle sample, or the mean of the middle two.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// (max - min) / median.
pub fn spread(samples: &[f64]) -> f64 {
    (quantile(samples, 1.0) - quantile(samples, 0.0)) / median(samples)
}

/// A ratio and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The ratio of the medians.
    pub value: f64,
    /// The 2.5th percentile.
    pub low: f64,
    /// The 97.5th percentile.
    pub high: f64,
}

/// The median of the second samples over that of the first, and the percentile bootstrap over the
/// pairs: as many pairs as there are, drawn with replacement. The draws are the same in each run.
pub fn ratio(pairs: &[(f64, f64)]) -> Ratio {
    let of = |pairs: &[(f64, f64)]| {
        let (first, second): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        median(&second) / median(&first)
    };
    let mut random = Draw(0x5743_1a6d_0f2e_8b97);
    let mut drawn = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        let again: Vec<_> = (0..pairs.len())
            .map(|_| pairs[random.below(pairs.len())])
            .collect();
        drawn.push(of(&again));
    }
    // Of few pairs the draws can all but miss the pairs themselves; the interval holds them.
    let value = of(pairs);
    Ratio {
        value,
        low: quantile(&drawn, 0.025).min(value),
        high: quantile(&drawn, 0.975).max(value),
    }
}

/// Marsaglia's xorshift with 64 bits.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % bound.max(1)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(median(&samples), 2.5);
        assert_eq!(quantile(&samples, 0.0), 1.0);
        assert_eq!(quantile(&samples, 1.0), 4.0);
        assert_eq!(spread(&samples), 1.2);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn the_interval_holds_the_ratio_and_is_the_same_each_time() {
        let pairs: Vec<(f64, f64)> = (0..50)
            .map(|n| (1.0 + f64::from(n % 7) / 10.0, 8.0 + f64::from(n % 5) / 10.0))
            .collect();
        let first = ratio(&pairs);
        assert!(first.low <= first.value && first.value <= first.high);
        assert!(first.low > 5.0 && first.high < 8.0, "{first:?}");
        assert_eq!(first, ratio(&pairs));
        // Six noisy pairs, in every order of one side: some put the ratio outside of the draws.
        for turn in 0..6 {
            let first = [1.0, 2.0, 3.0, 10.0, 20.0, 30.0];
            let pairs: Vec<_> = (0..6)
                .map(|n| (first[n], first[(n * 5 + turn) % 6]))
                .collect();
            let few = ratio(&pairs);
            assert!(few.low <= few.value && few.value <= few.high, "{few:?}");
        }
        let constant = ratio(&[(2.0, 16.0); 5]);
        assert_eq!([constant.low, constant.value, constant.high], [8.0; 3]);
    }
}
