//! Adaptive throttling: refuse a share of the calls, the larger the fewer of them succeed.
//!
//! From chapter 21 of Google's *Site Reliability Engineering* ("Handling Overload", client-side
//! throttling), as go-kratos' aegis has it (`circuitbreaker/sre`): over a rolling window a call is
//! refused with the probability
//!
//! ```text
//! max(0, (total - K * accepts) / (total + 1))          K = 1 / successRatio
//! ```
//!
//! so nothing is refused while at least `successRatio` of the calls succeed, and about one call in
//! `total` still passes when none does. There is no half-open and no timer: what passes is the probe.
//!
//! No clock and no I/O in here: every method is told the time, in microseconds since the breaker was
//! made, and its random numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::count::Count;
use crate::vocab::config::{ConfigError, Ratio, duration, duration_in_range, in_range};

/// Options of adaptive throttling. The defaults of the numbers are those of kratos' aegis.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AdaptiveConfig {
    /// Nothing is refused while at least this share of the calls succeeds: 1% to 100%, default 60%. The
    /// `K` of the formula is one over it.
    pub success_ratio: Ratio,
    /// Nothing is refused while there are fewer calls than this in the window: 1 to 1,000,000, default
    /// 100. kratos' `request`.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub minimum_calls: u32,
    /// The time that is looked back: 10 ms to 1 h, default 3 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub window: Duration,
    /// In how many steps the window moves: 1 to 100, default 10.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100)))]
    pub buckets: u32,
    /// Whether a call that was refused here counts as one that failed, as in Google's chapter and in
    /// kratos. Fewer calls then reach a peer that is down, and it takes several times as long until all
    /// calls pass once it is up. Default false.
    pub count_local_rejects: bool,
}

/// A rolling window of calls and of those that succeeded.
#[derive(Debug)]
pub(super) struct Throttle {
    bucket_us: u64,
    /// By absolute slot: the calls of slot `n` are in bucket `n % buckets` for as long as that says `n`.
    buckets: Box<[Bucket]>,
}

#[derive(Debug, Default)]
struct Bucket {
    total: Count,
    accepts: Count,
}

/// What a window holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) total: u64,
    pub(super) accepts: u64,
}

// ===== impl AdaptiveConfig =====

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self {
            success_ratio: Ratio::percent(60),
            minimum_calls: 100,
            window: Duration::from_secs(3),
            buckets: 10,
            // Decided by a simulation; docs/decisions.md has its numbers.
            count_local_rejects: false,
        }
    }
}

impl AdaptiveConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const LEAST: Duration = Duration::from_millis(10);
        const MOST: Duration = Duration::from_secs(3600);
        if self.success_ratio < Ratio::percent(1) {
            return Err(ConfigError::new(
                "successRatio",
                self.success_ratio,
                "1% to 100%",
            ));
        }
        in_range("minimumCalls", self.minimum_calls, 1..=1_000_000)?;
        duration_in_range("window", self.window, LEAST..=MOST)?;
        in_range("buckets", self.buckets, 1..=100)?;
        Ok(())
    }

    /// Whether what was counted under the other still fits.
    pub(super) fn has_the_window_of(&self, other: &Self) -> bool {
        (self.window, self.buckets) == (other.window, other.buckets)
    }

    /// The probability with which a call is refused.
    pub(super) fn drop_ratio(&self, sum: Sum) -> f64 {
        let (total, accepts) = (sum.total as f64, sum.accepts as f64);
        let wanted = accepts / self.success_ratio.as_f64();
        // The small term keeps 60 of 100 at 60%: the quotient may be a hair below the whole number.
        if sum.total < u64::from(self.minimum_calls) || total < wanted + 1e-9 {
            0.0
        } else {
            (total - wanted) / (total + 1.0)
        }
    }
}

// ===== impl Sum =====

impl Sum {
    /// The share of the calls that did not succeed, and how many calls there were.
    pub(super) fn failure_rate(self) -> (f64, u64) {
        let failed = self.total.saturating_sub(self.accepts);
        (failed as f64 / self.total.max(1) as f64, self.total)
    }
}

// ===== impl Throttle =====

impl Throttle {
    pub(super) fn new(config: &AdaptiveConfig) -> Self {
        let bucket_us = config.window.as_micros() as u64 / u64::from(config.buckets);
        Self {
            bucket_us: bucket_us.max(1),
            buckets: (0..config.buckets).map(|_| Bucket::default()).collect(),
        }
    }

    /// A call ended.
    pub(super) fn record(&self, now_us: u64, accepted: bool) {
        let slot = now_us / self.bucket_us;
        let bucket = &self.buckets[slot as usize % self.buckets.len()];
        bucket.total.record(slot as u32);
        if accepted {
            bucket.accepts.record(slot as u32);
        }
    }

    pub(super) fn sum(&self, now_us: u64) -> Sum {
        let slot = (now_us / self.bucket_us) as u32;
        let current = |count: &Count| count.of_last(self.buckets.len() as u32, slot);
        let empty = Sum {
            total: 0,
            accepts: 0,
        };
        self.buckets.iter().fold(empty, |sum, bucket| Sum {
            total: sum.total + current(&bucket.total),
            accepts: sum.accepts + current(&bucket.accepts),
        })
    }

    pub(super) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.total.clear();
            bucket.accepts.clear();
        }
    }
}

#[cfg(test)]
mod tests;
