//! What is held for a call in flight.

use std::{fmt, sync::Arc};

use super::layer::Shared;
use crate::vocab::{metrics::Registered, outcome::Outcome, tracked::CallGuard};

/// Held for one call, until its response body has ended.
pub struct InFlight {
    shared: Arc<Registered<Shared>>,
}

// ===== impl InFlight =====

impl InFlight {
    #[inline]
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        shared.entered();
        Self { shared }
    }
}

impl CallGuard for InFlight {
    #[inline]
    fn end(self, _: Outcome) {}
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        self.shared.left();
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}
