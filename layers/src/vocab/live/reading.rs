//! What is read of a live value.

use std::{fmt, ops::Deref, sync::Arc};

use super::{pair::Tagged, sync::Guard};

/// A borrowed reading of a [`Live`](super::Live) value: cheap, meant to be held for a call at most.
///
/// Use [`Live::load_full`](super::Live::load_full) to keep a value for longer.
pub struct Reading<T>(pub(super) Guard<Arc<Tagged<T>>>);

/// A reading of a [`Live`](super::Live) value to keep: later changes do not show in it.
pub struct Kept<T>(pub(super) Arc<Tagged<T>>);

// ===== impl Reading =====

impl<T> Deref for Reading<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Reading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

// ===== impl Kept =====

impl<T> Deref for Kept<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: fmt::Debug> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
