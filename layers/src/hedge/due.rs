//! When the percentile is to be taken anew.

use super::sync::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed, Release},
};

/// How often, in ms.
const EVERY: u64 = 1_000;

/// A time in ms of a clock that the caller owns; at first, at once.
#[derive(Debug, Default)]
pub(super) struct Due(AtomicU64);

// ===== impl Due =====

impl Due {
    #[inline]
    pub(super) fn is_over(&self, now: u64) -> bool {
        now >= self.0.load(Relaxed)
    }

    /// It is being taken, by one at a time; what it depends on is to be read after this.
    pub(super) fn begin(&self, now: u64) {
        // NOTE: before it is taken, and not after: it may expire meanwhile. Swaps, so that who replaces an
        // expiry sees what changed before it.
        self.0.swap(now + EVERY, AcqRel);
    }

    /// What it depends on has changed.
    pub(super) fn expire(&self) {
        self.0.swap(0, Release);
    }
}
