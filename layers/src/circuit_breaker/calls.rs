//! A window over so many calls.

use super::sync::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// The outcomes of the last calls, one bit each.
#[derive(Debug)]
pub(super) struct CallWindow {
    size: u64,
    next: AtomicU64,
    /// How many bits are set.
    pub(super) bad: AtomicU64,
    pub(super) bits: Box<[AtomicU64]>,
}

// ===== impl CallWindow =====

impl CallWindow {
    pub(super) fn new(size: u64) -> Self {
        let bits = (0..size.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self {
            size,
            next: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            bits,
        }
    }

    #[inline]
    pub(super) fn record(&self, good: bool) {
        let at = self.next.fetch_add(1, SeqCst) % self.size;
        let (word, mask) = (&self.bits[(at / 64) as usize], 1 << (at % 64));
        if good {
            if word.load(Relaxed) & mask != 0 && word.fetch_and(!mask, SeqCst) & mask != 0 {
                self.bad.fetch_sub(1, SeqCst);
            }
        } else if word.fetch_or(mask, SeqCst) & mask == 0 {
            self.bad.fetch_add(1, SeqCst);
        }
    }

    #[inline]
    pub(super) fn sum(&self) -> (u64, u64) {
        let calls = self.next.load(SeqCst).min(self.size);
        // Below zero for the moment in which a bit is taken back before it was added.
        let bad = (self.bad.load(SeqCst) as i64).clamp(0, calls as i64) as u64;
        (calls - bad, bad)
    }

    pub(super) fn clear(&self) {
        // Bits first: a call that comes in between finds its own bit, and keeps the count true.
        for word in &self.bits {
            let cleared = word.swap(0, SeqCst).count_ones();
            self.bad.fetch_sub(cleared.into(), SeqCst);
        }
        self.next.store(0, SeqCst);
    }
}
