//! How long answers take lately: a percentile of the last ten to twenty seconds.
//!
//! Durations go into a [`Histogram`]. Once a second whoever asks takes a snapshot, and the percentile is
//! that of what came since the last turn of the window but one. So a call pays an addition and a few
//! loads, and an old peak is forgotten.
//!
//! An attempt that lost to its hedge is recorded with the time it had until then. It would have taken
//! longer, and left out it would pull the percentile down, until everything is hedged.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::due::Due;
use crate::vocab::{
    config::Ratio,
    histogram::{Histogram, HistogramSnapshot},
};

/// How long the window stands before it turns: a turn later it is forgotten.
const TURN: u64 = 10_000;
/// No percentile is known.
const UNKNOWN: u64 = u64::MAX;

/// The times of answers, and a percentile of them.
#[derive(Debug)]
pub(super) struct Latencies {
    origin: Instant,
    all: Histogram,
    due: Due,
    /// The percentile, in ns.
    nanos: AtomicU64,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    /// What there was at the last turn, and at the one before it.
    at_last: HistogramSnapshot,
    at_former: HistogramSnapshot,
    turned: u64,
}

// ===== impl Latencies =====

impl Latencies {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            all: Histogram::new(),
            due: Due::default(),
            nanos: AtomicU64::new(UNKNOWN),
            window: Mutex::default(),
        }
    }

    #[inline]
    pub(super) fn record(&self, took: Duration) {
        self.all.record(took);
    }

    /// The percentile, where it can be taken from `least` answers; to about 3%, and up to a second old.
    #[inline]
    pub(super) fn percentile(
        &self,
        now: Instant,
        of: impl FnOnce() -> (Ratio, u32),
    ) -> Option<Duration> {
        let now = now.saturating_duration_since(self.origin).as_millis() as u64;
        if self.due.is_over(now) {
            self.refresh(now, of);
        }
        self.known()
    }

    /// The percentile as it was last taken.
    #[inline]
    pub(super) fn known(&self) -> Option<Duration> {
        match self.nanos.load(Relaxed) {
            UNKNOWN => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Takes it anew with the next call: another percentile is wanted.
    pub(super) fn expire(&self) {
        self.due.expire();
    }

    #[cold]
    fn refresh(&self, now: u64, of: impl FnOnce() -> (Ratio, u32)) {
        // Somebody else is at it: what was known does for this call.
        let Some(mut window) = self.window.try_lock() else {
            return;
        };
        self.due.begin(now);
        let (share, least) = of();
        let all = self.all.snapshot();
        let recent = all.since(&window.at_former);
        let known = recent.quantile(share.as_f64());
        let known = known.filter(|_| recent.count() >= u64::from(least));
        let nanos = known.map_or(UNKNOWN, |known| known.as_nanos() as u64);
        self.nanos.store(nanos, Relaxed);
        if now - window.turned >= TURN {
            window.at_former = std::mem::replace(&mut window.at_last, all);
            window.turned = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn p95(latencies: &Latencies, now: Instant) -> Option<Duration> {
        latencies.percentile(now, || (Ratio::percent(95), 100))
    }

    #[test]
    fn too_few_answers_have_no_percentile() {
        let start = Instant::now();
        let latencies = Latencies::new(start);
        (0..99).for_each(|_| latencies.record(MS));
        assert_eq!(p95(&latencies, start), None);
        latencies.record(MS);
        assert_eq!(
            p95(&latencies, start + 999 * MS),
            None,
            "looked at once a second"
        );
        assert!(p95(&latencies, start + 1_000 * MS).is_some());
    }

    #[test]
    fn what_is_twenty_seconds_old_is_forgotten() {
        let start = Instant::now();
        let latencies = Latencies::new(start);
        let percentile_at = |second: u32, took: Duration| {
            (0..200).for_each(|_| latencies.record(took));
            let known = p95(&latencies, start + second * 1_000 * MS);
            known.unwrap().as_millis()
        };
        for second in 0..15 {
            assert!(
                percentile_at(second, 500 * MS).abs_diff(500) <= 16,
                "{second}"
            );
        }
        let after: Vec<_> = (15..40)
            .map(|second| percentile_at(second, 5 * MS))
            .collect();
        assert!(after[0] > 400);
        assert!(after[20..].iter().all(|took| *took <= 6), "{after:?}");
    }

    proptest! {
        /// The reference sorts all of them.
        #[test]
        fn it_is_the_percentile_of_what_was_recorded(
            took in proptest::collection::vec(1_u64..10_000, 100..400),
            percent in 50_u8..100,
        ) {
            let start = Instant::now();
            let latencies = Latencies::new(start);
            took.iter().for_each(|took| latencies.record(*took as u32 * MS));
            let share = Ratio::percent(percent);
            let known = latencies.percentile(start, || (share, 100)).unwrap();
            let mut sorted = took.clone();
            sorted.sort_unstable();
            let rank = (share.as_f64() * sorted.len() as f64).ceil() as usize;
            let exact = sorted[rank - 1] as f64;
            prop_assert!((known.as_secs_f64() * 1e3 / exact - 1.0).abs() < 0.032);
        }
    }
}
