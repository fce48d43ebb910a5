//! What a circuit breaker layer counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::gate::BreakerState;
use crate::vocab::{metrics::Sink, outcome::Outcome, shard::Sharded};

/// Counts of one layer, all its breakers together.
#[derive(Debug, Default)]
pub(super) struct Stats {
    calls: Sharded<Calls>,
    opened: AtomicU64,
    closed: AtomicU64,
}

/// One shard: what a call adds to.
#[derive(Debug, Default)]
struct Calls {
    ended: [AtomicU64; 5],
    rejected: AtomicU64,
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
    /// How often a breaker opened.
    pub opened: u64,
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

    pub(super) fn entered(&self, state: BreakerState) {
        match state {
            BreakerState::Open | BreakerState::ForcedOpen => &self.opened,
            BreakerState::Closed | BreakerState::ForcedClosed => &self.closed,
            BreakerState::HalfOpen => return,
        }
        .fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> BreakerStats {
        let ended = |slot: usize| {
            self.calls
                .iter()
                .map(|calls| calls.ended[slot].load(Relaxed))
                .sum::<u64>()
        };
        BreakerStats {
            successes: ended(0),
            failures: ended(1),
            overloads: ended(2),
            cancelled: ended(3),
            ignored: ended(4),
            rejected: self
                .calls
                .iter()
                .map(|calls| calls.rejected.load(Relaxed))
                .sum(),
            opened: self.opened.load(Relaxed),
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
        for (to, total) in [("open", stats.opened), ("closed", stats.closed)] {
            let labels = [("policy", name), ("to", to)];
            let help = "Changes of state of circuit breakers";
            out.counter("mesh_breaker_transitions_total", help, &labels, total);
        }
    }
}
