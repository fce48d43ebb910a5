//! How long to wait before a registry is tried again.

use std::time::Duration;

/// The longest first delay. Short, because most streams end for a reason that is over at once.
const BASE: Duration = Duration::from_millis(200);
/// The longest delay: what a recovered registry has to bear is spread over this time.
pub(crate) const CAP: Duration = Duration::from_secs(30);

/// Exponential backoff with full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog,
/// 2015): the delay is uniform from zero to a ceiling that doubles, so that the clients of a
/// registry which comes back do not all return at one moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    rng: fastrand::Rng,
}

// ===== impl Backoff =====

impl Backoff {
    pub(crate) fn new(rng: fastrand::Rng) -> Self {
        Self { failures: 0, rng }
    }

    /// The next delay.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = BASE.saturating_mul(1 << self.failures.min(16)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(self.rng.f64())
    }

    /// The registry answered.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_fill_a_range_that_doubles_up_to_the_cap() {
        let mut backoff = Backoff::new(fastrand::Rng::with_seed(1));
        for failures in 0..40 {
            let ceiling = BASE.saturating_mul(1 << failures.min(16)).min(CAP);
            let mut longest = Duration::ZERO;
            for _ in 0..200 {
                backoff.failures = failures;
                longest = longest.max(backoff.next());
            }
            assert!(longest <= ceiling, "{longest:?} after {failures} failures");
            assert!(
                longest > ceiling.mul_f64(0.9),
                "{longest:?} does not fill {ceiling:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next() <= BASE);
    }
}
