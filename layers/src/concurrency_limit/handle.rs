//! Watching the limits.

use std::sync::Arc;

use super::{gates::Held, layer::Shared};
use crate::vocab::{histogram::HistogramSnapshot, metrics::Registered};

/// To see what is in flight under the limits of a layer, what waits, and what was refused.
#[derive(Clone)]
pub struct ConcurrencyLimitHandle {
    shared: Arc<Registered<Shared>>,
}

/// A reading of a concurrency limit layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConcurrencyLimitStats {
    /// The calls that may be in flight, of each key where there is one; `None` where the layer is off.
    pub limit: Option<u32>,
    /// Calls in flight now, of all keys.
    pub in_flight: usize,
    /// Calls that wait now, of all keys.
    pub waiting: usize,
    /// Keys that have a limit of their own now; 0 where the layer has no key.
    pub keys: usize,
    /// Calls that were refused because the queue was full.
    pub full: u64,
    /// Calls that were refused because they had waited for too long.
    pub timed_out: u64,
    /// Calls that were refused because their deadline came while they waited.
    pub past_deadline: u64,
}

// ===== impl ConcurrencyLimitHandle =====

impl ConcurrencyLimitHandle {
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        Self { shared }
    }

    /// What the layer holds, and what it has refused since it was built.
    pub fn stats(&self) -> ConcurrencyLimitStats {
        let policy = self.shared.policy.get();
        let policy = policy.as_ref();
        let Held { in_flight, waiting } =
            policy.map_or_else(Held::default, |policy| policy.gates.held());
        let stats = &self.shared.stats;
        ConcurrencyLimitStats {
            limit: policy.map(|policy| policy.config.limit),
            in_flight,
            waiting,
            keys: policy.map_or(0, |policy| policy.gates.keys()),
            full: stats.full.sum(),
            timed_out: stats.timed_out.sum(),
            past_deadline: stats.past_deadline.sum(),
        }
    }

    /// How long calls waited that had to, and were admitted in the end.
    pub fn waits(&self) -> HistogramSnapshot {
        self.shared.stats.waits.snapshot()
    }
}

impl std::fmt::Debug for ConcurrencyLimitHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}
