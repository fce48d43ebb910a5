//! Watching retries.

use std::sync::Arc;

use super::{layer::Shared, policy::GaveUp, stats::RetryStats};
use crate::vocab::metrics::Registered;

/// To watch the retries of a layer.
#[derive(Clone)]
pub struct RetryHandle {
    shared: Arc<Registered<Shared>>,
}

// ===== impl RetryHandle =====

impl RetryHandle {
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        Self { shared }
    }

    /// What the layer has counted, and what it holds now.
    pub fn stats(&self) -> RetryStats {
        RetryStats {
            budget_remaining: self.shared.remaining(),
            calls: self.shared.budget.calls(),
            kept_bytes: self.shared.limits.kept(),
            ..self.shared.stats.read()
        }
    }

    /// How many calls were given up for one reason.
    pub fn gave_up(&self, why: GaveUp) -> u64 {
        self.shared.stats.gave_up_for(why)
    }
}

impl std::fmt::Debug for RetryHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}
