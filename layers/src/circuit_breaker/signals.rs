//! When to open: failures in a row, and the failure rate over an exact sliding window.
//!
//! No clock and no I/O in here: every method is told the time, in microseconds since the breaker was
//! made. A success, which is the hot path, touches one atomic that no other thread writes.
//!
//! The window is exact rather than an exponentially weighted average: an average that weighs by time
//! does not see a burst of failures within one millisecond, and one that weighs by call forgets how
//! long ago the calls were.

use std::sync::{
    OnceLock,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use parking_lot::Mutex;

use super::config::{BreakerConfig, Window};
use crate::vocab::shard::Sharded;

/// The window moves in steps of a tenth: finer costs memory per key, coarser forgets in lumps.
const BUCKETS: usize = 10;

/// How many tenths a thread may be held up between its look at the clock and its count.
const LATEST: i32 = 1 << 16;

/// What one breaker has seen, and the thresholds it is judged by.
#[derive(Debug)]
pub(super) struct Signals {
    /// Failures of the peer since its last success.
    in_a_row: AtomicU32,
    seen: Seen,
    /// Only failures are judged, so a success takes no lock.
    limits: Mutex<Limits>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Of the configuration that they are from.
    revision: u64,
    /// 0 turns the signal off.
    in_a_row: u32,
    /// 0.0 turns the signal off.
    rate: f64,
    minimum_calls: u64,
}

/// What was seen through a window of one shape. Only by an edit of the configuration there is ever
/// another, so old ones stay, unused: a list that only grows is read without a lock.
#[derive(Debug)]
struct Seen {
    shape: Window,
    window: Recent,
    next: OnceLock<Box<Self>>,
}

#[derive(Debug)]
enum Recent {
    Time(TimeWindow),
    Calls(CallWindow),
}

/// Counts per tenth of the window, sharded by thread.
#[derive(Debug)]
struct TimeWindow {
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
struct CallWindow {
    size: u64,
    next: AtomicU64,
    bad: AtomicU64,
    bits: Box<[AtomicU64]>,
}

// ===== impl Signals =====

impl Signals {
    pub(super) fn new(revision: u64, config: &BreakerConfig) -> Self {
        Self {
            in_a_row: AtomicU32::new(0),
            seen: Seen::new(config.window),
            limits: Mutex::new(Limits::new(revision, config)),
        }
    }

    /// Judges by the limits of this configuration from now on. What was seen is kept, unless the window
    /// has another shape.
    pub(super) fn follow(&self, revision: u64, config: impl FnOnce() -> BreakerConfig) {
        let mut limits = self.limits.lock();
        if limits.revision == revision {
            return;
        }
        let config = config();
        *limits = Limits::new(revision, &config);
        let newest = self.seen.newest();
        if newest.shape != config.window {
            newest
                .next
                .get_or_init(|| Box::new(Seen::new(config.window)));
        }
    }

    #[inline]
    fn window(&self) -> &Recent {
        &self.seen.newest().window
    }

    /// A call succeeded. Only a window over time asks for the time.
    pub(super) fn success(&self, now_us: impl FnOnce() -> u64) {
        // Read before write: while all is well the line stays shared between the cores.
        if self.in_a_row.load(Relaxed) != 0 {
            self.in_a_row.store(0, Relaxed);
        }
        match self.window() {
            Recent::Time(window) => window.record(now_us(), true),
            Recent::Calls(window) => window.record(true),
        }
    }

    /// A call failed: says whether that is one too many.
    pub(super) fn failure(&self, now_us: u64) -> bool {
        let in_a_row = self.in_a_row.fetch_add(1, SeqCst).saturating_add(1);
        let limit = self.limits.lock().in_a_row;
        self.overload(now_us) || (limit > 0 && in_a_row >= limit)
    }

    /// A call found the peer too busy: that counts in the rate, and says nothing of failures in a row.
    pub(super) fn overload(&self, now_us: u64) -> bool {
        match self.window() {
            Recent::Time(window) => window.record(now_us, false),
            Recent::Calls(window) => window.record(false),
        }
        let (good, bad) = self.window().sum(now_us);
        let calls = good + bad;
        let limits = *self.limits.lock();
        // The small term keeps 7% of 100 at 7: the product is a hair above the whole number.
        limits.rate > 0.0
            && calls >= limits.minimum_calls
            && bad as f64 + 1e-9 >= limits.rate * calls as f64
    }

    /// The failure rate over the window, and the calls it was taken over.
    pub(super) fn rate(&self, now_us: u64) -> (f64, u64) {
        let (good, bad) = self.window().sum(now_us);
        let calls = good + bad;
        (
            if calls == 0 {
                0.0
            } else {
                bad as f64 / calls as f64
            },
            calls,
        )
    }

    /// Whether new signals would say the same: nothing was seen that still counts.
    pub(super) fn is_blank(&self, now_us: u64) -> bool {
        let in_a_row = self.limits.lock().in_a_row > 0 && self.in_a_row.load(SeqCst) > 0;
        !in_a_row && self.window().sum(now_us) == (0, 0)
    }

    /// Forgets everything, as a breaker does before it lets probes through.
    pub(super) fn clear(&self) {
        self.in_a_row.store(0, SeqCst);
        match self.window() {
            Recent::Time(window) => window.clear(),
            Recent::Calls(window) => window.clear(),
        }
    }
}

// ===== impl Limits =====

impl Limits {
    fn new(revision: u64, config: &BreakerConfig) -> Self {
        Self {
            revision,
            in_a_row: config.consecutive_failures.unwrap_or(0),
            rate: config.failure_rate.as_f64(),
            minimum_calls: config.minimum_calls.into(),
        }
    }
}

// ===== impl Seen =====

impl Seen {
    fn new(shape: Window) -> Self {
        Self {
            shape,
            window: Recent::new(shape),
            next: OnceLock::new(),
        }
    }

    #[inline]
    fn newest(&self) -> &Self {
        let mut newest = self;
        while let Some(next) = newest.next.get() {
            newest = next;
        }
        newest
    }
}

// ===== impl Recent =====

impl Recent {
    fn new(shape: Window) -> Self {
        match shape {
            Window::Time(span) => Self::Time(TimeWindow {
                bucket_us: (span.as_micros() as u64 / BUCKETS as u64).max(1),
                shards: Sharded::new(Default::default),
            }),
            Window::Calls(size) => Self::Calls(CallWindow::new(size.into())),
        }
    }

    /// Good and bad calls within the window.
    fn sum(&self, now_us: u64) -> (u64, u64) {
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
mod tests {
    use std::{collections::VecDeque, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::Ratio;

    fn signals(window: Window) -> Signals {
        Signals::new(
            1,
            &BreakerConfig {
                failure_rate: Ratio::percent(50),
                minimum_calls: 4,
                window,
                ..BreakerConfig::default()
            },
        )
    }

    #[test]
    fn a_burst_within_a_microsecond_is_seen() {
        let signals = signals(Window::Time(Duration::from_secs(10)));
        let trips: Vec<_> = (0..4).map(|_| signals.failure(5)).collect();
        assert_eq!(trips, [false, false, false, true]);
    }

    #[test]
    fn failures_slide_out_of_the_window() {
        let signals = signals(Window::Time(Duration::from_secs(10)));
        (0..3).for_each(|_| assert!(!signals.failure(0)));
        // Eleven seconds later those three are gone, and a fourth failure is the only call known.
        assert!(!signals.failure(11_000_000));
        assert_eq!(signals.rate(11_000_000), (1.0, 1));
    }

    #[test]
    fn successes_of_long_ago_do_not_hide_failures() {
        // The flaw of a "window" that only resets on a state change.
        for window in [Window::Calls(100), Window::Time(Duration::from_secs(10))] {
            let signals = signals(window);
            (0..10_000).for_each(|_| signals.success(|| 0));
            let after = (1..=10_000).find(|_| signals.failure(20_000_000)).unwrap();
            assert!(
                after <= 51,
                "{after} failures in a row were not seen over {window:?}"
            );
        }
    }

    #[test]
    fn an_overload_is_in_the_rate_and_not_in_the_row() {
        let signals = Signals::new(
            1,
            &BreakerConfig {
                failure_rate: Ratio::ZERO,
                consecutive_failures: Some(2),
                ..BreakerConfig::default()
            },
        );
        assert!(!signals.failure(0));
        assert!(!signals.overload(0));
        assert!(signals.failure(0));
        signals.success(|| 0);
        assert!(!signals.failure(0));
    }

    #[test]
    fn the_rate_opens_at_exactly_the_percentage_that_was_set() {
        for percent in 1..=100_u8 {
            let signals = Signals::new(
                1,
                &BreakerConfig {
                    failure_rate: Ratio::percent(percent),
                    minimum_calls: 100,
                    ..BreakerConfig::default()
                },
            );
            (percent..100).for_each(|_| signals.success(|| 0));
            let trips = (0..percent).filter(|_| signals.failure(0)).count();
            assert_eq!(trips, 1, "{percent} failures in 100 calls");
        }
    }

    #[test]
    fn a_failure_that_is_taken_back_before_it_is_added_is_not_a_hundred() {
        // One thread has set its bit and not added it yet; another one laps it with a success.
        let window = CallWindow::new(4);
        (0..4).for_each(|_| window.record(true));
        window.bits[0].fetch_or(1, SeqCst);
        window.record(true);
        assert_eq!(window.sum(), (4, 0));
        window.bad.fetch_add(1, SeqCst);
        assert_eq!(window.sum(), (4, 0));
    }

    #[test]
    fn the_window_counts_on_when_its_tenths_start_again_at_zero() {
        let window = || TimeWindow {
            bucket_us: 1_000,
            shards: Sharded::new(Default::default),
        };
        let wrap = (u64::from(u32::MAX) - 20) * 1_000;
        let busy = window();
        for millis in 0..40 {
            busy.record(wrap + millis * 1_000, false);
            let seen = busy.sum(wrap + millis * 1_000).1;
            assert!((1..=10).contains(&seen), "{seen} after {millis} ms");
        }
        // A thread that comes back after half a round of the numbers, which is weeks.
        let idle = window();
        idle.record(0, false);
        let later = u64::from(u32::MAX) / 20 * 10 * 1_000 + 100_000_000;
        idle.record(later, false);
        assert_eq!(idle.sum(later), (0, 1));
    }

    proptest! {
        #[test]
        fn the_call_window_is_exact(size in 1_u32..200, calls in proptest::collection::vec(any::<bool>(), 0..600)) {
            let window = CallWindow::new(size.into());
            let mut reference = VecDeque::new();
            for good in calls {
                window.record(good);
                reference.push_back(good);
                if reference.len() > size as usize {
                    reference.pop_front();
                }
                let good = reference.iter().filter(|good| **good).count() as u64;
                prop_assert_eq!(window.sum(), (good, reference.len() as u64 - good));
            }
        }

        #[test]
        fn the_time_window_holds_between_nine_and_ten_tenths(
            steps in proptest::collection::vec((0_u64..3_000_000, any::<bool>()), 0..200),
        ) {
            let window = TimeWindow { bucket_us: 1_000_000, shards: Sharded::new(Default::default) };
            let (mut now, mut seen) = (0, Vec::new());
            for (step, good) in steps {
                now += step;
                window.record(now, good);
                seen.push((now, good));
                let count = |span: u64, want: bool| {
                    seen.iter().filter(|(at, good)| *at + span > now && *good == want).count() as u64
                };
                let (good, bad) = window.sum(now);
                prop_assert!((count(9_000_000, true)..=count(10_000_000, true)).contains(&good));
                prop_assert!((count(9_000_000, false)..=count(10_000_000, false)).contains(&bad));
            }
        }
    }
}
