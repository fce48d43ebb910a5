//! How many entries there are.

use super::sync::{AtomicUsize, Ordering::Relaxed};

/// Room for one entry, which goes back unless it is kept: making the entry may panic.
pub(super) struct Room<'a>(&'a AtomicUsize);

// ===== impl Room =====

impl<'a> Room<'a> {
    /// Counts one more in `len`, unless that is `cap` already.
    pub(super) fn take(len: &'a AtomicUsize, cap: usize) -> Option<Self> {
        let more = |len: usize| (len < cap).then_some(len + 1);
        len.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Self(len))
    }

    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
