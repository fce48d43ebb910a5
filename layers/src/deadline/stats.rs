//! What the layer counts. A call that is in time costs no count.

use crate::vocab::{metrics::Sink, shard::Counter};

#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) refused: Counter,
    pub(super) before_head: Counter,
    pub(super) in_body: Counter,
    pub(super) idle: Counter,
    pub(super) malformed: Counter,
}

/// What a deadline layer has counted since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeadlineStats {
    /// Calls whose deadline had passed when they came, so that nobody was called.
    pub refused: u64,
    /// Calls that had no response head by their deadline.
    pub before_head: u64,
    /// Calls whose response body was cut off at their deadline.
    pub in_body: u64,
    /// Calls whose response body was cut off since it gave nothing for too long.
    pub idle: u64,
    /// Requests with a timeout header that cannot be read.
    pub malformed: u64,
}

// ===== impl Stats =====

impl Stats {
    pub(super) fn read(&self) -> DeadlineStats {
        DeadlineStats {
            refused: self.refused.sum(),
            before_head: self.before_head.sum(),
            in_body: self.in_body.sum(),
            idle: self.idle.sum(),
            malformed: self.malformed.sum(),
        }
    }

    pub(super) fn collect(&self, policy: &str, out: &mut dyn Sink) {
        let stats = self.read();
        let expired = [
            ("arrival", stats.refused),
            ("head", stats.before_head),
            ("body", stats.in_body),
            ("idle", stats.idle),
        ];
        for (at, total) in expired {
            let labels = [("policy", policy), ("at", at)];
            let help = "Calls that ran out of time, by when it was found";
            out.counter("mesh_deadline_exceeded_total", help, &labels, total);
        }
        let help = "Requests with a timeout header that cannot be read";
        let labels = [("policy", policy)];
        out.counter(
            "mesh_deadline_malformed_total",
            help,
            &labels,
            stats.malformed,
        );
    }
}
