//! GCRA, as governor has it, over state and time of our own.
//!
//! GCRA (the generic cell rate algorithm, ITU-T I.371) keeps one number per limit: the *theoretical
//! arrival time* of the next call, which runs ahead of the clock by the calls that were used. What
//! governor lacks is a quota that changes while calls are in flight, tokens that are given back, and keys
//! that are bounded. All are here:
//!
//! - **Time is counted in tokens.** A token is always [`TOKEN`] units long, and the clock that governor
//!   reads runs faster or slower with the rate. So a change of rate changes no state: what was used
//!   stays used. A change of the burst moves the clock by the difference, which leaves each key
//!   `min(new burst, tokens left)`, for all keys at once and without visiting any.
//! - **State is a cell of ours**, one for all calls or one per key in a bounded map, and governor gets
//!   at it through its `StateStore` trait. Giving a token back sets its number back.
//! - **A queue is a longer burst.** A call that is within the burst and the queue has its token, and by
//!   how much it is beyond the burst is how long it waits: tokens are due in the order in which they
//!   were taken. So there is no list of those who wait, and nobody to wake the next.

use std::{
    hash::{Hash, Hasher},
    num::NonZeroU32,
    ops::Add,
    sync::OnceLock,
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

use super::{
    limit::{Algorithm, Refused},
    rate::Rate,
    sync::{AtomicU64, Ordering},
};

/// Units of token time per token. At a million calls per second they last for nine years; at one call
/// per hour a unit is 55 ms, which is how late a call may be admitted.
pub(super) const TOKEN: u64 = 1 << 16;

/// What governor counts in. It says how much of the burst is left in whole numbers; in parts of a token, so
/// that a call waits no longer than it must.
const PARTS: NonZeroU32 = NonZeroU32::new(256).unwrap();

/// Where token time starts: the largest burst above zero, so that the clock can always be moved back.
const ORIGIN: u64 = 1_000_000 * TOKEN;

/// A quota. Its state lives in [`Cell`]s, which outlive it.
#[derive(Debug)]
pub(super) struct Gcra {
    limiter: RateLimiter<Cell, CellStore, TokenClock, StateInformationMiddleware>,
    burst: u32,
    /// So many tokens may be taken before they are there.
    queue: u32,
    /// What a token is counted in.
    parts: NonZeroU32,
}

/// The theoretical arrival time of one limit, in token time; 0 is a full bucket.
#[derive(Debug, Default)]
pub(super) struct Cell(AtomicU64);

/// A token that was taken, perhaps ahead of its time.
#[derive(Debug)]
pub(super) struct Taken(StateSnapshot);

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

// ===== impl Gcra =====

impl Gcra {
    /// A quota of `rate` with `burst` (at least 1) and a `queue`, in the place of `previous`.
    pub(super) fn new(
        rate: Rate,
        burst: u32,
        queue: u32,
        previous: Option<&Self>,
        now: Instant,
    ) -> Self {
        let base = previous.map_or(ORIGIN, |previous| {
            (previous.scale().at(now) + u64::from(previous.burst) * TOKEN)
                .saturating_sub(u64::from(burst) * TOKEN)
        });
        let units_per_nano = rate.as_per_second() * TOKEN as f64 / 1e9;
        // Where nobody waits a token is one part, which is what governor is quickest at.
        let parts = if queue == 0 { NonZeroU32::MIN } else { PARTS };
        let most = NonZeroU32::new(burst + queue).expect("a burst is at least 1");
        let most = most.saturating_mul(parts);
        let quota = Quota::with_period(Duration::from_nanos(TOKEN / u64::from(parts.get())))
            .expect("a part of a token is longer than nothing")
            .allow_burst(most);
        let limiter = RateLimiter::new(quota, CellStore, TokenClock::default());
        let started = limiter.clock().0.set(Scale {
            since: now,
            base,
            units_per_nano,
        });
        debug_assert!(started.is_ok());
        Self {
            limiter,
            burst,
            queue,
            parts,
        }
    }

    /// So many more tokens are there.
    pub(super) fn left(&self, taken: &Taken) -> u32 {
        (taken.0.remaining_burst_capacity() / self.parts).saturating_sub(self.queue)
    }

    /// How long it takes until the tokens that were taken are there.
    pub(super) fn wait(&self, taken: &Taken) -> Duration {
        if self.queue == 0 {
            return Duration::ZERO;
        }
        let parts = self.parts.get();
        let ahead = (self.queue * parts).saturating_sub(taken.0.remaining_burst_capacity());
        self.time_of(u64::from(ahead) * (TOKEN / u64::from(parts)))
    }

    #[cold]
    fn refused(&self, not_until: &NotUntil<TokenTime>) -> Refused {
        let units = not_until.wait_time_from(self.limiter.clock().now());
        Refused {
            wait: self.time_of(units.as_nanos() as u64),
        }
    }

    pub(super) fn time_of(&self, units: u64) -> Duration {
        let nanos = (units as f64 / self.scale().units_per_nano).ceil();
        Duration::from_nanos(nanos as u64)
    }

    fn scale(&self) -> &Scale {
        self.limiter
            .clock()
            .0
            .get()
            .expect("the clock was started when the limiter was made")
    }
}

impl Algorithm for Gcra {
    type Cell = Cell;
    type Taken = Taken;

    #[inline]
    fn take(&self, cell: &Cell, tokens: NonZeroU32) -> Result<Taken, Refused> {
        let parts = tokens.saturating_mul(self.parts);
        if parts == NonZeroU32::MIN {
            let taken = self.limiter.check_key(cell);
            return taken
                .map(Taken)
                .map_err(|not_until| self.refused(&not_until));
        }
        match self.limiter.check_key_n(cell, parts) {
            Ok(Ok(state)) => Ok(Taken(state)),
            Ok(Err(not_until)) => Err(self.refused(&not_until)),
            // No configuration has a call cost more than the burst.
            Err(_) => Err(Refused::FOR_GOOD),
        }
    }

    fn give_back(&self, cell: &Cell, tokens: NonZeroU32) {
        let units = u64::from(tokens.get()) * TOKEN;
        let back = |seen: u64| Some(seen.saturating_sub(units));
        let updated = cell
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, back);
        debug_assert!(updated.is_ok());
    }

    /// The bucket is full.
    fn is_idle(&self, cell: &Cell) -> bool {
        cell.0.load(Ordering::Relaxed) <= self.limiter.clock().now().0
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
