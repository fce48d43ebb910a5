//! Watching the keys.

use std::{fmt, sync::Arc};

use super::layer::Shared;
use crate::vocab::metrics::Registered;

/// To see what is kept, and what became of calls with a key.
#[derive(Clone)]
pub struct IdempotencyHandle {
    shared: Arc<Registered<Shared>>,
}

/// A reading of the counts of an idempotency layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct IdempotencyStats {
    /// Calls that were made.
    pub executed: u64,
    /// Calls that got the answer of an earlier one.
    pub replayed: u64,
    /// Calls that were refused because the first one with their key was in flight.
    pub in_flight_conflicts: u64,
    /// Calls that were refused because their key had come with another request.
    pub reused: u64,
    /// Calls that were refused for another reason: no key or a malformed one, a request that is too large, an answer
    /// that was not kept, no room.
    pub refused: u64,
    /// Keys that had to make room before their time.
    pub evicted: u64,
    /// Keys that are known now, those in flight included.
    pub entries: usize,
    /// Keys that are in flight now.
    pub in_flight: usize,
    /// Bytes of the answers that are kept now.
    pub bytes: usize,
}

// ===== impl IdempotencyHandle =====

impl IdempotencyHandle {
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        Self { shared }
    }

    /// What the layer has counted, and what it keeps.
    pub fn stats(&self) -> IdempotencyStats {
        self.shared.stats()
    }
}

impl fmt::Debug for IdempotencyHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}
