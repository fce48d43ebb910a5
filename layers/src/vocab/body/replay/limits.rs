//! How much is kept of bodies that may be sent again.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// How much may be kept of bodies, each and all together. Clones share the count.
#[derive(Clone)]
pub struct ReplayLimits {
    pub(super) per_body: usize,
    total: usize,
    kept: Arc<AtomicUsize>,
}

/// A share of the total that is given back on drop.
#[derive(Debug)]
pub(super) struct Reserved {
    bytes: usize,
    limits: ReplayLimits,
}

// ===== impl ReplayLimits =====

impl ReplayLimits {
    /// Limits in bytes, for each body and for all together.
    pub fn new(per_body: usize, total: usize) -> Self {
        Self {
            per_body,
            total,
            kept: Arc::default(),
        }
    }

    /// Other limits over the same count, for a configuration that changes.
    #[must_use]
    pub fn with(&self, per_body: usize, total: usize) -> Self {
        Self {
            per_body,
            total,
            kept: self.kept.clone(),
        }
    }

    /// The bytes that are kept now, of all bodies together.
    pub fn kept(&self) -> usize {
        self.kept.load(Relaxed)
    }

    pub(super) fn reserve_nothing(&self) -> Reserved {
        Reserved {
            bytes: 0,
            limits: self.clone(),
        }
    }
}

impl Default for ReplayLimits {
    fn default() -> Self {
        Self::new(64 * 1024, 64 * 1024 * 1024)
    }
}

impl fmt::Debug for ReplayLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayLimits")
            .field("per_body", &self.per_body)
            .field("total", &self.total)
            .field("kept", &self.kept())
            .finish()
    }
}

// ===== impl Reserved =====

impl Reserved {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `more` bytes, or none of them.
    pub(super) fn grow(&mut self, more: usize) -> bool {
        let limits = &self.limits;
        if more > limits.per_body.saturating_sub(self.bytes) {
            return false;
        }
        // NOTE: added first and taken back if it was too much, so that the sum is never above the
        // total for longer than this takes, and the common case is one addition.
        let before = limits.kept.fetch_add(more, Relaxed);
        if more > limits.total.saturating_sub(before) {
            limits.kept.fetch_sub(more, Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }

    pub(super) fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.limits.kept.fetch_sub(bytes, Relaxed);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.release();
    }
}
