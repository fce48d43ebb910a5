//! One breaker: what opens it, whom it lets through, and the report of each call.

use std::{sync::Arc, time::Duration};

use failsafe::FailurePolicy;
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    gate::{BreakerState, Gate, Permit, Probe, Refused},
    layer::Compiled,
    signals::Signals,
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
}

/// Held for one admitted call: reports its end to the breaker.
pub struct Guard {
    breaker: Arc<Breaker>,
    permit: Permit,
}

// ===== impl Breaker =====

impl Breaker {
    pub(super) fn new(
        key: impl Into<Box<str>>,
        config: Live<Compiled>,
        policy: Option<&MakePolicy>,
        stats: Arc<Stats>,
        rng: Rng,
    ) -> Self {
        let judge = match policy {
            Some(make) => Judge::Policy(Mutex::new(make())),
            None => {
                let (revision, current) = (config.revision(), config.get());
                Judge::Signals(Signals::new(revision, &current.config))
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
    pub(super) fn admit(self: Arc<Self>) -> Result<Guard, Refused> {
        match self.gate.admit_closed() {
            Some(permit) => Ok(Guard::new(self, permit)),
            None => self.admit_probe(),
        }
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
            Judge::Policy(_) => None,
        }
    }

    /// Whether a new breaker would behave the same, so that this one may be forgotten.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.now_us();
        match &self.judge {
            Judge::Signals(signals) => {
                signals.is_blank(now) && self.gate.is_settled(&self.config.get().config, now)
            }
            Judge::Policy(_) => false, // nobody can look into it
        }
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
            }
        } else {
            self.report_failure(permit, outcome);
        }
    }

    #[cold]
    fn report_failure(&self, permit: Permit, outcome: Outcome) {
        let now = self.now_us();
        if let Some(open_for) = self.failed(outcome, now)
            && self
                .gate
                .trip(permit, &self.config.get().config, now, open_for)
        {
            self.entered(BreakerState::Open);
        }
    }

    /// Says whether to open, and for how long where the policy has a wish.
    fn failed(&self, outcome: Outcome, now: u64) -> Option<Option<Duration>> {
        match &self.judge {
            Judge::Policy(policy) => policy.lock().mark_dead_on_failure().map(Some),
            Judge::Signals(signals) => {
                // NOTE: here, and not on every call: only a failure can make new limits matter.
                let config = &self.config;
                signals.follow(config.revision(), || config.get().config.clone());
                let opens = match outcome {
                    Outcome::Overload(_) => signals.overload(now),
                    _ => signals.failure(now),
                };
                opens.then_some(None)
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
        Self { breaker, permit }
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
        if !self.permit.probe {
            return;
        }
        match outcome {
            // Plain HTTP: a good head is enough, or a slow download would keep the gate half-open.
            Some(outcome) => {
                self.breaker.probe(self.permit, fate(outcome));
                self.permit.decided = true;
            }
            None => {
                self.breaker.probe(self.permit, Probe::Streaming);
                self.permit.streaming = true;
            }
        }
    }

    fn end(self, outcome: Outcome) {
        self.breaker.stats.ended(outcome);
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
