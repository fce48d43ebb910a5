//! Watching the limits.

use std::sync::Arc;

use super::{layer::Shared, policy::Policy};
use crate::vocab::metrics::Registered;

/// To see what the limits of a layer admit and hold.
#[derive(Clone)]
pub struct RateLimitHandle {
    shared: Arc<Registered<Shared>>,
}

/// A reading of the counts of a rate limit layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimitStats {
    /// Calls that passed.
    pub admitted: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Calls that wait for their turn now.
    pub waiting: u64,
    /// Keys that have a limit of their own now; 0 where the layer has no key.
    pub keys: usize,
}

// ===== impl RateLimitHandle =====

impl RateLimitHandle {
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        Self { shared }
    }

    /// What the layer has counted, and the keys it holds.
    pub fn stats(&self) -> RateLimitStats {
        let policy = self.shared.policy.get();
        RateLimitStats {
            admitted: self.shared.admitted.sum(),
            refused: self.shared.refused.sum(),
            waiting: self.shared.waiting.sum().max(0) as u64,
            keys: policy.as_ref().map_or(0, Policy::keys),
        }
    }
}

impl std::fmt::Debug for RateLimitHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}
