use std::time::Duration;

/// How long to wait after a failure: twice as long each time, up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            most: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// The wait after so many failures in a row. `jitter`, from 0 to 1, takes up to half of it
    /// away, so that what failed together is not tried together.
    pub fn delay(&self, failures: u32, jitter: f64) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let whole = self.first.saturating_mul(doubled).min(self.most);
        whole.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_limit() {
        let backoff = Backoff::default();
        let millis = |failures| backoff.delay(failures, 0.0).as_millis();
        assert_eq!([1, 2, 3, 4].map(millis), [200, 400, 800, 1600]);
        assert_eq!([9, 40, u32::MAX].map(millis), [30_000; 3]);
    }

    #[test]
    fn jitter_takes_up_to_half() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(1, 1.0), Duration::from_millis(100));
        assert_eq!(backoff.delay(1, 0.5), Duration::from_millis(150));
        assert_eq!(backoff.delay(1, 7.0), Duration::from_millis(100));
    }
}
