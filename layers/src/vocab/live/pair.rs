//! The values of two revisions, of which one is in force.

use std::sync::Arc;

use super::sync::{ArcSwap, AtomicU64, Guard, Ordering};

/// A value and the revision that it is of.
pub(super) struct Tagged<T> {
    pub(super) revision: u64,
    pub(super) value: T,
}

/// The number of the newest revision, of all values that change together. Starts at 1.
pub(super) struct Revision(AtomicU64);

/// The values of the last two revisions, by the lowest bit of their number. So a whole tree changes at the one
/// step of its revision, and a call under way can go on reading the one it began with.
pub(super) struct Pair<T>([ArcSwap<Tagged<T>>; 2]);

// ===== impl Revision =====

impl Revision {
    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The values of the next one, which have been stored, are in force.
    pub(super) fn next(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self(AtomicU64::new(1))
    }
}

// ===== impl Pair =====

impl<T> Pair<T> {
    pub(super) fn new(value: Tagged<T>) -> Self {
        let value = Arc::new(value);
        Self([ArcSwap::new(value.clone()), ArcSwap::new(value)])
    }

    /// The value in force.
    #[inline]
    pub(super) fn newest(&self, revision: &Revision) -> Guard<Arc<Tagged<T>>> {
        loop {
            let revision = revision.get();
            let value = self.slot(revision).load();
            // Otherwise it was set twice in between, and this may be of a revision that is none yet.
            if value.revision == revision {
                return value;
            }
        }
    }

    /// The value as of a revision, if it is one of the last two; else the one in force.
    #[inline]
    pub(super) fn at(&self, at: u64, revision: &Revision) -> Guard<Arc<Tagged<T>>> {
        let value = self.slot(at).load();
        if value.revision == at {
            value
        } else {
            self.newest(revision)
        }
    }

    /// Puts the value of the next revision where nobody looks yet. By one thread at a time.
    pub(super) fn store(&self, value: Arc<Tagged<T>>) {
        self.slot(value.revision).store(value);
    }

    #[inline]
    fn slot(&self, revision: u64) -> &ArcSwap<Tagged<T>> {
        &self.0[(revision & 1) as usize]
    }
}
