//! What was seen of late: counts over an exact sliding window, by time or by calls.

use super::{calls::CallWindow, config::Window, count::Count};
use crate::vocab::shard::Sharded;

/// The window moves in steps of a tenth: finer costs memory per key, coarser forgets in lumps.
const BUCKETS: usize = 10;

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

#[derive(Debug, Default)]
struct Bucket {
    good: Count,
    bad: Count,
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
        count.record(tenth);
    }

    fn sum(&self, now_us: u64) -> (u64, u64) {
        let tenth = self.tenth(now_us);
        let current = |count: &Count| count.of_last(BUCKETS as u32, tenth);
        let buckets = self.shards.iter().flatten();
        buckets.fold((0, 0), |(good, bad), bucket| {
            (good + current(&bucket.good), bad + current(&bucket.bad))
        })
    }

    fn clear(&self) {
        for bucket in self.shards.iter().flatten() {
            bucket.good.clear();
            bucket.bad.clear();
        }
    }
}

#[cfg(test)]
mod tests;
