//! Watching the panics.

use std::sync::Arc;

use super::layer::Shared;
use crate::vocab::metrics::Registered;

/// To see what a layer has caught.
#[derive(Clone)]
pub struct CatchPanicHandle {
    shared: Arc<Registered<Shared>>,
}

/// What a catch-panic layer has counted since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CatchPanicStats {
    /// Panics before there was an answer.
    pub before_head: u64,
    /// Panics in the body of an answer.
    pub in_body: u64,
}

// ===== impl CatchPanicHandle =====

impl CatchPanicHandle {
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        Self { shared }
    }

    /// What was caught so far.
    pub fn stats(&self) -> CatchPanicStats {
        self.shared.stats()
    }
}

impl std::fmt::Debug for CatchPanicHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}
