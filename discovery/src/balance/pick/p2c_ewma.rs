//! The power of two choices over peak EWMA.

use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;

use super::{
    Candidates, Pick,
    weighted::{self, WeightedP2c},
};

/// Up to this many candidates the eligible ones are listed; above it, a random one almost always is
/// eligible, since at most four were tried.
const SMALL: usize = 16;
/// In a large set: how often a tried endpoint is drawn again before it is taken.
const DRAWS: usize = 8;

/// The cheaper of two random endpoints: latency times calls in flight.
///
/// Two random choices come close to the best of all at a constant price (M. Mitzenmacher, "The Power
/// of Two Choices in Randomized Load Balancing", 1996). The price of an endpoint is Finagle's: its
/// peak EWMA of latencies times the calls in flight and this one. An endpoint without a latency yet is
/// free as long as it is idle, so that it gets one call to show; after a failure it is passed over
/// for the penalty's time (as linkerd2-proxy biases the load of failing peers), so that one which
/// fails fast does not look fast.
///
/// Where the [weights](crate::instance::Instance::weight) of a set differ, both choices are drawn by
/// weight, and the first gets the call unless the second is at less than half its price. So shares are
/// the weights while endpoints are much alike, and nobody waits for a slow or busy one. An endpoint of
/// twice the weight is taken to be as busy with twice the calls in flight.
#[derive(Debug, Clone, Default)]
pub struct P2cEwma {
    /// The thread's own generator where there is none.
    seeded: Option<Arc<Mutex<Rng>>>,
}

// ===== impl P2cEwma =====

impl P2cEwma {
    /// Draws from the thread's random generator.
    pub const fn new() -> Self {
        Self { seeded: None }
    }

    /// Draws the same sequence for the same seed: for tests. Takes a lock for every pick.
    pub fn seeded(seed: u64) -> Self {
        Self {
            seeded: Some(Arc::new(Mutex::new(Rng::with_seed(seed)))),
        }
    }

    pub(super) fn random(&self) -> u64 {
        match &self.seeded {
            None => fastrand::u64(..),
            Some(rng) => rng.lock().u64(..),
        }
    }

    /// Two different positions below `n`, in random order; `n` is at least two.
    fn draw(&self, n: usize) -> (usize, usize) {
        let random = self.random();
        // Lemire's multiplication instead of a division; the bias is n in 2^32.
        let below = |random: u64, n: usize| (((random & 0xffff_ffff) * n as u64) >> 32) as usize;
        let first = below(random, n);
        let second = below(random >> 32, n - 1);
        (first, second + usize::from(second >= first))
    }

    fn among(&self, n: usize, cheaper: impl FnOnce(usize, usize) -> usize) -> usize {
        if n < 2 {
            return 0;
        }
        let (first, second) = self.draw(n);
        cheaper(first, second)
    }

    fn pick_untried(&self, candidates: &Candidates<'_>) -> usize {
        let n = candidates.len();
        if n > SMALL {
            let mut drawn = self.draw(n);
            for _ in 0..DRAWS {
                match (
                    candidates.is_eligible(drawn.0),
                    candidates.is_eligible(drawn.1),
                ) {
                    (true, true) => return cheaper(candidates, drawn.0, drawn.1),
                    (true, false) => return drawn.0,
                    (false, true) => return drawn.1,
                    (false, false) => drawn = self.draw(n),
                }
            }
            return drawn.0;
        }
        let (mut eligible, mut count) = ([0; SMALL], 0);
        for index in (0..n).filter(|&index| candidates.is_eligible(index)) {
            eligible[count] = index;
            count += 1;
        }
        if count == 0 {
            return self.among(n, |a, b| cheaper(candidates, a, b));
        }
        let place = self.among(count, |a, b| {
            if cheaper(candidates, eligible[a], eligible[b]) == eligible[a] {
                a
            } else {
                b
            }
        });
        eligible[place]
    }
}

impl Pick for P2cEwma {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        if candidates.is_retry() {
            return self.pick_untried(candidates);
        }
        self.among(candidates.len(), |a, b| cheaper(candidates, a, b))
    }

    fn prepare(&self, candidates: &Candidates<'_>) -> Option<Arc<dyn Pick>> {
        let weights = weighted::differing(candidates)?;
        Some(Arc::new(WeightedP2c::new(&weights, self.clone())))
    }
}

/// The first where they cost the same: the draw is in random order.
fn cheaper(candidates: &Candidates<'_>, first: usize, second: usize) -> usize {
    if candidates.cost(second) < candidates.cost(first) {
        second
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_are_drawn_equally_often_and_never_twice_the_same() {
        let picker = P2cEwma::seeded(1);
        let mut seen = [[0_u32; 5]; 5];
        for _ in 0..20_000 {
            let (first, second) = picker.draw(5);
            seen[first][second] += 1;
        }
        for (first, row) in seen.iter().enumerate() {
            for (second, &count) in row.iter().enumerate() {
                if first == second {
                    assert_eq!(count, 0);
                } else {
                    assert!((850..1_150).contains(&count), "{first} {second} {count}");
                }
            }
        }
    }
}
