//! What the layer counts.

use super::layer::Policy;
use crate::vocab::{histogram::Histogram, metrics::Sink, shard::Counter};

/// Calls that found room at once are not counted: that would cost each of them more than the gate.
#[derive(Default)]
pub(super) struct Stats {
    pub(super) full: Counter,
    pub(super) timed_out: Counter,
    pub(super) past_deadline: Counter,
    /// How long those waited that were admitted in the end.
    pub(super) waits: Histogram,
}

// ===== impl Stats =====

impl Stats {
    pub(super) fn collect(&self, policy: &Policy, out: &mut dyn Sink) {
        let name = policy.config.name.as_str();
        let labels = [("policy", name)];
        let held = policy.gates.held();
        out.gauge(
            "mesh_concurrency_limit_in_flight",
            "Calls in flight under concurrency limits",
            &labels,
            held.in_flight as f64,
        );
        out.gauge(
            "mesh_concurrency_limit_waiting",
            "Calls that wait for a concurrency limit",
            &labels,
            held.waiting as f64,
        );
        out.gauge(
            "mesh_concurrency_limit_max_in_flight",
            "Calls that may be in flight under each concurrency limit",
            &labels,
            policy.config.limit.into(),
        );
        for (reason, count) in [
            ("full", &self.full),
            ("timeout", &self.timed_out),
            ("deadline", &self.past_deadline),
        ] {
            let labels = [("policy", name), ("reason", reason)];
            let help = "Calls that concurrency limits refused";
            out.counter(
                "mesh_concurrency_limit_rejected_total",
                help,
                &labels,
                count.sum(),
            );
        }
        out.histogram(
            "mesh_concurrency_limit_wait_seconds",
            "How long calls waited for a concurrency limit that admitted them",
            &labels,
            &self.waits.snapshot(),
        );
        if policy.gates.is_keyed() {
            out.gauge(
                "mesh_concurrency_limit_keys",
                "Keys that have a concurrency limit",
                &labels,
                policy.gates.keys() as f64,
            );
            out.counter(
                "mesh_concurrency_limit_overflowed_total",
                "Calls that shared the limit of the keys above the cap",
                &labels,
                policy.gates.overflowed(),
            );
        }
    }
}
