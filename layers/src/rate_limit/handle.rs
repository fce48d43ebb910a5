//! Watching the limits.

use std::sync::Arc;

use super::layer::{Cells, Shared};
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
        let keys = match self
            .shared
            .policy
            .get()
            .as_ref()
            .map(|policy| &*policy.cells)
        {
            Some(Cells::Keyed { cells, .. }) => cells.len(),
            Some(Cells::One(_)) | None => 0,
        };
        RateLimitStats {
            admitted: self.shared.admitted.sum(),
            refused: self.shared.refused.sum(),
            keys,
        }
    }
}

impl std::fmt::Debug for RateLimitHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}
