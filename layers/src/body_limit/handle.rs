//! Watching the limits.

use std::sync::Arc;

use super::layer::Shared;
use crate::vocab::metrics::Registered;

/// To see what a layer has refused and cut.
#[derive(Clone)]
pub struct BodyLimitHandle {
    shared: Arc<Registered<Shared>>,
}

/// What a body limit has counted since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BodyLimitStats {
    /// Requests that were too large.
    pub requests: u64,
    /// Responses that were too large.
    pub responses: u64,
}

// ===== impl BodyLimitHandle =====

impl BodyLimitHandle {
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        Self { shared }
    }

    /// What was too large so far.
    pub fn stats(&self) -> BodyLimitStats {
        self.shared.stats()
    }
}

impl std::fmt::Debug for BodyLimitHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}
