//! Who is in, and whether there is more to ask: what every call touches.

use super::sync::{AtomicBool, AtomicI64, Ordering::SeqCst, Sharded};

/// Counts calls, and knows whether they have to ask for more.
///
/// A call is counted first and then asks whether calls are refused; who refuses says so first and then counts. All of
/// it is `SeqCst`, so one of the two sees the other: no call slips through uncounted between the last look and the
/// exit. (On x86 that costs nothing: an addition is a full barrier anyway.)
#[derive(Debug, Default)]
pub(super) struct Door {
    /// Whether there is anything but `Serving` to be found in the course. Set before it.
    told: AtomicBool,
    in_flight: Sharded<AtomicI64>,
}

// ===== impl Door =====

impl Door {
    #[inline]
    pub(super) fn enter(&self) {
        self.in_flight.get().fetch_add(1, SeqCst);
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.in_flight.get().fetch_sub(1, SeqCst);
    }

    /// Whether the course has to be asked.
    #[inline]
    pub(super) fn is_told(&self) -> bool {
        self.told.load(SeqCst)
    }

    /// The next step is to be seen by calls.
    pub(super) fn tell(&self) {
        self.told.store(true, SeqCst);
    }

    /// Calls whose response body has not ended. Once calls are refused it is never less than there are.
    pub(super) fn in_flight(&self) -> u64 {
        let sum: i64 = self.in_flight.iter().map(|shard| shard.load(SeqCst)).sum();
        // While calls are taken, one that moved between threads may show only its end.
        u64::try_from(sum).unwrap_or(0)
    }
}
