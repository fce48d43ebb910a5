//! One breaker: what opens it, whom it lets through, and the report of each call.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use failsafe::FailurePolicy;
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    adaptive::Throttle,
    config::{BreakerConfig, Force},
    gate::{Gate, Permit, Probe, Refused},
    layer::Compiled,
    signals::Signals,
    state::BreakerState,
    stats::Stats,
};
use crate::vocab::{live::Live, outcome::Outcome, tracked::CallGuard};

/// Makes one failsafe policy for each breaker.
pub(super) type MakePolicy = Arc<dyn Fn() -> Box<dyn FailurePolicy + Send> + Send + Sync>;

/// One breaker.
pub(super) struct Breaker {
    pub(super) key: Box<str>,
    born: Instant,
    pub(super) gate: Gate,
    judge: Judge,
    config: Live<Compiled>,
    stats: Arc<Stats>,
}

/// What decides when to open.
enum Judge {
    /// Our own signals.
    Signals(Signals),
    /// Any policy of failsafe. Its trait wants `&mut self`, so it costs a lock per finished call.
    Policy(Mutex<Box<dyn FailurePolicy + Send>>),
    /// Adaptive throttling. The gate stays closed.
    Throttle(Shedding),
}

/// A throttle, and what it needs around it.
struct Shedding {
    throttle: Throttle,
    /// Whether the last call was at risk: a change is a change of state.
    active: AtomicBool,
    rng: Mutex<Rng>,
}

/// What a layer's options ask of each call beyond the gate; 0 on the ordinary path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extra(pub(super) u8);

/// Held for one admitted call: reports its end to the breaker.
pub struct Guard {
    breaker: Arc<Breaker>,
    permit: Permit,
    /// When it was admitted, until its answer came; [`UNTIMED`] where nobody asks how long it takes.
    since: u64,
}

const UNTIMED: u64 = u64::MAX;

// ===== impl Extra =====

impl Extra {
    const TIMED: u8 = 1;
    const THROTTLED: u8 = 2;
    const FORCED_OPEN: u8 = 4;
    const FORCED_CLOSED: u8 = 8;

    pub(super) fn of(config: &BreakerConfig) -> Self {
        let timed = config.slow_call.map_or(0, |_| Self::TIMED);
        let throttled = config.adaptive.map_or(0, |_| Self::THROTTLED);
        let forced = match config.force {
            None => 0,
            Some(Force::Open) => Self::FORCED_OPEN,
            Some(Force::Closed) => Self::FORCED_CLOSED,
        };
        Self(timed | throttled | forced)
    }

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

// ===== impl Breaker =====

impl Breaker {
    pub(super) fn new(
        key: impl Into<Box<str>>,
        config: Live<Compiled>,
        policy: Option<&MakePolicy>,
        stats: Arc<Stats>,
        mut rng: Rng,
    ) -> Self {
        let judge = {
            let (revision, current) = (config.revision(), config.get());
            match (policy, &current.config.adaptive) {
                (Some(make), _) => Judge::Policy(Mutex::new(make())),
                (None, None) => Judge::Signals(Signals::new(revision, &current.config)),
                (None, Some(adaptive)) => Judge::Throttle(Shedding {
                    throttle: Throttle::new(adaptive),
                    active: AtomicBool::new(false),
                    rng: Mutex::new(rng.fork()),
                }),
            }
        };
        let (born, gate) = (Instant::now(), Gate::new(rng));
        Self {
            key: key.into(),
            born,
            gate,
            judge,
            config,
            stats,
        }
    }

    #[inline]
    pub(super) fn admit(self: Arc<Self>, extra: Extra) -> Result<Guard, Refused> {
        if extra != Extra(0) {
            return self.admit_with(extra);
        }
        match self.gate.admit_closed() {
            Some(permit) => Ok(Guard::new(self, permit)),
            None => self.admit_probe(),
        }
    }

    #[inline(never)]
    fn admit_with(self: Arc<Self>, extra: Extra) -> Result<Guard, Refused> {
        // What an operator has done by hand stands above the configuration.
        if !self.gate.is_forced() {
            if extra.has(Extra::FORCED_OPEN) {
                self.stats.rejected();
                return Err(Refused(None));
            }
            if extra.has(Extra::FORCED_CLOSED) {
                return Ok(Guard::new(self, Permit::outside()));
            }
            if extra.has(Extra::THROTTLED) && !self.is_spared() {
                self.stats.rejected();
                return Err(Refused(None));
            }
        }
        let mut guard = self.admit(Extra(0))?;
        if extra.has(Extra::TIMED) {
            guard.since = guard.breaker.now_us();
        }
        Ok(guard)
    }

    /// Whether the throttle lets this call pass.
    fn is_spared(&self) -> bool {
        let (Judge::Throttle(shedding), current) = (&self.judge, self.config.get()) else {
            return true;
        };
        let Some(adaptive) = &current.config.adaptive else {
            return true;
        };
        let now = self.now_us();
        let ratio = adaptive.drop_ratio(shedding.throttle.sum(now));
        let active = ratio > 0.0;
        if shedding.active.load(Relaxed) != active
            && shedding.active.swap(active, Relaxed) != active
        {
            let state = if active {
                BreakerState::Open
            } else {
                BreakerState::Closed
            };
            self.gate.show(state);
            self.announce(state);
        }
        let spared = !active || shedding.rng.lock().f64() >= ratio;
        if !spared && adaptive.count_local_rejects {
            shedding.throttle.record(now, false);
        }
        spared
    }

    #[cold]
    fn admit_probe(self: Arc<Self>) -> Result<Guard, Refused> {
        let (admitted, entered) = {
            let config = self.config.get();
            self.gate.admit(&config.config, || self.now_us())
        };
        if let Some(state) = entered {
            self.entered(state);
        }
        match admitted {
            Ok(permit) => Ok(Guard::new(self, permit)),
            Err(refused) => {
                self.stats.rejected();
                Err(refused)
            }
        }
    }

    /// The failure rate over the window and the calls it was taken over; `None` for a foreign policy.
    pub(super) fn failure_rate(&self) -> Option<(f64, u64)> {
        match &self.judge {
            Judge::Signals(signals) => Some(signals.rate(self.now_us())),
            Judge::Throttle(shedding) => Some(shedding.throttle.sum(self.now_us()).failure_rate()),
            Judge::Policy(_) => None,
        }
    }

    /// The same of slow calls; `None` where nobody looks for them.
    pub(super) fn slow_rate(&self) -> Option<(f64, u64)> {
        match &self.judge {
            Judge::Signals(signals) => signals.slow_rate(self.now_us()),
            Judge::Throttle(_) | Judge::Policy(_) => None,
        }
    }

    /// The share of the calls that a throttle refuses; `None` where there is none.
    pub(super) fn drop_ratio(&self) -> Option<f64> {
        let Judge::Throttle(shedding) = &self.judge else {
            return None;
        };
        let current = self.config.get();
        let adaptive = current.config.adaptive.as_ref()?;
        Some(adaptive.drop_ratio(shedding.throttle.sum(self.now_us())))
    }

    /// The state that calls find.
    pub(super) fn state(&self) -> BreakerState {
        let state = self.gate.state();
        let force = self.config.get().config.force;
        match force {
            _ if self.gate.is_forced() => state,
            Some(Force::Open) => BreakerState::ForcedOpen,
            Some(Force::Closed) => BreakerState::ForcedClosed,
            None if self.drop_ratio().is_some_and(|ratio| ratio > 0.0) => BreakerState::Open,
            None => state,
        }
    }

    /// Whether a new breaker would behave the same, so that this one may be forgotten.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.now_us();
        let is_blank = match &self.judge {
            Judge::Signals(signals) => signals.is_blank(now),
            Judge::Throttle(shedding) => shedding.throttle.sum(now).total == 0,
            Judge::Policy(_) => false, // nobody can look into it
        };
        is_blank && self.gate.is_settled(&self.config.get().config, now)
    }

    pub(super) fn force(&self, state: BreakerState) {
        self.gate.force(state, self.now_us());
        self.clear();
        self.announce(state);
    }

    fn now_us(&self) -> u64 {
        let age = Instant::now().saturating_duration_since(self.born);
        // Not `as_micros`, which divides 128 bits.
        age.as_secs() * 1_000_000 + u64::from(age.subsec_micros())
    }

    /// A call that was admitted while closed has ended.
    fn report(&self, permit: Permit, outcome: Outcome) {
        if !outcome.counts() || !self.gate.is_current(permit) {
            return;
        }
        if outcome.is_success() {
            match &self.judge {
                Judge::Signals(signals) => signals.success(|| self.now_us()),
                Judge::Policy(policy) => policy.lock().record_success(),
                Judge::Throttle(shedding) => shedding.throttle.record(self.now_us(), true),
            }
        } else {
            self.report_failure(permit, outcome);
        }
    }

    #[cold]
    fn report_failure(&self, permit: Permit, outcome: Outcome) {
        let now = self.now_us();
        if let Some(open_for) = self.failed(outcome, now) {
            self.trip(permit, now, open_for);
        }
    }

    fn trip(&self, permit: Permit, now: u64, open_for: Option<Duration>) {
        let current = self.config.get();
        if self.gate.trip(permit, &current.config, now, open_for) {
            self.entered(BreakerState::Open);
        }
    }

    /// The answer of a call took this long; says whether that is slow.
    fn took(&self, permit: Permit, outcome: Outcome, took_us: u64) -> bool {
        let Judge::Signals(signals) = &self.judge else {
            return false;
        };
        if !self.gate.is_current(permit) {
            return false;
        }
        self.follow(signals);
        let slow = signals.is_slow(took_us);
        // Whoever gave up after so long has seen that it is slow; who did earlier has seen nothing.
        if !(outcome.counts() || slow && outcome == Outcome::Cancelled) {
            return false;
        }
        if slow {
            self.stats.slow();
        }
        let now = self.now_us();
        if !permit.probe && signals.took(took_us, now) {
            self.trip(permit, now, None);
        }
        slow
    }

    fn follow(&self, signals: &Signals) {
        let config = &self.config;
        signals.follow(config.revision(), || config.get().config.clone());
    }

    /// Says whether to open, and for how long where the policy has a wish.
    fn failed(&self, outcome: Outcome, now: u64) -> Option<Option<Duration>> {
        match &self.judge {
            Judge::Policy(policy) => policy.lock().mark_dead_on_failure().map(Some),
            Judge::Signals(signals) => {
                // NOTE: here, and not on every call: only a failure can make new limits matter.
                self.follow(signals);
                let opens = match outcome {
                    Outcome::Overload(_) => signals.overload(now),
                    _ => signals.failure(now),
                };
                opens.then_some(None)
            }
            Judge::Throttle(shedding) => {
                shedding.throttle.record(now, false);
                None
            }
        }
    }

    fn probe(&self, permit: Permit, mut probe: Probe) {
        if let (Judge::Policy(policy), Probe::Failed(open_for)) = (&self.judge, &mut probe)
            && self.gate.is_current(permit)
        {
            *open_for = policy.lock().mark_dead_on_failure();
        }
        let entered = self
            .gate
            .probe(permit, probe, &self.config.get().config, self.now_us());
        if let Some(state) = entered {
            self.entered(state);
        }
    }

    /// The gate entered a state by what happened to calls.
    fn entered(&self, state: BreakerState) {
        match (&self.judge, state) {
            // NOTE: before the probes, not at the close: nothing is counted until then, so no failure
            // after the close can be added to those from before it.
            (Judge::Signals(signals), BreakerState::HalfOpen) => signals.clear(),
            (Judge::Policy(policy), BreakerState::Closed) => policy.lock().revived(),
            _ => {}
        }
        self.announce(state);
    }

    fn clear(&self) {
        match &self.judge {
            Judge::Signals(signals) => signals.clear(),
            Judge::Policy(policy) => policy.lock().revived(),
            Judge::Throttle(shedding) => shedding.throttle.clear(),
        }
    }

    fn announce(&self, state: BreakerState) {
        self.stats.entered(state);
        tracing::info!(
            breaker = %self.config.get().config.name,
            key = %self.key,
            state = state.label(),
            "circuit breaker changed its state"
        );
    }
}

// ===== impl Guard =====

impl Guard {
    #[inline]
    fn new(breaker: Arc<Breaker>, permit: Permit) -> Self {
        Self {
            breaker,
            permit,
            since: UNTIMED,
        }
    }

    /// The answer is there, or will not come any more.
    #[inline]
    fn answered(&mut self, outcome: Outcome) {
        if self.since != UNTIMED {
            self.took(outcome);
        }
    }

    fn took(&mut self, outcome: Outcome) {
        let since = mem::replace(&mut self.since, UNTIMED);
        let took = self.breaker.now_us().saturating_sub(since);
        let slow = self.breaker.took(self.permit, outcome, took);
        if slow && self.permit.probe && !self.permit.decided {
            self.decide(Probe::Failed(None));
        }
    }

    /// The fate of this probe, which nothing changes any more.
    fn decide(&mut self, probe: Probe) {
        self.breaker.probe(self.permit, probe);
        self.permit.decided = true;
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}

impl CallGuard for Guard {
    fn head(&mut self, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome {
            self.answered(outcome);
        }
        if !self.permit.probe || self.permit.decided {
            return;
        }
        match outcome {
            // Plain HTTP: a good head is enough, or a slow download would keep the gate half-open.
            Some(outcome) => self.decide(fate(outcome)),
            None => {
                self.breaker.probe(self.permit, Probe::Streaming);
                self.permit.streaming = true;
            }
        }
    }

    #[inline]
    fn first_frame(&mut self) {
        // Of a stream, whose head says nothing yet.
        self.answered(Outcome::Success);
    }

    fn end(mut self, outcome: Outcome) {
        self.breaker.stats.ended(outcome);
        self.answered(outcome);
        if !self.permit.probe {
            self.breaker.report(self.permit, outcome);
        } else if !self.permit.decided {
            self.breaker.probe(self.permit, fate(outcome));
        }
    }
}

/// An overload fails a probe: the peer is there, and not ready for more.
fn fate(outcome: Outcome) -> Probe {
    match outcome {
        Outcome::Success => Probe::Passed,
        Outcome::Failure(_) | Outcome::Overload(_) => Probe::Failed(None),
        Outcome::Cancelled | Outcome::Ignored => Probe::Returned,
    }
}
