//! One after the other.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Candidates, Pick};

/// How many that were tried or failed just now are passed over, before one of them is taken after all.
const SKIPS: usize = 8;

/// One endpoint after the other, whatever they cost.
///
/// An endpoint that failed just now is passed over for the penalty's time, and an endpoint that was
/// tried by an earlier attempt of the call is passed over too. All threads share one count, so under
/// load the order is that in which they count.
#[derive(Debug)]
pub struct RoundRobin {
    next: AtomicUsize,
}

// ===== impl RoundRobin =====

impl RoundRobin {
    /// Starts at a random place, so that processes which start together do not go round in step.
    pub fn new() -> Self {
        Self {
            next: AtomicUsize::new(fastrand::usize(..)),
        }
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Pick for RoundRobin {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let n = candidates.len();
        let first = self.next.fetch_add(1, Relaxed) % n;
        let mut untried = None;
        for skip in 0..n.min(SKIPS) {
            let index = (first + skip) % n;
            if !candidates.is_eligible(index) {
                continue;
            }
            if !candidates.is_penalised(index) {
                if skip > 0 {
                    // The next call starts behind it, or it would carry its neighbour's share too.
                    self.next.fetch_add(skip, Relaxed);
                }
                return index;
            }
            untried = untried.or(Some(index));
        }
        untried.unwrap_or(first)
    }
}
