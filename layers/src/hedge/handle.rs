//! Watching hedges.

use std::{sync::Arc, time::Duration};

use super::{
    layer::Shared,
    stats::{HedgeStats, HeldBack},
};
use crate::vocab::metrics::Registered;

/// To watch the hedges of a layer.
#[derive(Clone)]
pub struct HedgeHandle {
    shared: Arc<Registered<Shared>>,
}

// ===== impl HedgeHandle =====

impl HedgeHandle {
    pub(super) fn new(shared: Arc<Registered<Shared>>) -> Self {
        Self { shared }
    }

    /// What the layer has counted, and what it holds now.
    pub fn stats(&self) -> HedgeStats {
        HedgeStats {
            calls: self.shared.cap.calls(),
            kept_bytes: self.shared.limits.kept(),
            ..self.shared.stats.read()
        }
    }

    /// How many slow calls got no further attempt for one reason.
    pub fn held_back(&self, why: HeldBack) -> u64 {
        self.shared.stats.held_back_for(why)
    }

    /// How long an attempt is waited for now; `None` while there are too few answers for a percentile,
    /// and where the layer is off.
    pub fn delay(&self) -> Option<Duration> {
        self.shared.known_delay()
    }
}

impl std::fmt::Debug for HedgeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}
