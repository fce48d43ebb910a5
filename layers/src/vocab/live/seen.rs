//! A live value as it was seen last.

use super::{Kept, Live};

/// A reading of a live value that is kept for as long as the value does not change.
///
/// A reading takes a hundred instructions, and to see that one still holds takes five. Whoever was made before a
/// change takes readings from then on.
pub(crate) struct Seen<T> {
    revision: u64,
    value: Kept<T>,
}

// ===== impl Seen =====

impl<T: Send + Sync + 'static> Seen<T> {
    pub(crate) fn now(live: &Live<T>) -> Self {
        // NOTE: the revision first. If the value changes in between, this is taken for outdated.
        let revision = live.revision();
        let value = live.load_full();
        Self { revision, value }
    }

    /// The value, unless `live` has changed since.
    #[inline]
    pub(crate) fn still(&self, live: &Live<T>) -> Option<&T> {
        (live.revision() == self.revision).then_some(&*self.value)
    }
}
