//! When to open: failures in a row, the failure rate over an exact sliding window, and the rate of slow
//! calls over another.
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

use super::{
    config::{BreakerConfig, SlowCall, Window},
    window::Recent,
};

/// What one breaker has seen, and the thresholds it is judged by.
#[derive(Debug)]
pub(super) struct Signals {
    /// Failures of the peer since its last success.
    in_a_row: AtomicU32,
    seen: Seen,
    /// The revision of the configuration that `limits` are of.
    followed: AtomicU64,
    /// Only failures are judged, so a success takes no lock.
    limits: Mutex<Limits>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    /// 0 turns the signal off.
    in_a_row: u32,
    /// 0.0 turns the signal off.
    rate: f64,
    slow_rate: f64,
    minimum_calls: u64,
}

/// What was seen through a window of one shape. Only by an edit of the configuration there is ever
/// another, so old ones stay, unused: a list that only grows is read without a lock.
#[derive(Debug)]
struct Seen {
    shape: Shape,
    /// Failures among all calls.
    window: Recent,
    /// Slow ones among all calls.
    slow: Option<Recent>,
    next: OnceLock<Box<Self>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    window: Window,
    /// From how many microseconds on a call is slow.
    slow_us: Option<u64>,
}

// ===== impl Signals =====

impl Signals {
    pub(super) fn new(revision: u64, config: &BreakerConfig) -> Self {
        Self {
            in_a_row: AtomicU32::new(0),
            seen: Seen::new(Shape::of(config)),
            followed: AtomicU64::new(revision),
            limits: Mutex::new(Limits::new(config)),
        }
    }

    /// Judges by the limits of this configuration from now on. What was seen is kept, unless the window
    /// has another shape or a call is slow after another time.
    #[inline]
    pub(super) fn follow(&self, revision: u64, config: impl FnOnce() -> BreakerConfig) {
        if self.followed.load(SeqCst) != revision {
            self.follow_now(revision, &config());
        }
    }

    #[cold]
    fn follow_now(&self, revision: u64, config: &BreakerConfig) {
        let mut limits = self.limits.lock();
        *limits = Limits::new(config);
        let (shape, newest) = (Shape::of(config), self.seen.newest());
        if newest.shape != shape {
            newest.next.get_or_init(|| Box::new(Seen::new(shape)));
        }
        self.followed.store(revision, SeqCst);
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
        self.window().record(now_us, true);
    }

    /// A call failed: says whether that is one too many.
    pub(super) fn failure(&self, now_us: u64) -> bool {
        let in_a_row = self.in_a_row.fetch_add(1, SeqCst).saturating_add(1);
        let limit = self.limits.lock().in_a_row;
        self.overload(now_us) || (limit > 0 && in_a_row >= limit)
    }

    /// A call found the peer too busy: that counts in the rate, and says nothing of failures in a row.
    pub(super) fn overload(&self, now_us: u64) -> bool {
        self.window().record(|| now_us, false);
        let limits = *self.limits.lock();
        limits.reached(limits.rate, self.window().sum(now_us))
    }

    pub(super) fn is_slow(&self, took_us: u64) -> bool {
        let slow_us = self.seen.newest().shape.slow_us;
        slow_us.is_some_and(|slow_us| took_us >= slow_us)
    }

    /// A call took this long, whatever came of it: says whether that is one slow call too many.
    pub(super) fn took(&self, took_us: u64, now_us: u64) -> bool {
        let newest = self.seen.newest();
        let (Some(slow_us), Some(slow)) = (newest.shape.slow_us, &newest.slow) else {
            return false;
        };
        let is_slow = took_us >= slow_us;
        slow.record(|| now_us, !is_slow);
        is_slow && {
            let limits = *self.limits.lock();
            limits.reached(limits.slow_rate, slow.sum(now_us))
        }
    }

    /// The failure rate over the window, and the calls it was taken over.
    pub(super) fn rate(&self, now_us: u64) -> (f64, u64) {
        rate(self.window().sum(now_us))
    }

    /// The same of slow calls; `None` where they are not looked for.
    pub(super) fn slow_rate(&self, now_us: u64) -> Option<(f64, u64)> {
        let slow = self.seen.newest().slow.as_ref()?;
        Some(rate(slow.sum(now_us)))
    }

    /// Whether new signals would say the same: nothing was seen that still counts.
    pub(super) fn is_blank(&self, now_us: u64) -> bool {
        let in_a_row = self.limits.lock().in_a_row > 0 && self.in_a_row.load(SeqCst) > 0;
        let slow = self.slow_rate(now_us).is_some_and(|(_, calls)| calls > 0);
        !in_a_row && !slow && self.window().sum(now_us) == (0, 0)
    }

    /// Forgets everything, as a breaker does before it lets probes through.
    pub(super) fn clear(&self) {
        self.in_a_row.store(0, SeqCst);
        let newest = self.seen.newest();
        newest.window.clear();
        if let Some(slow) = &newest.slow {
            slow.clear();
        }
    }
}

/// The share of the bad among all calls, and how many those are.
fn rate((good, bad): (u64, u64)) -> (f64, u64) {
    let calls = good + bad;
    let share = if calls == 0 {
        0.0
    } else {
        bad as f64 / calls as f64
    };
    (share, calls)
}

// ===== impl Limits =====

impl Limits {
    fn new(config: &BreakerConfig) -> Self {
        Self {
            in_a_row: config.consecutive_failures.unwrap_or(0),
            rate: config.failure_rate.as_f64(),
            slow_rate: config.slow_call.map_or(0.0, |slow| slow.rate.as_f64()),
            minimum_calls: config.minimum_calls.into(),
        }
    }

    /// Whether so many of the calls are bad.
    fn reached(&self, rate: f64, (good, bad): (u64, u64)) -> bool {
        let calls = good + bad;
        // The small term keeps 7% of 100 at 7: the product is a hair above the whole number.
        rate > 0.0 && calls >= self.minimum_calls && bad as f64 + 1e-9 >= rate * calls as f64
    }
}

// ===== impl Shape =====

impl Shape {
    fn of(config: &BreakerConfig) -> Self {
        let micros = |slow: SlowCall| u64::try_from(slow.duration.as_micros()).unwrap_or(u64::MAX);
        Self {
            window: config.window,
            slow_us: config.slow_call.map(micros),
        }
    }
}

// ===== impl Seen =====

impl Seen {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            window: Recent::new(shape.window),
            slow: shape.slow_us.map(|_| Recent::new(shape.window)),
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

#[cfg(test)]
mod tests;
