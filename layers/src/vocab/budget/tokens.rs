//! The tokens of gRPC's `retryThrottling`, as those that are gone.

use super::sync::{AtomicI64, Ordering::Relaxed};

/// Tokens are counted in millionths, so that every ratio that can be written is exact.
pub(super) const TOKEN: i64 = 1_000_000;

/// Millionths of tokens, all three.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// What failures have cost and successes not given back; 0 where no tokens are counted.
    lost: AtomicI64,
    /// The most that can be lost, and what a success gives back: 0 where no tokens are counted.
    most: AtomicI64,
    refill: AtomicI64,
}

// ===== impl Tokens =====

impl Tokens {
    /// Other numbers from now on; what was lost under the former ones stays lost, as far as it can be.
    pub(super) fn set(&self, most: i64, refill: i64) {
        self.most.store(most, Relaxed);
        self.refill.store(refill, Relaxed);
        self.lost.fetch_min(most, Relaxed);
    }

    pub(super) fn lost(&self) -> i64 {
        self.lost.load(Relaxed)
    }

    #[inline]
    pub(super) fn succeeded(&self) {
        // Nothing was lost nearly always, and then no cache line is written to.
        if self.lost() > 0 {
            self.give_back();
        }
    }

    #[cold]
    fn give_back(&self) {
        let (refill, most) = (self.refill.load(Relaxed), self.most.load(Relaxed));
        // NOTE: `most` again. A failure that was counted while other numbers were set may have gone by
        // the former ones; where no tokens are counted any more, nothing else would ever take it back.
        let given = |lost: i64| (lost > 0).then(|| (lost - refill).clamp(0, most));
        let _ = self.lost.fetch_update(Relaxed, Relaxed, given);
    }

    pub(super) fn failed(&self) {
        let most = self.most.load(Relaxed);
        if most > 0 {
            let lost = |lost: i64| Some((lost + TOKEN).min(most));
            let _ = self.lost.fetch_update(Relaxed, Relaxed, lost);
        }
    }
}
