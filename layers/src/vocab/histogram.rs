//! A histogram of durations: two atomic additions to record, about 3% relative error, little memory.
//!
//! Log-linear buckets, as in Gil Tene's HdrHistogram: every power of two is cut into 16 buckets of
//! equal width, so that a duration is known to about 3% wherever it lies between a microsecond and
//! an hour. Time is counted in ticks of 64 ns, which makes the bucket of a duration a shift and a
//! count of leading zeros.
//!
//! Call times span few powers of two, so the buckets of one are allocated when the first duration
//! falls into it: 128 bytes each. Per shard a histogram takes 640 bytes (540 where there is one), and
//! 128 for each of the powers of two it has met. Typical: 8 of them, 1.7 KB. [`Histogram::new`] has a shard for each
//! core, for a layer; [`Histogram::unsharded`] has one, for each of many endpoints or keys: 10,000
//! of them take about 16 MB.
//!
//! ```
//! use std::time::Duration;
//! use tower_mesh_layers::Histogram;
//!
//! let latency = Histogram::new();
//! for ms in 1..=100 {
//!     latency.record(Duration::from_millis(ms));
//! }
//! let seen = latency.snapshot();
//! let p99 = seen.quantile(0.99).unwrap().as_secs_f64();
//! assert!((p99 / 0.099 - 1.0).abs() < 0.032);
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::shard::Sharded;

/// A tick is 2^6 ns: the first microsecond has 16 ticks, so from there on buckets are 1/16 wide.
const TICK_SHIFT: u32 = 6;
/// Buckets per power of two, as a power of two.
const CUT_BITS: u32 = 4;
const CUTS: usize = 1 << CUT_BITS;
/// Ticks are counted up to 2^36: 73 minutes.
const TICK_BITS: u32 = 36;
const MAX_TICKS: u64 = (1 << TICK_BITS) - 1;
/// The ticks below 16 have one group, every power of two above has one.
const GROUPS: usize = (TICK_BITS - CUT_BITS) as usize + 1;

/// Durations, recorded by any number of threads.
///
/// Resolution is 64 ns below a microsecond and about 3% above. What lasts longer than 73 minutes
/// counts as 73 minutes.
pub struct Histogram {
    shards: Shards,
}

#[allow(
    clippy::large_enum_variant,
    reason = "the large one is there in thousands"
)]
enum Shards {
    PerCore(Sharded<Shard>),
    /// In place: with thousands of histograms, each pointer on the way is a miss in the cache.
    One(Shard),
}

#[repr(C)] // the sum beside the groups of short durations
struct Shard {
    /// In ticks: nanoseconds would overflow within weeks where many long calls run at once.
    sum: AtomicU64,
    groups: [OnceLock<Box<[AtomicU64; CUTS]>>; GROUPS],
}

/// What a [`Histogram`] held at one time: plain numbers that merge, subtract and answer quantiles.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Bucket number to count, without the empty ones.
    buckets: BTreeMap<u16, u64>,
    /// In ticks.
    sum: u64,
}

// ===== buckets =====

#[inline]
fn ticks(duration: Duration) -> u64 {
    let nanos = duration
        .as_secs()
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::from(duration.subsec_nanos()));
    (nanos >> TICK_SHIFT).min(MAX_TICKS)
}

fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(ticks.saturating_mul(1 << TICK_SHIFT))
}

/// The group and the place in it.
#[inline]
fn bucket_of(ticks: u64) -> (usize, usize) {
    let Some(shift) = (u64::BITS - ticks.leading_zeros()).checked_sub(CUT_BITS + 1) else {
        return (0, ticks as usize);
    };
    (shift as usize + 1, (ticks >> shift) as usize & (CUTS - 1))
}

/// The first tick of a bucket and the first after it.
fn bounds(bucket: u16) -> (u64, u64) {
    let (group, place) = (
        usize::from(bucket) / CUTS,
        (usize::from(bucket) % CUTS) as u64,
    );
    match group.checked_sub(1) {
        None => (place, place + 1),
        Some(shift) => (
            (CUTS as u64 + place) << shift,
            (CUTS as u64 + place + 1) << shift,
        ),
    }
}

/// The duration that stands for all in a bucket: the harmonic mean of its bounds, whose relative
/// error is the same at both of them.
fn representative(bucket: u16) -> Duration {
    let (low, high) = bounds(bucket);
    let (low, high) = ((low << TICK_SHIFT) as f64, (high << TICK_SHIFT) as f64);
    Duration::from_nanos((2.0 * low * high / (low + high)) as u64)
}

// ===== impl Histogram =====

impl Histogram {
    /// A histogram with a shard for each core.
    pub fn new() -> Self {
        Self {
            shards: Shards::PerCore(Sharded::default()),
        }
    }

    /// A histogram with one shard that all threads share, for where there are many histograms and
    /// each sees few calls.
    pub fn unsharded() -> Self {
        Self {
            shards: Shards::One(Shard::default()),
        }
    }

    /// Records one duration.
    ///
    /// Takes no lock and allocates nothing, but for 128 bytes when a shard meets a power of two
    /// for the first time.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let ticks = ticks(duration);
        let (group, place) = bucket_of(ticks);
        let shard = match &self.shards {
            Shards::PerCore(shards) => shards.get(),
            Shards::One(shard) => shard,
        };
        shard.groups[group].get_or_init(Box::default)[place].fetch_add(1, Relaxed);
        shard.sum.fetch_add(ticks, Relaxed);
    }

    /// Everything recorded so far.
    ///
    /// Taken while others record, it may hold the count of a duration and not yet its share of the
    /// sum. A later snapshot on the same thread never counts less in any bucket.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut snapshot = HistogramSnapshot::default();
        match &self.shards {
            Shards::PerCore(shards) => shards.iter().for_each(|shard| shard.add_to(&mut snapshot)),
            Shards::One(shard) => shard.add_to(&mut snapshot),
        }
        snapshot
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Histogram").field(&self.snapshot()).finish()
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            sum: AtomicU64::new(0),
            groups: std::array::from_fn(|_| OnceLock::new()),
        }
    }
}

impl Shard {
    fn add_to(&self, snapshot: &mut HistogramSnapshot) {
        snapshot.sum = snapshot.sum.wrapping_add(self.sum.load(Relaxed));
        for (group, counts) in self.groups.iter().enumerate() {
            let Some(counts) = counts.get() else { continue };
            for (place, count) in counts.iter().enumerate() {
                let count = count.load(Relaxed);
                if count > 0 {
                    *snapshot
                        .buckets
                        .entry((group * CUTS + place) as u16)
                        .or_default() += count;
                }
            }
        }
    }
}

// ===== impl HistogramSnapshot =====

impl HistogramSnapshot {
    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// All durations together, each rounded down to 64 ns.
    pub fn sum(&self) -> Duration {
        duration(self.sum)
    }

    /// The mean duration, or `None` when nothing was recorded.
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        (count > 0).then(|| duration(self.sum / count))
    }

    /// The duration that a share of `q` (0.0 to 1.0; clamped) of all did not exceed, to about 3%;
    /// `None` when nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        // The nearest rank: the smallest value with at least q of all at or below it.
        let rank = ((q.clamp(0.0, 1.0) * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0;
        self.buckets().find_map(|(duration, count)| {
            below += count;
            (below >= rank).then_some(duration)
        })
    }

    /// Adds everything in `other`.
    pub fn merge(&mut self, other: &Self) {
        for (&bucket, count) in &other.buckets {
            *self.buckets.entry(bucket).or_default() += count;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// What was recorded since `earlier`, a snapshot of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let since = |(&bucket, count): (&u16, &u64)| {
            let more = count.saturating_sub(earlier.buckets.get(&bucket).copied().unwrap_or(0));
            (more > 0).then_some((bucket, more))
        };
        Self {
            buckets: self.buckets.iter().filter_map(since).collect(),
            sum: self.sum.wrapping_sub(earlier.sum),
        }
    }

    /// The shortest `limit` of the durations; their sum is not known.
    #[cfg(feature = "metrics")]
    pub(super) fn first(&self, mut limit: u64) -> Self {
        let up_to_limit = |(&bucket, &count): (&u16, &u64)| {
            let taken = count.min(limit);
            limit -= taken;
            (taken > 0).then_some((bucket, taken))
        };
        Self {
            buckets: self.buckets.iter().filter_map(up_to_limit).collect(),
            sum: 0,
        }
    }

    /// The non-empty buckets in ascending order: a duration that stands for all in the bucket, to
    /// about 3%, and how many there are.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.buckets
            .iter()
            .map(|(&bucket, &count)| (representative(bucket), count))
    }

    /// Folds into cumulative Prometheus buckets: for each of the ascending upper `bounds`, how many
    /// durations did not exceed it. The `+Inf` bucket is [`count`](Self::count).
    ///
    /// Durations within about 3% of a bound may count on either side of it.
    pub fn cumulative(&self, bounds: &[Duration]) -> Vec<u64> {
        debug_assert!(bounds.is_sorted(), "bounds ascend");
        let mut buckets = self.buckets().peekable();
        let mut below = 0;
        let count_below = |bound: &Duration| {
            while let Some((_, count)) = buckets.next_if(|(duration, _)| duration <= bound) {
                below += count;
            }
            below
        };
        bounds.iter().map(count_below).collect()
    }
}

impl fmt::Debug for HistogramSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistogramSnapshot")
            .field("count", &self.count())
            .field("sum", &self.sum())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Half a bucket, relative to where it stands: 1/33.
    const ERROR: f64 = 0.0304;

    fn recorded(nanos: &[u64]) -> HistogramSnapshot {
        let histogram = Histogram::new();
        nanos
            .iter()
            .for_each(|&nanos| histogram.record(Duration::from_nanos(nanos)));
        histogram.snapshot()
    }

    fn relative_error(measured: Duration, exact: u64) -> f64 {
        (measured.as_nanos() as f64 / exact as f64 - 1.0).abs()
    }

    /// From a microsecond to an hour, each power of two as likely as the next.
    fn nanos() -> impl Strategy<Value = u64> {
        (10u32..42).prop_flat_map(|bits| (1u64 << bits)..(1u64 << (bits + 1)).min(3_600 << 30))
    }

    proptest! {
        #[test]
        fn a_recorded_duration_is_found_again_within_three_percent(nanos in nanos()) {
            let snapshot = recorded(&[nanos]);
            prop_assert_eq!(snapshot.count(), 1);
            prop_assert!(relative_error(snapshot.quantile(0.5).unwrap(), nanos) < ERROR);
            prop_assert!(snapshot.sum().as_nanos().abs_diff(u128::from(nanos)) < 64);
        }

        #[test]
        fn a_quantile_is_the_exact_one_within_three_percent(
            mut all in proptest::collection::vec(nanos(), 1..200),
            q in 0.0..=1.0f64,
        ) {
            let measured = recorded(&all).quantile(q).unwrap();
            all.sort_unstable();
            let rank = ((q * all.len() as f64).ceil() as usize).max(1);
            prop_assert!(relative_error(measured, all[rank - 1]) < ERROR);
        }

        #[test]
        fn merging_and_subtracting_are_inverse(
            first in proptest::collection::vec(nanos(), 0..50),
            second in proptest::collection::vec(nanos(), 0..50),
        ) {
            let (first_only, second_only) = (recorded(&first), recorded(&second));
            let mut both = first_only.clone();
            both.merge(&second_only);
            prop_assert_eq!(both.count(), (first.len() + second.len()) as u64);
            prop_assert_eq!(both.since(&first_only), second_only);
        }
    }

    #[test]
    fn buckets_leave_no_gap_and_do_not_overlap() {
        let all = (GROUPS * CUTS) as u16;
        for bucket in 0..all {
            let (low, high) = bounds(bucket);
            for tick in [low, high - 1] {
                let (group, place) = bucket_of(tick);
                assert_eq!(group * CUTS + place, usize::from(bucket), "tick {tick}");
            }
            if bucket + 1 < all {
                assert_eq!(bounds(bucket + 1).0, high);
            }
        }
        assert_eq!(bounds(all - 1).1, MAX_TICKS + 1);
    }

    #[test]
    fn nothing_and_for_ever_are_recorded_at_the_ends() {
        let snapshot = recorded(&[0]);
        assert_eq!((snapshot.count(), snapshot.sum()), (1, Duration::ZERO));

        let histogram = Histogram::unsharded();
        histogram.record(Duration::MAX);
        let longest = histogram.snapshot().quantile(1.0).unwrap();
        assert!(longest > Duration::from_secs(3_600) && longest < Duration::from_secs(4_500));
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(recorded(&[]).quantile(0.5), None);
        assert_eq!(recorded(&[]).mean(), None);
    }

    #[test]
    fn folding_into_given_bounds_counts_everything_at_or_below_each() {
        let ms = |ms: u64| ms * 1_000_000;
        let snapshot = recorded(&[ms(1), ms(4), ms(6), ms(40), ms(900), ms(20_000)]);
        let bounds = [5, 10, 1_000, 10_000].map(Duration::from_millis);
        assert_eq!(snapshot.cumulative(&bounds), [2, 3, 5, 5]);
        assert_eq!(snapshot.count(), 6);
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn what_is_taken_in_parts_adds_up_to_the_whole() {
        let all = recorded(&[1_000, 1_000, 1_000, 50_000, 50_000, 9_000_000]);
        let mut taken = HistogramSnapshot::default();
        for expected in [2, 4, 6, 6] {
            taken.merge(&all.since(&taken).first(2));
            assert_eq!(taken.count(), expected);
        }
        assert!(taken.buckets().eq(all.buckets()));
    }

    #[test]
    fn records_of_all_threads_are_counted() {
        let histogram = Histogram::new();
        std::thread::scope(|scope| {
            for thread in 1..=4u64 {
                let histogram = &histogram;
                scope.spawn(move || {
                    for _ in 0..1_000 {
                        histogram.record(Duration::from_millis(thread));
                    }
                });
            }
        });
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 4_000);
        let sum = snapshot.sum().as_secs_f64();
        assert!(
            (sum - 10.0).abs() < 0.001,
            "1 + 2 + 3 + 4 ms, a thousand times: {sum}"
        );
    }
}
