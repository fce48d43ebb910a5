//! What a retry layer counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{condition::Condition, policy::GaveUp};
use crate::vocab::metrics::Sink;

/// Counts of one layer. None of them is touched by a call that succeeds at once: those the budget
/// counts.
#[derive(Debug, Default)]
pub(super) struct Stats {
    retries: [AtomicU64; REASONS.len()],
    recovered: AtomicU64,
    gave_up: [AtomicU64; GaveUp::ALL.len()],
}

/// The labels of [`reason`].
const REASONS: [&str; 7] = [
    "connect", "reset", "timeout", "other", "status", "grpc", "refused",
];

/// A reading of the counts of a retry layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryStats {
    /// Calls, however often each was tried.
    pub calls: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Calls that failed at first and were answered well by a later attempt.
    pub recovered: u64,
    /// Calls whose last attempt failed in a way that is retried.
    pub gave_up: u64,
    /// How many retries the budget would allow now.
    pub budget_remaining: u64,
    /// Bytes of request bodies that are kept now.
    pub kept_bytes: usize,
}

// ===== impl Stats =====

impl Stats {
    pub(super) fn retried(&self, condition: Condition, free: bool) {
        self.retries[reason(condition, free)].fetch_add(1, Relaxed);
    }

    pub(super) fn recovered(&self) {
        self.recovered.fetch_add(1, Relaxed);
    }

    pub(super) fn gave_up(&self, why: GaveUp) {
        self.gave_up[why as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn gave_up_for(&self, why: GaveUp) -> u64 {
        self.gave_up[why as usize].load(Relaxed)
    }

    pub(super) fn read(&self) -> RetryStats {
        let sum = |all: &[AtomicU64]| all.iter().map(|count| count.load(Relaxed)).sum();
        RetryStats {
            retries: sum(&self.retries),
            recovered: self.recovered.load(Relaxed),
            gave_up: sum(&self.gave_up),
            ..RetryStats::default()
        }
    }

    pub(super) fn collect(&self, policy: &str, calls: u64, out: &mut dyn Sink) {
        let labels = [("policy", policy)];
        let help = "Calls through retry layers, however often each was tried";
        out.counter("mesh_retry_calls_total", help, &labels, calls);
        let help = "Calls that failed at first and were answered well by a later attempt";
        let recovered = self.recovered.load(Relaxed);
        out.counter("mesh_retry_recovered_total", help, &labels, recovered);
        for (reason, count) in REASONS.iter().zip(&self.retries) {
            let labels = [("policy", policy), ("reason", reason)];
            let help = "Attempts after the first, by what was wrong with the one before";
            out.counter(
                "mesh_retry_retries_total",
                help,
                &labels,
                count.load(Relaxed),
            );
        }
        for why in GaveUp::ALL {
            let labels = [("policy", policy), ("reason", why.label())];
            let help = "Calls whose last attempt failed, by why there was no other";
            let total = self.gave_up_for(why);
            out.counter("mesh_retry_gave_up_total", help, &labels, total);
        }
    }
}

fn reason(condition: Condition, free: bool) -> usize {
    match condition {
        _ if free => 6,
        Condition::Connect => 0,
        Condition::Reset => 1,
        Condition::Timeout => 2,
        Condition::Other => 3,
        Condition::Status(_) | Condition::Statuses(_) => 4,
        Condition::Grpc(_) => 5,
    }
}
