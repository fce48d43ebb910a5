//! What a circuit breaker layer counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::state::BreakerState;
use crate::vocab::{metrics::Sink, outcome::Outcome, shard::Sharded};

/// Counts of one layer, all its breakers together.
#[derive(Debug, Default)]
pub(super) struct Stats {
    calls: Sharded<Calls>,
    opened: AtomicU64,
    half_opened: AtomicU64,
    closed: AtomicU64,
}

/// One shard: what a call adds to.
#[derive(Debug, Default)]
struct Calls {
    ended: [AtomicU64; 5],
    rejected: AtomicU64,
    slow: AtomicU64,
}

/// A reading of the counts of a circuit breaker layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BreakerStats {
    /// Admitted calls that succeeded.
    pub successes: u64,
    /// Admitted calls that failed.
    pub failures: u64,
    /// Admitted calls that found the peer too busy.
    pub overloads: u64,
    /// Admitted calls that the caller gave up.
    pub cancelled: u64,
    /// Admitted calls that another layer of this process refused.
    pub ignored: u64,
    /// Calls that this layer refused.
    pub rejected: u64,
    /// Admitted calls that took as long as `slowCall.duration` or longer, whatever came of them.
    pub slow: u64,
    /// How often a breaker opened.
    pub opened: u64,
    /// How often a breaker began to let probes through.
    pub half_opened: u64,
    /// How often a breaker closed again.
    pub closed: u64,
}

// ===== impl Stats =====

impl Stats {
    pub(super) fn ended(&self, outcome: Outcome) {
        let slot = match outcome {
            Outcome::Success => 0,
            Outcome::Failure(_) => 1,
            Outcome::Overload(_) => 2,
            Outcome::Cancelled => 3,
            Outcome::Ignored => 4,
        };
        self.calls.get().ended[slot].fetch_add(1, Relaxed);
    }

    pub(super) fn rejected(&self) {
        self.calls.get().rejected.fetch_add(1, Relaxed);
    }

    pub(super) fn slow(&self) {
        self.calls.get().slow.fetch_add(1, Relaxed);
    }

    pub(super) fn entered(&self, state: BreakerState) {
        match state {
            BreakerState::Open | BreakerState::ForcedOpen => &self.opened,
            BreakerState::Closed | BreakerState::ForcedClosed => &self.closed,
            BreakerState::HalfOpen => &self.half_opened,
        }
        .fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> BreakerStats {
        let sum = |count: fn(&Calls) -> &AtomicU64| {
            let shards = self.calls.iter().map(|calls| count(calls).load(Relaxed));
            shards.sum()
        };
        BreakerStats {
            successes: sum(|calls| &calls.ended[0]),
            failures: sum(|calls| &calls.ended[1]),
            overloads: sum(|calls| &calls.ended[2]),
            cancelled: sum(|calls| &calls.ended[3]),
            ignored: sum(|calls| &calls.ended[4]),
            rejected: sum(|calls| &calls.rejected),
            slow: sum(|calls| &calls.slow),
            opened: self.opened.load(Relaxed),
            half_opened: self.half_opened.load(Relaxed),
            closed: self.closed.load(Relaxed),
        }
    }

    pub(super) fn collect(&self, name: &str, out: &mut dyn Sink) {
        let stats = self.read();
        let calls = [
            ("success", stats.successes),
            ("failure", stats.failures),
            ("overload", stats.overloads),
            ("cancelled", stats.cancelled),
            ("ignored", stats.ignored),
            ("rejected", stats.rejected),
        ];
        for (outcome, total) in calls {
            let labels = [("policy", name), ("outcome", outcome)];
            let help = "Calls through circuit breakers, by outcome";
            out.counter("mesh_breaker_calls_total", help, &labels, total);
        }
        let help = "Calls through circuit breakers that were slow";
        let labels = [("policy", name)];
        out.counter("mesh_breaker_slow_calls_total", help, &labels, stats.slow);
        let transitions = [
            ("open", stats.opened),
            ("half_open", stats.half_opened),
            ("closed", stats.closed),
        ];
        for (to, total) in transitions {
            let labels = [("policy", name), ("to", to)];
            let help = "Changes of state of circuit breakers";
            out.counter("mesh_breaker_transitions_total", help, &labels, total);
        }
    }
}
