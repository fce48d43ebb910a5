//! How much is kept of bodies that may be sent again.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::sync::{AtomicUsize, Ordering::Relaxed};
use crate::vocab::config::{ConfigError, in_range};

/// How much of request bodies is kept to send them again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Bytes of one body: 0 to 1 GiB, default 65,536. A longer body streams on and is not retried.
    #[cfg_attr(feature = "schema", schemars(range(max = 1_u64 << 30)))]
    pub per_call: usize,
    /// Bytes of all bodies together: `perCall` to 64 GiB, default 67,108,864.
    #[cfg_attr(feature = "schema", schemars(range(max = 64_u64 << 30)))]
    pub total: usize,
}

/// How much may be kept of bodies, each and all together. Clones are handles to the same limits.
#[derive(Clone)]
pub struct ReplayLimits(Arc<Limits>);

struct Limits {
    per_body: AtomicUsize,
    total: AtomicUsize,
    kept: AtomicUsize,
}

/// A share of the total that is given back on drop.
#[derive(Debug)]
pub(super) struct Reserved {
    bytes: usize,
    limits: ReplayLimits,
}

// ===== impl ReplayConfig =====

impl Default for ReplayConfig {
    fn default() -> Self {
        Self {
            // Linkerd's: most calls to services fit, and 1,000 of them at once are the total.
            per_call: 64 << 10,
            total: 64 << 20,
        }
    }
}

impl ReplayConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const GIB: usize = 1 << 30;
        in_range("perCall", self.per_call, 0..=GIB)?;
        in_range("total", self.total, self.per_call..=64 * GIB)?;
        Ok(())
    }
}

// ===== impl ReplayLimits =====

impl ReplayLimits {
    /// Limits in bytes, for each body and for all together.
    pub fn new(per_body: usize, total: usize) -> Self {
        Self(Arc::new(Limits {
            per_body: AtomicUsize::new(per_body),
            total: AtomicUsize::new(total),
            kept: AtomicUsize::new(0),
        }))
    }

    /// Sets other limits. What is kept already stays kept.
    pub fn set(&self, per_body: usize, total: usize) {
        self.0.per_body.store(per_body, Relaxed);
        self.0.total.store(total, Relaxed);
    }

    /// The bytes that are kept now, of all bodies together.
    pub fn kept(&self) -> usize {
        self.0.kept.load(Relaxed)
    }

    #[inline]
    pub(super) fn per_body(&self) -> usize {
        self.0.per_body.load(Relaxed)
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
            .field("per_body", &self.per_body())
            .field("total", &self.0.total.load(Relaxed))
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
        let limits = &*self.limits.0;
        if more > limits.per_body.load(Relaxed).saturating_sub(self.bytes) {
            return false;
        }
        // NOTE: added first and taken back if it was too much, so that the sum is never above the
        // total for longer than this takes, and the common case is one addition.
        let before = limits.kept.fetch_add(more, Relaxed);
        if more > limits.total.load(Relaxed).saturating_sub(before) {
            limits.kept.fetch_sub(more, Relaxed);
            return false;
        }
        self.bytes += more;
        true
    }

    pub(super) fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.limits.0.kept.fetch_sub(bytes, Relaxed);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.release();
    }
}
