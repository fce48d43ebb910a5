//! What was seen of late: counts over an exact sliding window, by time or by calls.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use super::config::Window;
use crate::vocab::shard::Sharded;

/// The window moves in steps of a tenth: finer costs memory per key, coarser forgets in lumps.
const BUCKETS: usize = 10;

/// How many tenths a thread may be held up between its look at the clock and its count.
const LATEST: i32 = 1 << 16;

/// Good and bad calls through a window of one shape.
#[derive(Debug)]
pub(super) enum Recent {
    Time(TimeWindow),
    Calls(CallWindow),
}

/// Counts per tenth of the window, sharded by thread.
#[derive(Debug)]
pub(super) struct TimeWindow {
    bucket_us: u64,
    shards: Sharded<[Bucket; BUCKETS]>,
}

/// Two counts, each with the number of the tenth it belongs to: `tenth << 32 | count`. A bucket is
/// cleared by the first call of a new tenth that comes to it, so no timer is needed.
#[derive(Debug, Default)]
struct Bucket {
    good: AtomicU64,
    bad: AtomicU64,
}

/// The outcomes of the last calls, one bit each.
#[derive(Debug)]
pub(super) struct CallWindow {
    size: u64,
    next: AtomicU64,
    bad: AtomicU64,
    bits: Box<[AtomicU64]>,
}

// ===== impl Recent =====

impl Recent {
    pub(super) fn new(shape: Window) -> Self {
        match shape {
            Window::Time(span) => Self::Time(TimeWindow {
                bucket_us: (span.as_micros() as u64 / BUCKETS as u64).max(1),
                shards: Sharded::new(Default::default),
            }),
            Window::Calls(size) => Self::Calls(CallWindow::new(size.into())),
        }
    }

    /// A call ended. Only a window over time asks for the time.
    #[inline]
    pub(super) fn record(&self, now_us: impl FnOnce() -> u64, good: bool) {
        match self {
            Self::Time(window) => window.record(now_us(), good),
            Self::Calls(window) => window.record(good),
        }
    }

    pub(super) fn clear(&self) {
        match self {
            Self::Time(window) => window.clear(),
            Self::Calls(window) => window.clear(),
        }
    }

    /// Good and bad calls within the window.
    pub(super) fn sum(&self, now_us: u64) -> (u64, u64) {
        match self {
            Self::Time(window) => window.sum(now_us),
            Self::Calls(window) => window.sum(),
        }
    }
}

// ===== impl TimeWindow =====

impl TimeWindow {
    /// Tenths are numbered modulo 2^32, which the shortest takes seven weeks for.
    fn tenth(&self, now_us: u64) -> u32 {
        (now_us / self.bucket_us) as u32
    }

    fn record(&self, now_us: u64, good: bool) {
        let tenth = self.tenth(now_us);
        let bucket = &self.shards.get()[tenth as usize % BUCKETS];
        let count = if good { &bucket.good } else { &bucket.bad };
        let mut seen = count.load(Relaxed);
        loop {
            let age = tenth.wrapping_sub((seen >> 32) as u32) as i32;
            // A negative age: this thread was held up and the bucket has moved on; count it there. One
            // that is too long for that is the age of a bucket from half a round of the numbers ago.
            // An untouched bucket (0) has no age.
            let next = if seen != 0 && (-LATEST..=0).contains(&age) {
                seen + 1
            } else {
                u64::from(tenth) << 32 | 1
            };
            match count.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    fn sum(&self, now_us: u64) -> (u64, u64) {
        let tenth = self.tenth(now_us);
        let current = |count: &AtomicU64| {
            let count = count.load(Relaxed);
            let age = tenth.wrapping_sub((count >> 32) as u32);
            if age < BUCKETS as u32 {
                count & u64::from(u32::MAX)
            } else {
                0
            }
        };
        let buckets = self.shards.iter().flatten();
        buckets.fold((0, 0), |(good, bad), bucket| {
            (good + current(&bucket.good), bad + current(&bucket.bad))
        })
    }

    fn clear(&self) {
        for bucket in self.shards.iter().flatten() {
            bucket.good.store(0, Relaxed);
            bucket.bad.store(0, Relaxed);
        }
    }
}

// ===== impl CallWindow =====

impl CallWindow {
    fn new(size: u64) -> Self {
        let bits = (0..size.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self {
            size,
            next: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            bits,
        }
    }

    fn record(&self, good: bool) {
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

    fn sum(&self) -> (u64, u64) {
        let calls = self.next.load(SeqCst).min(self.size);
        // Below zero for the moment in which a bit is taken back before it was added.
        let bad = (self.bad.load(SeqCst) as i64).clamp(0, calls as i64) as u64;
        (calls - bad, bad)
    }

    fn clear(&self) {
        // Bits first: a call that comes in between finds its own bit, and keeps the count true.
        for word in &self.bits {
            let cleared = word.swap(0, SeqCst).count_ones();
            self.bad.fetch_sub(cleared.into(), SeqCst);
        }
        self.next.store(0, SeqCst);
    }
}

#[cfg(test)]
mod tests;
