//! When the driver looks next, and how it is made to look before that.

use std::task::Waker;

use super::sync::{AtomicU64, Mutex, Ordering::Relaxed};

/// The tick at which nobody will look.
pub(super) const NEVER: u64 = u64::MAX;

/// Kept by the driver, and by those who register timers.
///
/// Who registers puts the timer into a shard first, and then asks [whether anybody looks](Self::looks_by) in
/// time. The driver [begins](Self::begin) before it locks the shards.
///
/// NOTE: no stronger ordering than that of the shards' locks is needed. If the driver locked a shard before a timer
/// came into it, who registers that sees [`NEVER`] or what was stored later; if after, the driver sees the timer.
#[derive(Debug)]
pub(super) struct Lookout {
    /// The tick at which the driver looks next. [`NEVER`] while it is looking, and where there is
    /// none: whoever registers then has to see to it that someone looks.
    next: AtomicU64,
    driver: Mutex<Driver>,
}

/// Whether there is a driver, and how to wake it while it sleeps.
#[derive(Debug, Default)]
struct Driver {
    running: bool,
    sleeping: Option<Waker>,
}

// ===== impl Lookout =====

impl Lookout {
    pub(super) fn new() -> Self {
        Self {
            next: AtomicU64::new(NEVER),
            driver: Mutex::new(Driver::default()),
        }
    }

    pub(super) fn is_driven(&self) -> bool {
        self.driver.lock().running
    }

    /// Whether the driver will look at this tick or before.
    #[inline]
    pub(super) fn looks_by(&self, tick: u64) -> bool {
        self.next.load(Relaxed) <= tick
    }

    /// Whether the driver will look at all.
    #[inline]
    pub(super) fn looks(&self) -> bool {
        self.next.load(Relaxed) != NEVER
    }

    /// Has the driver look at `tick` or before: gives its waker where it sleeps, and where there is no
    /// driver what `new` makes, to start one. Both are for after this, without a lock.
    pub(super) fn look_at<R>(
        &self,
        tick: u64,
        new: impl FnOnce() -> R,
    ) -> (Option<Waker>, Option<R>) {
        let mut driver = self.driver.lock();
        // First, as it may panic.
        let new = (!driver.running).then(new);
        driver.running = true;
        self.next.fetch_min(tick, Relaxed);
        (driver.sleeping.take(), new)
    }

    /// The driver looks from now on.
    pub(super) fn begin(&self) {
        self.next.store(NEVER, Relaxed);
    }

    /// The driver has looked and sleeps until `next`, or until an earlier tick, which this gives; where there is
    /// neither, it has ended.
    pub(super) fn settle(&self, next: u64, driver: &Waker) -> Option<u64> {
        let mut state = self.driver.lock();
        // A timer that registered behind its back has lowered it in the meantime.
        let next = next.min(self.next.load(Relaxed));
        state.running = next != NEVER;
        if !state.running {
            return None;
        }
        self.next.store(next, Relaxed);
        state.sleeping = Some(driver.clone());
        Some(next)
    }

    /// The driver is gone, and timers may wait.
    pub(super) fn lost(&self) {
        let mut driver = self.driver.lock();
        *driver = Driver::default();
        self.next.store(NEVER, Relaxed);
    }

    /// The driver, if it sleeps.
    pub(super) fn sleeping(&self) -> Option<Waker> {
        self.driver.lock().sleeping.take()
    }
}
