//! Whom to let through: the states, the probes, and who may change them.
//!
//! ```text
//!              one failure too many                  open time over, next call
//!   ┌────────┐ ───────────────────► ┌────────┐ ──────────────────────────────► ┌───────────┐
//!   │ closed │                      │  open  │                                 │ half-open │
//!   └────────┘ ◄─────────┐          └────────┘ ◄───────────────────────────────┴───────────┘
//!        ▲               │               ▲       a probe failed, or none answered   │
//!        │               │               └─ for twice as long as the last time      │
//!        └───────────────┴──────────────────────────────────────────────────────────┘
//!                              enough probes passed
//! ```
//!
//! Every transition starts a new *generation*. A call carries the generation that admitted it, and a
//! result of an earlier one changes nothing: a slow success from before the breaker opened must not
//! close it. A closed gate is one load; everything else is behind a lock that only refused calls,
//! probes and transitions take.
//!
//! A probe's slot comes back when the probe is cancelled or refused elsewhere, so a lost probe cannot
//! leave the gate half-open for ever; and when no probe has an answer after the *probation* time, the
//! gate decides by itself: a stream whose head was good has passed, silence has failed.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::config::BreakerConfig;

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BreakerState {
    /// Calls pass.
    Closed = 0,
    /// Calls are refused until the open time is over.
    Open = 1,
    /// A few calls pass, as probes.
    HalfOpen = 2,
    /// Calls are refused until an operator says otherwise.
    ForcedOpen = 3,
    /// Calls pass until an operator says otherwise.
    ForcedClosed = 4,
}

/// Admission to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Permit {
    generation: u64,
    pub(super) probe: bool,
}

/// The gate is shut; it may open after this many microseconds, if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused(pub(super) Option<u64>);

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Passed,
    Failed,
    /// It said nothing about the peer: its slot is free again.
    Returned {
        /// Whether it was [`Streaming`](Self::Streaming) before.
        streaming: bool,
    },
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
    half_open_since: u64,
    free: u32,
    passed: u32,
    streaming: u32,
}

// ===== impl BreakerState =====

impl BreakerState {
    /// All states, each at the place of its number.
    pub const ALL: [Self; 5] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::ForcedClosed,
    ];

    fn of(word: u64) -> Self {
        match word & 7 {
            0 => Self::Closed,
            1 => Self::Open,
            2 => Self::HalfOpen,
            3 => Self::ForcedOpen,
            _ => Self::ForcedClosed,
        }
    }

    /// A short, fixed label for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
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
            half_open_since: 0,
            free: 0,
            passed: 0,
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

    pub(super) fn subscribe(&self) -> watch::Receiver<BreakerState> {
        self.state.subscribe()
    }

    /// Admits a call, or refuses it. The clock is read only where the gate is not closed.
    pub(super) fn admit<C: Deref<Target = BreakerConfig>>(
        &self,
        config: impl FnOnce() -> C,
        now_us: impl FnOnce() -> u64,
    ) -> Result<Permit, Refused> {
        let word = self.word.load(SeqCst);
        match BreakerState::of(word) {
            BreakerState::Closed | BreakerState::ForcedClosed => Ok(Permit {
                generation: word >> 3,
                probe: false,
            }),
            BreakerState::ForcedOpen => Err(Refused(None)),
            BreakerState::Open => {
                let (now, until) = (now_us(), self.open_until.load(SeqCst));
                if now < until {
                    return Err(Refused(Some(until - now)));
                }
                self.admit_probe(&config(), now)
            }
            BreakerState::HalfOpen => self.admit_probe(&config(), now_us()),
        }
    }

    fn admit_probe(&self, config: &BreakerConfig, now: u64) -> Result<Permit, Refused> {
        let cold = &mut *self.cold.lock();
        match self.state() {
            BreakerState::Open if now >= self.open_until.load(SeqCst) => {
                cold.half_open_since = now;
                (cold.free, cold.passed, cold.streaming) = (config.probes, 0, 0);
                self.enter(BreakerState::HalfOpen);
            }
            BreakerState::HalfOpen => {
                let over = now >= cold.half_open_since + micros(config.probation);
                if cold.free == 0 && over {
                    if cold.streaming == 0 {
                        self.open(cold, config, now, None);
                    } else {
                        self.close(cold, now);
                    }
                }
            }
            _ => {}
        }
        // Another thread, or the lines above, may have moved the gate anywhere.
        let word = self.word.load(SeqCst);
        match BreakerState::of(word) {
            BreakerState::Closed | BreakerState::ForcedClosed => Ok(Permit {
                generation: word >> 3,
                probe: false,
            }),
            BreakerState::HalfOpen if cold.free > 0 => {
                cold.free -= 1;
                Ok(Permit {
                    generation: word >> 3,
                    probe: true,
                })
            }
            BreakerState::Open => Err(Refused(Some(
                self.open_until.load(SeqCst).saturating_sub(now),
            ))),
            BreakerState::HalfOpen | BreakerState::ForcedOpen => Err(Refused(None)),
        }
    }

    /// Whether a result of this call still counts.
    pub(super) fn is_current(&self, permit: Permit) -> bool {
        self.word.load(SeqCst) >> 3 == permit.generation
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

    /// Tells what became of a probe. Says whether the gate closed.
    pub(super) fn probe(
        &self,
        permit: Permit,
        probe: Probe,
        config: &BreakerConfig,
        now: u64,
    ) -> bool {
        let cold = &mut *self.cold.lock();
        if !self.is_current(permit) {
            return false;
        }
        match probe {
            Probe::Failed => self.open(cold, config, now, None),
            Probe::Returned { streaming } => {
                cold.free += 1;
                cold.streaming -= u32::from(streaming);
            }
            Probe::Streaming => cold.streaming += 1,
            Probe::Passed => {
                cold.passed += 1;
                if cold.passed >= config.probes {
                    self.close(cold, now);
                    return true;
                }
            }
        }
        false
    }

    /// Takes the gate into a state by hand; `Closed` starts afresh.
    pub(super) fn force(&self, state: BreakerState, now: u64) {
        let cold = &mut *self.cold.lock();
        (cold.opened, cold.closed_since) = (0, now);
        self.enter(state);
    }

    fn open(&self, cold: &mut Cold, config: &BreakerConfig, now: u64, open_for: Option<Duration>) {
        if now.saturating_sub(cold.closed_since) >= micros(config.stable_time)
            && self.state() == BreakerState::Closed
        {
            cold.opened = 0;
        }
        let open_for = open_for.unwrap_or_else(|| open_time(config, cold.opened, &mut cold.rng));
        cold.opened = cold.opened.saturating_add(1);
        self.open_until.store(now + micros(open_for), SeqCst);
        self.enter(BreakerState::Open);
    }

    fn close(&self, cold: &mut Cold, now: u64) {
        cold.closed_since = now;
        self.enter(BreakerState::Closed);
    }

    /// NOTE: under the lock, so that watchers see the states in order.
    fn enter(&self, state: BreakerState) {
        let generation = (self.word.load(SeqCst) >> 3) + 1;
        self.word.store(generation << 3 | state as u64, SeqCst);
        self.state.send_replace(state);
    }
}

/// The open time: doubled for each time in a row, with up to half as much again on top, so that
/// clients which opened together do not probe together.
fn open_time(config: &BreakerConfig, opened: u32, rng: &mut Rng) -> Duration {
    let doubled = config
        .open_time
        .saturating_mul(1_u32.checked_shl(opened).unwrap_or(u32::MAX));
    doubled
        .min(config.max_open_time)
        .mul_f64(1.0 + rng.f64() / 2.0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    const SECOND: u64 = 1_000_000;
    const RETURNED: Probe = Probe::Returned { streaming: false };

    fn config(probes: u32) -> BreakerConfig {
        BreakerConfig {
            probes,
            open_time: Duration::from_secs(1),
            max_open_time: Duration::from_secs(30),
            stable_time: Duration::from_secs(10),
            probation: Duration::from_secs(2),
            ..BreakerConfig::default()
        }
    }

    fn admit(gate: &Gate, config: &BreakerConfig, now: u64) -> Result<Permit, Refused> {
        gate.admit(|| config, || now)
    }

    /// A gate that is open, and when its open time is over.
    fn open(config: &BreakerConfig) -> (Gate, u64) {
        let gate = Gate::new(Rng::with_seed(7));
        let permit = admit(&gate, config, 0).unwrap();
        assert!(gate.trip(permit, config, 0, None));
        let Err(Refused(Some(wait))) = admit(&gate, config, 0) else {
            panic!("not open")
        };
        (gate, wait)
    }

    #[test]
    fn the_open_time_doubles_up_to_its_cap_and_is_jittered_upwards() {
        let (config, mut rng) = (config(1), Rng::with_seed(1));
        for (opened, least) in [(0, 1), (1, 2), (4, 16), (5, 30), (31, 30), (40, 30)] {
            for _ in 0..100 {
                let open = open_time(&config, opened, &mut rng).as_secs_f64();
                assert!(
                    (f64::from(least)..f64::from(least) * 1.5).contains(&open),
                    "{opened}: {open}"
                );
            }
        }
    }

    #[test]
    fn exactly_the_permitted_probes_pass_and_all_must_succeed() {
        let config = config(3);
        let (gate, later) = open(&config);
        let probes: Vec<_> = (0..100)
            .filter_map(|_| admit(&gate, &config, later).ok())
            .collect();
        assert_eq!(probes.len(), 3);
        assert!(!gate.probe(probes[0], Probe::Passed, &config, later));
        assert!(!gate.probe(probes[1], Probe::Passed, &config, later));
        assert!(
            admit(&gate, &config, later).is_err(),
            "a passed probe must not free a slot"
        );
        assert!(gate.probe(probes[2], Probe::Passed, &config, later));
        assert_eq!(gate.state(), BreakerState::Closed);
    }

    #[test]
    fn a_result_of_an_earlier_generation_changes_nothing() {
        let config = config(1);
        let (gate, later) = open(&config);
        let stale = admit(&gate, &config, later).unwrap();
        gate.probe(stale, Probe::Failed, &config, later);
        for probe in [Probe::Passed, Probe::Failed, RETURNED, Probe::Streaming] {
            assert!(!gate.probe(stale, probe, &config, later));
            assert_eq!(gate.state(), BreakerState::Open);
        }
        assert!(!gate.trip(stale, &config, later, None));
    }

    #[test]
    fn silence_fails_a_probe_and_a_living_stream_passes_it() {
        let config = config(1);
        for (heads, state) in [(0, BreakerState::Open), (1, BreakerState::Closed)] {
            let (gate, later) = open(&config);
            let probe = admit(&gate, &config, later).unwrap();
            for _ in 0..heads {
                gate.probe(probe, Probe::Streaming, &config, later);
            }
            assert_eq!(
                admit(&gate, &config, later + 2 * SECOND - 1),
                Err(Refused(None))
            );
            let _ = admit(&gate, &config, later + 2 * SECOND);
            assert_eq!(gate.state(), state);
        }
    }

    #[test]
    fn a_flapping_peer_is_probed_less_and_less_until_it_is_stable() {
        // One second up, one second down, for a minute (failure class R6).
        let config = config(1);
        let gate = Gate::new(Rng::with_seed(3));
        let (mut opens, mut last) = (0, BreakerState::Closed);
        for now in (0..60 * SECOND).step_by(10_000) {
            let up = (now / SECOND).is_multiple_of(2);
            if let Ok(permit) = admit(&gate, &config, now) {
                match (permit.probe, up) {
                    (true, true) => _ = gate.probe(permit, Probe::Passed, &config, now),
                    (true, false) => _ = gate.probe(permit, Probe::Failed, &config, now),
                    (false, true) => {}
                    (false, false) => _ = gate.trip(permit, &config, now, None),
                }
            }
            opens += u32::from(gate.state() == BreakerState::Open && last != BreakerState::Open);
            last = gate.state();
        }
        assert!(opens <= 7, "opened {opens} times");
    }

    #[test]
    fn force_holds_until_reset() {
        let config = config(1);
        let gate = Gate::new(Rng::with_seed(1));
        let before = admit(&gate, &config, 0).unwrap();
        gate.force(BreakerState::ForcedOpen, 0);
        assert_eq!(admit(&gate, &config, u64::MAX / 4), Err(Refused(None)));
        gate.force(BreakerState::ForcedClosed, 0);
        let permit = admit(&gate, &config, 0).unwrap();
        assert!(
            !gate.trip(permit, &config, 0, None),
            "a forced gate must not trip"
        );
        gate.force(BreakerState::Closed, 0);
        assert!(
            !gate.trip(before, &config, 0, None),
            "a call from before the reset must not trip it"
        );
        assert_eq!(gate.state(), BreakerState::Closed);
    }

    proptest! {
        /// Failure class R5: whatever becomes of the probes, the slots add up.
        #[test]
        fn no_slot_is_lost(probes in 1_u32..6, fates in proptest::collection::vec(0_u8..3, 1..200)) {
            let config = config(probes);
            let (gate, later) = open(&config);
            let mut held = Vec::new();
            for fate in fates {
                match fate {
                    0 => held.extend(admit(&gate, &config, later).ok()),
                    1 => if let Some(permit) = held.pop() {
                        gate.probe(permit, RETURNED, &config, later);
                    },
                    _ => prop_assert!(held.len() <= probes as usize),
                }
            }
            for permit in held.drain(..) {
                gate.probe(permit, RETURNED, &config, later);
            }
            let free = (0..100).filter(|_| admit(&gate, &config, later).is_ok()).count();
            prop_assert_eq!(free, probes as usize);
        }
    }
}
