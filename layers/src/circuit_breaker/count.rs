//! Calls of one bucket of a window.

use super::sync::{AtomicU64, Ordering::Relaxed};

/// How many slots a thread may be held up between its look at the clock and its count.
const LATEST: i32 = 1 << 16;

/// A count beside the number of the slot of time that it belongs to: `slot << 32 | count`. The first call of
/// a new slot that comes to it clears it, so no timer is needed. Slots are numbered modulo 2^32.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

// ===== impl Count =====

impl Count {
    /// One more in this slot.
    #[inline]
    pub(super) fn record(&self, slot: u32) {
        let mut seen = self.0.load(Relaxed);
        loop {
            let age = slot.wrapping_sub((seen >> 32) as u32) as i32;
            // A negative age: this thread was held up and the bucket has moved on; count it there. One
            // that is too long for that is the age of a bucket from half a round of the numbers ago.
            // An untouched bucket (0) has no age.
            let next = if seen != 0 && (-LATEST..=0).contains(&age) {
                seen + 1
            } else {
                u64::from(slot) << 32 | 1
            };
            match self.0.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Its calls, if its slot is one of the last so many.
    #[inline]
    pub(super) fn of_last(&self, slots: u32, slot: u32) -> u64 {
        let count = self.0.load(Relaxed);
        let age = slot.wrapping_sub((count >> 32) as u32);
        if age < slots {
            count & u64::from(u32::MAX)
        } else {
            0
        }
    }

    pub(super) fn clear(&self) {
        self.0.store(0, Relaxed);
    }
}
