//! Delays between attempts: doubling up to a limit, a random part of it, so that nodes
//! that lost their manager together do not come back together.

use rand::Rng;
use std::time::Duration;

const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(8);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: DELAY_MIN }
    }
}

impl Backoff {
    /// The next delay, between half the ceiling and the ceiling.
    pub(crate) fn next(&mut self, random: &mut impl Rng) -> Duration {
        let delay = self.ceiling.mul_f64(random.random_range(0.5..=1.0));
        self.ceiling = (self.ceiling * 2).min(DELAY_MAX);
        delay
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn doubles_to_the_limit_with_jitter() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let mut backoff = Backoff::default();
        let first = backoff.next(&mut random);
        assert!(first >= DELAY_MIN / 2 && first <= DELAY_MIN);
        for _ in 0..20 {
            assert!(backoff.next(&mut random) <= DELAY_MAX);
        }
        assert!(backoff.next(&mut random) >= DELAY_MAX / 2);
        backoff.reset();
        assert!(backoff.next(&mut random) <= DELAY_MIN);
    }
}
