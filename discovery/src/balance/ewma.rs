//! The latency of one endpoint, as a peak-sensitive moving average in one atomic word.
//!
//! The algorithm is Finagle's *peak EWMA* (`com.twitter.finagle.loadbalancer.PeakEwma`): a latency
//! above the average replaces it at once, one below it is mixed in by the time that passed since the
//! last one, and between calls the average decays towards zero, so that an endpoint which was slow
//! once is tried again. Time is in milliseconds of a clock that the caller owns.

use std::{
    f32::consts::{LN_2, LOG2_E},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// An average of nothing.
const COLD: u64 = 0;
/// A call takes some time. It also keeps an average that decayed to nothing apart from [`COLD`], and
/// lets the calls in flight decide between two endpoints that were idle for long.
const FLOOR_NANOS: f32 = 1_000.0;

/// 2^23: from here on, an `f32` is a whole number.
const ROUNDING: f32 = 8_388_608.0;

/// How fast the past is forgotten.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Decay {
    half_lives_per_ms: f32,
}

/// A latency in nanoseconds (an `f32`) above the millisecond it was recorded at, so that both change
/// together. The stamp wraps after 49 days, when an endpoint that was idle as long looks fresh.
#[derive(Debug, Default)]
pub(super) struct Ewma(AtomicU64);

// ===== impl Decay =====

impl Decay {
    /// After `constant_ms` the weight of the past is 1/e.
    pub(super) fn new(constant_ms: f32) -> Self {
        Self {
            half_lives_per_ms: LOG2_E / constant_ms.max(1.0),
        }
    }

    pub(super) fn to_bits(self) -> u32 {
        self.half_lives_per_ms.to_bits()
    }

    pub(super) fn from_bits(bits: u32) -> Self {
        Self {
            half_lives_per_ms: f32::from_bits(bits),
        }
    }

    /// What is left of 1 after `elapsed_ms`: `2^-x`, the nearest whole half-life by an exponent, the rest
    /// by a polynomial that is right to 0.1%. `exp` would cost a library call for each endpoint looked at.
    #[inline]
    fn weight(self, elapsed_ms: u32) -> f32 {
        let x = elapsed_ms as f32 * self.half_lives_per_ms;
        if x >= 100.0 {
            return 0.0;
        }
        // So large a number has no room for a fraction: the sum is rounded, and its lowest bits count.
        let rounded = x + ROUNDING;
        let whole = rounded.to_bits() - ROUNDING.to_bits();
        let f = x - (rounded - ROUNDING);
        // Taylor's series of 2^-f, for f from -1/2 to 1/2.
        let part = 1.0 - f * (LN_2 - f * (0.240_227 - f * 0.055_504));
        part * f32::from_bits((127 - whole) << 23)
    }
}

// ===== impl Ewma =====

impl Ewma {
    /// The average now, in nanoseconds; `None` before the first latency. Changes nothing.
    #[inline]
    pub(super) fn get(&self, now_ms: u32, decay: Decay) -> Option<f32> {
        let packed = self.0.load(Relaxed);
        (packed != COLD).then(|| decayed(packed, now_ms, decay))
    }

    /// Takes in a latency.
    #[inline]
    pub(super) fn observe(&self, nanos: f32, now_ms: u32, decay: Decay) {
        let nanos = nanos.max(FLOOR_NANOS);
        self.update(|packed| {
            let (average, stamp) = unpack(packed);
            let mixed = if packed == COLD || nanos >= average {
                nanos
            } else {
                let weight = decay.weight(elapsed(stamp, now_ms));
                // The latency is below the average, so this never undercuts it.
                average * weight + nanos * (1.0 - weight)
            };
            Some(pack(mixed, now_ms))
        });
    }

    /// Takes in that a call took *more* than `nanos`: raises the average to it, never lowers it.
    pub(super) fn observe_at_least(&self, nanos: f32, now_ms: u32, decay: Decay) {
        self.update(|packed| {
            let known = packed != COLD && decayed(packed, now_ms, decay) >= nanos;
            (!known).then(|| pack(nanos.max(FLOOR_NANOS), now_ms))
        });
    }

    /// Forgets the past for one latency, as when an endpoint has recovered.
    pub(super) fn reset(&self, nanos: f32, now_ms: u32) {
        self.0.store(pack(nanos.max(FLOOR_NANOS), now_ms), Relaxed);
    }

    fn update(&self, next: impl Fn(u64) -> Option<u64>) {
        // Relaxed: the word stands for itself. An error means that there was nothing to change.
        let _ = self.0.fetch_update(Relaxed, Relaxed, next);
    }
}

fn pack(nanos: f32, stamp: u32) -> u64 {
    u64::from(nanos.to_bits()) << 32 | u64::from(stamp)
}

fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}

fn elapsed(stamp: u32, now_ms: u32) -> u32 {
    let elapsed = now_ms.wrapping_sub(stamp);
    // Another thread may have stamped a moment later than this one read the clock.
    if elapsed > u32::MAX / 2 { 0 } else { elapsed }
}

fn decayed(packed: u64, now_ms: u32, decay: Decay) -> f32 {
    let (average, stamp) = unpack(packed);
    (average * decay.weight(elapsed(stamp, now_ms))).max(FLOOR_NANOS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: f32 = 1e6;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let (ewma, decay) = (Ewma::default(), Decay::new(5_000.0));
        assert_eq!(ewma.get(0, decay), None);
        ewma.observe(MS, 0, decay);
        ewma.observe(100.0 * MS, 10, decay);
        assert_eq!(ewma.get(10, decay), Some(100.0 * MS));
        ewma.observe(MS, 10 + 5_000, decay);
        let mixed = ewma.get(5_010, decay).unwrap() / MS;
        assert!(
            (mixed - (1.0 + 99.0 / std::f32::consts::E)).abs() < 0.5,
            "{mixed}"
        );
    }

    #[test]
    fn an_idle_average_decays_by_reading_alone() {
        let (ewma, decay) = (Ewma::default(), Decay::new(1_000.0));
        ewma.observe(100.0 * MS, 0, decay);
        let after = ewma.get(1_000, decay).unwrap() / MS;
        assert!((after - 100.0 / std::f32::consts::E).abs() < 0.2, "{after}");
        assert_eq!(ewma.get(1_000_000, decay), Some(FLOOR_NANOS));
    }

    #[test]
    fn a_lower_bound_raises_and_never_lowers() {
        let (ewma, decay) = (Ewma::default(), Decay::new(1_000.0));
        ewma.observe(10.0 * MS, 0, decay);
        ewma.observe_at_least(MS, 0, decay);
        assert_eq!(ewma.get(0, decay), Some(10.0 * MS));
        ewma.observe_at_least(50.0 * MS, 0, decay);
        assert_eq!(ewma.get(0, decay), Some(50.0 * MS));
    }

    #[test]
    fn a_clock_read_out_of_order_decays_nothing() {
        let (ewma, decay) = (Ewma::default(), Decay::new(1_000.0));
        ewma.observe(10.0 * MS, 100, decay);
        assert_eq!(ewma.get(99, decay), Some(10.0 * MS));
    }

    proptest! {
        #[test]
        fn the_weight_is_that_of_exp(constant in 1.0_f32..100_000.0, elapsed in 0_u32..1_000_000) {
            let got = Decay::new(constant).weight(elapsed);
            let want = (-f64::from(elapsed) / f64::from(constant)).exp() as f32;
            prop_assert!((got - want).abs() <= 0.003 * want + 1e-12, "{got} {want}");
        }

        #[test]
        fn the_average_stays_between_the_least_and_the_most(
            calls in prop::collection::vec((1_000.0_f32..1e10, 0_u32..5_000), 1..50),
        ) {
            let (ewma, decay) = (Ewma::default(), Decay::new(5_000.0));
            let (mut now, mut most) = (u32::MAX - 1_000, 0.0_f32); // the stamp wraps on the way
            for (nanos, step) in calls {
                now = now.wrapping_add(step);
                ewma.observe(nanos, now, decay);
                most = most.max(nanos);
                let average = ewma.get(now, decay).unwrap();
                prop_assert!(average >= nanos.min(most) * 0.999 && average <= most * 1.001);
            }
        }
    }
}
