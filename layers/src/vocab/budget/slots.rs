//! Deposits by second.

use std::time::Duration;

use super::sync::{AtomicU64, Ordering::Relaxed};

/// How long deposits and withdrawals count: ten whole slots of a second, and the present one.
pub(super) const TTL: Duration = Duration::from_secs(10);
/// A power of two above the eleven that count.
pub(super) const SLOTS: usize = 16;

/// Deposits by second: the number of the second in the upper half, their count in the lower.
#[derive(Debug, Default)]
pub(super) struct Slots([AtomicU64; SLOTS]);

/// Whether what happened in a second still counts in the present one.
pub(super) fn counts(then: u32, now: u32) -> bool {
    then <= now && now - then <= TTL.as_secs() as u32
}

// ===== impl Slots =====

impl Slots {
    #[inline]
    pub(super) fn add(&self, second: u32) {
        let slot = &self.0[second as usize % SLOTS];
        let seen = slot.load(Relaxed);
        if (seen >> 32) as u32 == second {
            slot.fetch_add(1, Relaxed);
        } else {
            Self::begin(slot, seen, second);
        }
    }

    /// The first deposit of a second takes the slot over from sixteen seconds ago.
    #[cold]
    fn begin(slot: &AtomicU64, mut seen: u64, second: u32) {
        let began = u64::from(second) << 32;
        while seen < began {
            match slot.compare_exchange_weak(seen, began | 1, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        if (seen >> 32) as u32 == second {
            slot.fetch_add(1, Relaxed);
        }
        // Else the caller's clock reading is sixteen seconds old: its deposit has expired.
    }

    pub(super) fn sum(&self, second: u32) -> u64 {
        let in_slot = |slot: &AtomicU64| {
            let seen = slot.load(Relaxed);
            if counts((seen >> 32) as u32, second) {
                seen & u64::from(u32::MAX)
            } else {
                0
            }
        };
        self.0.iter().map(in_slot).sum()
    }
}
