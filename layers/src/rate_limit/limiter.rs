//! The algorithm: GCRA, as governor has it, over state and time of our own.
//!
//! GCRA (the generic cell rate algorithm, ITU-T I.371) keeps one number per limit: the *theoretical
//! arrival time* of the next call, which runs ahead of the clock by the calls that were used. What
//! governor lacks is a quota that changes while calls are in flight, and keys that are bounded. Both
//! are here:
//!
//! - **Time is counted in tokens.** A token is always [`TOKEN`] units long, and the clock that governor
//!   reads runs faster or slower with the rate. So a change of rate changes no state: what was used
//!   stays used. A change of the burst moves the clock by the difference, which leaves each key
//!   `min(new burst, tokens left)`, for all keys at once and without visiting any.
//! - **State is a cell of ours**, one for all calls or one per key in a bounded map, and governor gets
//!   at it through its `StateStore` trait.

use std::{
    hash::{Hash, Hasher},
    num::NonZeroU32,
    ops::Add,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, Reference},
    middleware::{StateInformationMiddleware, StateSnapshot},
    nanos::Nanos,
    state::StateStore,
};
use tokio::time::Instant;

use super::config::Rate;

/// Units of token time per token. At a million calls per second they last for nine years; at one call
/// per hour a unit is 55 ms, which is how late a call may be admitted.
const TOKEN: u64 = 1 << 16;

/// Where token time starts: the largest burst above zero, so that the clock can always be moved back.
const ORIGIN: u64 = 1_000_000 * TOKEN;

/// A limit under one quota. Its state lives in [`Cell`]s, which outlive it.
#[derive(Debug)]
pub(super) struct Limiter {
    limiter: RateLimiter<Cell, CellStore, TokenClock, StateInformationMiddleware>,
    burst: u32,
}

/// The theoretical arrival time of one limit, in token time; 0 is a full bucket.
#[derive(Debug, Default)]
pub(super) struct Cell(AtomicU64);

/// Admitted.
#[derive(Debug)]
pub(super) struct Admitted(StateSnapshot);

/// Refused: a call will pass after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) wait: Duration,
}

/// Maps tokio's time, the paused one of tests too, to token time.
#[derive(Debug, Clone, Copy)]
struct Scale {
    since: Instant,
    base: u64,
    units_per_nano: f64,
}

/// The clock that governor reads. It stands at zero until it is started, so that governor, which
/// counts from the first reading, counts from zero under every quota.
#[derive(Debug, Default)]
struct TokenClock(OnceLock<Scale>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TokenTime(u64);

/// A cell is its own key: the look-up has been done by then.
#[derive(Debug)]
struct CellStore;

// ===== impl Limiter =====

impl Limiter {
    /// A limit of `rate` with `burst` (at least 1), in the place of `previous`.
    pub(super) fn new(rate: Rate, burst: u32, previous: Option<&Self>, now: Instant) -> Self {
        let base = previous.map_or(ORIGIN, |previous| {
            (previous.scale().at(now) + u64::from(previous.burst) * TOKEN)
                .saturating_sub(u64::from(burst) * TOKEN)
        });
        let units_per_nano = rate.as_per_second() * TOKEN as f64 / 1e9;
        let quota = Quota::with_period(Duration::from_nanos(TOKEN))
            .expect("a token is longer than nothing")
            .allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN));
        let limiter = RateLimiter::new(quota, CellStore, TokenClock::default());
        let started = limiter.clock().0.set(Scale {
            since: now,
            base,
            units_per_nano,
        });
        debug_assert!(started.is_ok());
        Self { limiter, burst }
    }

    /// Takes one token out of `cell`, or says when there will be one.
    pub(super) fn check(&self, cell: &Cell) -> Result<Admitted, Refused> {
        match self.limiter.check_key(cell) {
            Ok(state) => Ok(Admitted(state)),
            Err(not_until) => Err(self.refused(&not_until)),
        }
    }

    #[cold]
    fn refused(&self, not_until: &NotUntil<TokenTime>) -> Refused {
        let units = not_until
            .wait_time_from(self.limiter.clock().now())
            .as_nanos();
        let nanos = (units as f64 / self.scale().units_per_nano).ceil();
        Refused {
            wait: Duration::from_nanos(nanos as u64),
        }
    }

    /// Whether a new cell would behave the same: the bucket is full.
    pub(super) fn is_full(&self, cell: &Cell) -> bool {
        cell.0.load(Ordering::Relaxed) <= self.limiter.clock().now().0
    }

    fn scale(&self) -> &Scale {
        self.limiter
            .clock()
            .0
            .get()
            .expect("the clock was started when the limiter was made")
    }
}

// ===== impl Admitted =====

impl Admitted {
    /// So many more calls may come at once.
    pub(super) fn left(&self) -> u32 {
        self.0.remaining_burst_capacity()
    }
}

// ===== impl Scale =====

impl Scale {
    fn at(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.since);
        let nanos = elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos());
        self.base + (nanos as f64 * self.units_per_nano) as u64
    }
}

// ===== impl TokenClock =====

impl Clock for TokenClock {
    type Instant = TokenTime;

    fn now(&self) -> TokenTime {
        TokenTime(self.0.get().map_or(0, |scale| scale.at(Instant::now())))
    }
}

impl Add<Nanos> for TokenTime {
    type Output = Self;

    fn add(self, units: Nanos) -> Self {
        Self(self.0 + units.as_u64())
    }
}

impl Reference for TokenTime {
    fn duration_since(&self, earlier: Self) -> Nanos {
        Nanos::new(self.0.saturating_sub(earlier.0))
    }

    fn saturating_sub(&self, units: Nanos) -> Self {
        Self(self.0.saturating_sub(units.as_u64()))
    }
}

// ===== impl Cell =====

/// NOTE: governor asks for a key that can be hashed, compared and cloned, and does none of it with a
/// store that needs no look-up.
impl Hash for Cell {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self, state);
    }
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Cell {}

impl Clone for Cell {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

impl StateStore for CellStore {
    type Key = Cell;

    fn measure_and_replace<T, F, E>(&self, cell: &Cell, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut seen = cell.0.load(Ordering::Acquire);
        loop {
            let (outcome, next) = decide((seen != 0).then(|| Nanos::new(seen)))?;
            match cell.0.compare_exchange_weak(
                seen,
                next.as_u64(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Ok(outcome),
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    fn limiter(rate: &str, burst: u32) -> Limiter {
        Limiter::new(rate.parse().unwrap(), burst, None, Instant::now())
    }

    fn admitted(limiter: &Limiter, cell: &Cell, calls: u32) -> u32 {
        (0..calls).filter(|_| limiter.check(cell).is_ok()).count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn the_burst_passes_at_once_and_then_the_rate() {
        let (limiter, cell) = (limiter("100/s", 20), Cell::default());
        assert_eq!(admitted(&limiter, &cell, 1_000), 20);
        let mut total = 0;
        for _ in 0..1_000 {
            advance(Duration::from_millis(1)).await;
            total += admitted(&limiter, &cell, 10);
        }
        assert!((99..=100).contains(&total), "{total} in a second");
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_is_exact_enough_to_come_back_after() {
        for rate in ["1/h", "1/s", "50/s", "333/s", "1000000/s"] {
            let (limiter, cell) = (limiter(rate, 1), Cell::default());
            assert_eq!(limiter.check(&cell).map(|admitted| admitted.left()), Ok(0));
            let Refused { wait } = limiter.check(&cell).unwrap_err();
            let period = 1.0 / limiter.scale().units_per_nano * TOKEN as f64 / 1e9;
            assert!(
                (wait.as_secs_f64() / period - 1.0).abs() < 0.001,
                "{rate}: {wait:?}"
            );
            // Tokio's paused clock rounds up to whole milliseconds, so go just over.
            advance(wait).await;
            assert!(
                limiter.check(&cell).is_ok(),
                "{rate}: too early after {wait:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_quota_keeps_the_tokens_left_up_to_the_new_burst() {
        for (used, new_burst, left) in [(15, 100, 5), (15, 3, 3), (20, 100, 0), (18, 20, 2)] {
            let (old, cell) = (limiter("100/s", 20), Cell::default());
            assert_eq!(admitted(&old, &cell, used), used);
            let rate = "7/s".parse().unwrap();
            let new = Limiter::new(rate, new_burst, Some(&old), Instant::now());
            assert_eq!(
                admitted(&new, &cell, 1_000),
                left,
                "{used} used, then burst {new_burst}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_new_quotas_in_a_row_give_nothing_away() {
        let (mut limiter, cell) = (limiter("10/s", 10), Cell::default());
        assert_eq!(admitted(&limiter, &cell, 100), 10);
        let mut total = 0;
        for round in 0..100_u32 {
            let burst = 1 + round * 37 % 50;
            limiter = Limiter::new(Rate::per_second(10), burst, Some(&limiter), Instant::now());
            advance(Duration::from_millis(10)).await;
            total += admitted(&limiter, &cell, 100);
        }
        assert!(total <= 10, "{total} in a second at 10/s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_bucket_is_told_from_a_used_one() {
        let (limiter, cell) = (limiter("10/s", 2), Cell::default());
        assert!(limiter.is_full(&cell));
        limiter.check(&cell).unwrap();
        assert!(!limiter.is_full(&cell));
        advance(Duration::from_millis(101)).await;
        assert!(limiter.is_full(&cell));
    }

    /// Failure class R19: many threads, no more than the quota.
    #[test]
    fn threads_together_get_no_more_than_the_burst() {
        let (limiter, cell) = (limiter("1/h", 1_000), Cell::default());
        let total: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| admitted(&limiter, &cell, 1_000)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(total, 1_000);
    }

    proptest! {
        /// Against the textbook: a token bucket in floating point, asked at random times.
        #[test]
        fn gcra_is_a_token_bucket(
            per_second in 1_u32..1_000,
            burst in 1_u32..50,
            gaps in proptest::collection::vec(0_u64..50_000, 1..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let limiter = Limiter::new(Rate::per_second(per_second), burst, None, Instant::now());
                let (cell, mut tokens, mut last) = (Cell::default(), f64::from(burst), Instant::now());
                for gap in gaps {
                    advance(Duration::from_micros(gap)).await;
                    let elapsed = last.elapsed().as_secs_f64();
                    last = Instant::now();
                    tokens = (tokens + elapsed * f64::from(per_second)).min(f64::from(burst));
                    let passed = limiter.check(&cell).is_ok();
                    // Within a unit of token time either answer is right.
                    if (tokens - 1.0).abs() > 0.001 {
                        assert_eq!(passed, tokens > 1.0, "{tokens} tokens");
                    }
                    if passed {
                        tokens -= 1.0;
                    }
                }
            });
        }
    }
}
