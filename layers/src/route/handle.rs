//! Watching the routes.

use std::sync::Arc;

use super::{routes::Routes, stats::RouteStats};
use crate::vocab::metrics::Registered;

/// To see where the calls of a layer or a split go.
#[derive(Clone)]
pub struct RouteHandle {
    routes: Arc<Registered<Routes>>,
}

// ===== impl RouteHandle =====

impl RouteHandle {
    pub(super) fn new(routes: Arc<Registered<Routes>>) -> Self {
        Self { routes }
    }

    /// What was counted.
    pub fn stats(&self) -> RouteStats {
        self.routes.stats()
    }
}

impl std::fmt::Debug for RouteHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.stats().fmt(f)
    }
}
