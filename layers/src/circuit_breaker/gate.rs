//! Whom to let through: the states, the probes, and who may change them.
//!
//! ```text
//!              one failure too many                  open time over, next call
//!   ┌────────┐ ───────────────────► ┌────────┐ ──────────────────────────────► ┌───────────┐
//!   │ closed │                      │  open  │                                 │ half-open │
//!   └────────┘ ◄─────────┐          └────────┘ ◄───────────────────────────────┴───────────┘
//!        ▲               │               ▲       a probe failed, or was silent       │
//!        │               │               └─ for twice as long as the last time      │
//!        └───────────────┴──────────────────────────────────────────────────────────┘
//!                              enough probes passed
//! ```
//!
//! "A probe failed" is one more than can fail if as many as must are to succeed: by default, the first.
//!
//! Every transition starts a new *generation*. A call carries the generation that admitted it, and a
//! result of an earlier one changes nothing: a slow success from before the breaker opened must not
//! close it. A closed gate is one load; everything else is behind a lock that only refused calls,
//! probes and transitions take.
//!
//! A probe's slot comes back when the probe is cancelled or refused elsewhere, so a lost probe cannot
//! leave the gate half-open for ever; and when not all probes have an answer after the *probation* time,
//! the gate decides by itself: a stream whose head was good has passed, silence has failed.
//!
//! No clock in here, and the atomics and the lock come from [`super::sync`], which loom's take the place
//! of in the tests.

use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;

use super::{
    config::BreakerConfig,
    state::BreakerState,
    sync::{AtomicU64, Mutex, Ordering::SeqCst},
};

/// Admission to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Permit {
    /// Its lower half, so that a permit is one word.
    generation: u32,
    pub(super) probe: bool,
    /// Set once the gate was told [`Probe::Streaming`].
    pub(super) streaming: bool,
    /// A probe that has been decided at its head.
    pub(super) decided: bool,
}

/// The gate is shut; it may open after this many microseconds, if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused(pub(super) Option<u64>);

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Passed,
    /// With the open time that a policy with its own backoff wishes.
    Failed(Option<Duration>),
    /// It said nothing about the peer: its slot is free again.
    Returned,
    /// Its head was good and its stream goes on.
    Streaming,
}

#[derive(Debug)]
pub(super) struct Gate {
    /// `generation << 3 | state`.
    word: AtomicU64,
    /// When the open time is over, in microseconds since the breaker was made.
    open_until: AtomicU64,
    cold: Mutex<Cold>,
    state: watch::Sender<BreakerState>,
}

#[derive(Debug)]
struct Cold {
    rng: Rng,
    /// How often in a row the gate opened without having been closed for the stable time.
    opened: u32,
    closed_since: u64,
    /// The last wish of a policy that has its own backoff.
    wish: Option<Duration>,
    half_open_since: u64,
    /// How many probes this half-open time takes, whatever the configuration says by now.
    probes: u32,
    /// How many of them must pass.
    needed: u32,
    free: u32,
    passed: u32,
    failed: u32,
    streaming: u32,
}

// ===== impl Permit =====

impl Permit {
    /// For a call that passes whatever the gate says: it counts nowhere, as no gate has come so far.
    pub(super) fn outside() -> Self {
        Self::new(u64::MAX, false)
    }

    /// For a call that arrived under this word.
    #[inline]
    fn new(word: u64, probe: bool) -> Self {
        Self {
            generation: generation(word),
            probe,
            streaming: false,
            decided: false,
        }
    }
}

// ===== impl Gate =====

impl Gate {
    pub(super) fn new(rng: Rng) -> Self {
        let cold = Cold {
            rng,
            opened: 0,
            closed_since: 0,
            wish: None,
            half_open_since: 0,
            probes: 0,
            needed: 0,
            free: 0,
            passed: 0,
            failed: 0,
            streaming: 0,
        };
        Self {
            word: AtomicU64::new(0),
            open_until: AtomicU64::new(0),
            cold: Mutex::new(cold),
            state: watch::Sender::new(BreakerState::Closed),
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        BreakerState::of(self.word.load(SeqCst))
    }

    /// Whether an operator has forced it by hand.
    pub(super) fn is_forced(&self) -> bool {
        matches!(
            self.state(),
            BreakerState::ForcedOpen | BreakerState::ForcedClosed
        )
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<BreakerState> {
        self.state.subscribe()
    }

    /// Admits a call to a closed gate, which takes one load.
    #[inline]
    pub(super) fn admit_closed(&self) -> Option<Permit> {
        let word = self.word.load(SeqCst);
        let passes = matches!(
            BreakerState::of(word),
            BreakerState::Closed | BreakerState::ForcedClosed
        );
        passes.then(|| Permit::new(word, false))
    }

    /// Admits a call, or refuses it; and the state that the gate entered thereby, if any. The clock is
    /// read only where the gate is not closed.
    pub(super) fn admit(
        &self,
        config: &BreakerConfig,
        now_us: impl FnOnce() -> u64,
    ) -> (Result<Permit, Refused>, Option<BreakerState>) {
        let word = self.word.load(SeqCst);
        match BreakerState::of(word) {
            BreakerState::Closed | BreakerState::ForcedClosed => {
                (Ok(Permit::new(word, false)), None)
            }
            BreakerState::ForcedOpen => (Err(Refused(None)), None),
            BreakerState::Open => {
                let (now, until) = (now_us(), self.open_until.load(SeqCst));
                if now < until {
                    return (Err(Refused(Some(until - now))), None);
                }
                self.admit_probe(config, now)
            }
            BreakerState::HalfOpen => self.admit_probe(config, now_us()),
        }
    }

    #[cold]
    fn admit_probe(
        &self,
        config: &BreakerConfig,
        now: u64,
    ) -> (Result<Permit, Refused>, Option<BreakerState>) {
        let cold = &mut *self.cold.lock();
        let entered = self.move_on(cold, config, now);
        // Another thread, or the line above, may have moved the gate anywhere.
        let word = self.word.load(SeqCst);
        let admitted = match BreakerState::of(word) {
            BreakerState::Closed | BreakerState::ForcedClosed => Ok(Permit::new(word, false)),
            BreakerState::HalfOpen if cold.free > 0 => {
                cold.free -= 1;
                Ok(Permit::new(word, true))
            }
            BreakerState::Open => {
                let until = self.open_until.load(SeqCst);
                Err(Refused(Some(until.saturating_sub(now))))
            }
            BreakerState::HalfOpen | BreakerState::ForcedOpen => Err(Refused(None)),
        };
        (admitted, entered)
    }

    /// Does what is due: starts to probe, or decides without the probes.
    fn move_on(&self, cold: &mut Cold, config: &BreakerConfig, now: u64) -> Option<BreakerState> {
        match self.state() {
            BreakerState::Open if now >= self.open_until.load(SeqCst) => {
                cold.half_open_since = now;
                (cold.probes, cold.needed) = (config.probes, config.successes());
                (cold.free, cold.passed, cold.failed, cold.streaming) = (config.probes, 0, 0, 0);
                Some(self.enter(BreakerState::HalfOpen))
            }
            BreakerState::HalfOpen => {
                let over = now
                    >= cold
                        .half_open_since
                        .saturating_add(micros(config.probation));
                if cold.free > 0 || !over {
                    None
                } else if cold.passed + cold.streaming >= cold.needed {
                    Some(self.close(cold, now))
                } else {
                    Some(self.open(cold, config, now, None))
                }
            }
            _ => None,
        }
    }

    /// Whether a result of this call still counts.
    #[inline]
    pub(super) fn is_current(&self, permit: Permit) -> bool {
        generation(self.word.load(SeqCst)) == permit.generation
    }

    /// Whether a new gate would behave the same: closed, and for so long that the next open time is
    /// the first again.
    pub(super) fn is_settled(&self, config: &BreakerConfig, now: u64) -> bool {
        let cold = self.cold.lock();
        self.state() == BreakerState::Closed && (cold.opened == 0 || cold.is_stable(config, now))
    }

    /// Opens the closed gate. `open_for` is the wish of a policy that has its own backoff.
    pub(super) fn trip(
        &self,
        permit: Permit,
        config: &BreakerConfig,
        now: u64,
        open_for: Option<Duration>,
    ) -> bool {
        let cold = &mut *self.cold.lock();
        let current = self.is_current(permit) && self.state() == BreakerState::Closed;
        if current {
            self.open(cold, config, now, open_for);
        }
        current
    }

    /// Tells what became of a probe; gives the state that the gate entered thereby, if any.
    pub(super) fn probe(
        &self,
        permit: Permit,
        probe: Probe,
        config: &BreakerConfig,
        now: u64,
    ) -> Option<BreakerState> {
        let cold = &mut *self.cold.lock();
        if !self.is_current(permit) {
            return None;
        }
        cold.streaming -= u32::from(permit.streaming);
        match probe {
            Probe::Failed(open_for) => {
                cold.failed += 1;
                if cold.failed > cold.probes - cold.needed {
                    return Some(self.open(cold, config, now, open_for));
                }
            }
            Probe::Returned => cold.free += 1,
            Probe::Streaming => cold.streaming += 1,
            Probe::Passed => {
                cold.passed += 1;
                if cold.passed >= cold.needed {
                    return Some(self.close(cold, now));
                }
            }
        }
        None
    }

    /// Takes the gate into a state by hand; `Closed` starts afresh.
    pub(super) fn force(&self, state: BreakerState, now: u64) {
        let cold = &mut *self.cold.lock();
        (cold.opened, cold.closed_since) = (0, now);
        self.enter(state);
    }

    /// Shows watchers a state that the gate itself is not in: it stays closed under a throttle.
    pub(super) fn show(&self, state: BreakerState) {
        let _in_order = self.cold.lock();
        self.state.send_replace(state);
    }

    fn open(
        &self,
        cold: &mut Cold,
        config: &BreakerConfig,
        now: u64,
        open_for: Option<Duration>,
    ) -> BreakerState {
        if self.state() == BreakerState::Closed && cold.is_stable(config, now) {
            cold.opened = 0;
        }
        // A policy is asked about failures only: where there was none, its last wish holds.
        cold.wish = open_for.or(cold.wish);
        let open_for = cold
            .wish
            .unwrap_or_else(|| open_time(config, cold.opened, &mut cold.rng));
        cold.opened = cold.opened.saturating_add(1);
        self.open_until
            .store(now.saturating_add(micros(open_for)), SeqCst);
        self.enter(BreakerState::Open)
    }

    fn close(&self, cold: &mut Cold, now: u64) -> BreakerState {
        cold.closed_since = now;
        self.enter(BreakerState::Closed)
    }

    /// NOTE: under the lock, so that watchers see the states in order.
    fn enter(&self, state: BreakerState) -> BreakerState {
        let generation = (self.word.load(SeqCst) >> 3) + 1;
        self.word.store(generation << 3 | state as u64, SeqCst);
        self.state.send_replace(state);
        state
    }
}

// ===== impl Cold =====

impl Cold {
    /// Whether the gate, which is closed, has been so for the stable time.
    fn is_stable(&self, config: &BreakerConfig, now: u64) -> bool {
        now.saturating_sub(self.closed_since) >= micros(config.stable_time)
    }
}

/// The generation that a word is of.
#[inline]
fn generation(word: u64) -> u32 {
    (word >> 3) as u32
}

/// The open time: doubled for each time in a row, with jitter on top, so that clients which opened
/// together do not probe together.
pub(super) fn open_time(config: &BreakerConfig, opened: u32, rng: &mut Rng) -> Duration {
    let doubled = config
        .open_time
        .saturating_mul(1_u32.checked_shl(opened).unwrap_or(u32::MAX));
    doubled
        .min(config.max_open_time)
        .mul_f64(1.0 + rng.f64() * config.jitter.as_f64())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
