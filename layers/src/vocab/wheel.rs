//! A coarse timer that all calls of a layer share.
//!
//! A runtime's timer is made for precision, and a timeout per call pays for it: it registers an entry
//! in the runtime's wheel and takes it out again, for a deadline that almost never comes. A [`Wheel`]
//! costs a call less than a tenth of that. Each thread has its own wheel behind a lock that nobody
//! else wants, entries are used again, and a single task sleeps until the next one is due:
//!
//! ```text
//!   call A ──► shard of its thread ──┐
//!   call B ──► shard of its thread ──┼──► driver task: one runtime timer, wakes what is due
//!   call C ──► shard of its thread ──┘
//! ```
//!
//! # Precision
//!
//! A timer never fires early, and at most [`Wheel::PRECISION`] (5 ms) late: up to 4 ms for the slot it
//! waits in and 1 ms for the runtime's own timer. Finer slots would only wake the driver more often
//! (250 times a second with these, in the worst case), and network timeouts are tens of milliseconds
//! at least.
//!
//! # The driver
//!
//! It is spawned on the current runtime when the first timer registers, and ends when no timer waits
//! or the wheel is dropped. When its runtime is shut down under it, timers on other runtimes are woken
//! and start a driver there. It sleeps on tokio's clock, so tests with a paused clock drive it.
//!
//! ```
//! use std::{future::poll_fn, time::Duration};
//! use tokio::time::Instant;
//! use tower_mesh_layers::{Wheel, WheelTimer};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let wheel = Wheel::new();
//! let start = Instant::now();
//! let mut timer = WheelTimer::new(wheel, Some(start + Duration::from_secs(1)));
//! poll_fn(|cx| timer.poll_expired(cx)).await;
//!
//! let late = start.elapsed() - Duration::from_secs(1);
//! assert!(late <= Wheel::PRECISION);
//! # }
//! ```

mod driver;
mod lookout;
#[cfg(test)]
mod model;
mod slots;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use self::{
    lookout::Lookout,
    slots::{Key, Slots},
    sync::Mutex,
};
use super::shard::Sharded;

/// What the lookout is made of; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) use parking_lot::Mutex;
}

const TICK_NANOS: u32 = 4_000_000;
const TICKS_PER_SECOND: u64 = 250;

/// A coarse timer that all calls of a layer share. Clones are handles to the same one.
///
/// Make one when the layer is built. It allocates a slot table for each core (2 KiB each), and grows
/// with the greatest number of timers that ever waited at once.
#[derive(Clone)]
pub struct Wheel(Arc<Inner>);

/// One deadline on a [`Wheel`], registered when it is first polled and gone when it is dropped.
///
/// `W` is whatever the owner holds of the wheel: a [`Wheel`], or the handle to a layer's shared state
/// that has one in it, so that a future needs one handle only.
pub struct WheelTimer<W: AsRef<Wheel> = Wheel> {
    wheel: W,
    deadline: Option<Instant>,
    entry: Option<Entry>,
}

/// Where a timer is registered.
#[derive(Debug, Clone, Copy)]
struct Entry {
    shard: u32,
    key: Key,
}

struct Inner {
    /// Ticks are counted from here.
    origin: Instant,
    shards: Sharded<Mutex<Shard>>,
    lookout: Lookout,
}

/// The timers of one thread.
#[derive(Debug)]
struct Shard {
    slots: Slots<Waker>,
    last: Option<Tick>,
}

/// The tick that a deadline fell into. Those of one layer come in order and mostly have the same
/// length, so the next one is likely in it too; and to compare two times takes a tenth of the
/// instructions of a subtraction.
#[derive(Debug, Clone, Copy)]
struct Tick {
    number: u64,
    /// Of deadlines after this...
    after: Instant,
    /// ... and up to this.
    until: Instant,
}

// ===== impl Wheel =====

impl Wheel {
    /// How much later than its deadline a timer fires, at most.
    pub const PRECISION: Duration = Duration::from_millis(5);

    /// A wheel without timers and without a driver.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            origin: Instant::now(),
            shards: Sharded::new(|| Mutex::new(Shard::new())),
            lookout: Lookout::new(),
        }))
    }

    /// Whether no timer waits.
    pub fn is_idle(&self) -> bool {
        self.0
            .shards
            .iter()
            .all(|shard| shard.lock().slots.is_idle())
    }

    /// Whether a driver task runs. There is none while no timer waits, up to the time at which the
    /// driver finds out.
    pub fn is_driven(&self) -> bool {
        self.0.lookout.is_driven()
    }
}

impl Default for Wheel {
    fn default() -> Self {
        Self::new()
    }
}

impl AsRef<Wheel> for Wheel {
    fn as_ref(&self) -> &Wheel {
        self
    }
}

impl fmt::Debug for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("is_driven", &self.is_driven())
            .finish_non_exhaustive()
    }
}

// ===== impl Inner =====

impl Inner {
    /// The first tick at or after `time`, so that nothing fires early.
    #[inline]
    fn tick_after(&self, time: Instant) -> u64 {
        let since = time.saturating_duration_since(self.origin);
        // NOTE: not through `as_nanos`: a division of 128 bits costs more than all the rest.
        since.as_secs() * TICKS_PER_SECOND + u64::from(since.subsec_nanos().div_ceil(TICK_NANOS))
    }

    /// The last tick at or before `time`.
    fn tick_before(&self, time: Instant) -> u64 {
        let since = time.saturating_duration_since(self.origin);
        since.as_secs() * TICKS_PER_SECOND + u64::from(since.subsec_nanos() / TICK_NANOS)
    }

    fn time_of(&self, tick: u64) -> Instant {
        let millis = tick.saturating_mul(u64::from(TICK_NANOS / 1_000_000));
        self.origin + Duration::from_millis(millis)
    }

    /// Registers a timer in `registered`, and makes sure that the driver looks in time. Ready when its
    /// deadline has passed.
    fn register(
        self: &Arc<Self>,
        deadline: Instant,
        cx: &Context<'_>,
        registered: &mut Option<Entry>,
    ) -> Poll<()> {
        let mut waker = cx.waker().clone();
        let (index, shard) = self.shards.get_indexed();
        let mut shard = shard.lock();
        let mut tick = match shard.last {
            Some(last) if last.contains(deadline) => last.number,
            _ => self.tick_of(deadline, &mut shard.last),
        };
        let key = loop {
            waker = match shard.slots.insert(tick, waker) {
                Ok(key) => break key,
                Err(waker) => waker,
            };
            let Some(later) = self.tick_of_late(&mut shard.slots, deadline) else {
                drop(shard);
                return Poll::Ready(());
            };
            tick = later;
        };
        drop(shard);
        // Its owner's before anything can panic, so that it is given back. There are 64 shards at most.
        *registered = Some(Entry {
            shard: index as u32,
            key,
        });
        if !self.lookout.looks_by(tick) {
            self.look_at(tick);
        }
        Poll::Pending
    }

    /// The tick of a deadline, noted for the next one.
    #[cold]
    fn tick_of(&self, deadline: Instant, last: &mut Option<Tick>) -> u64 {
        let number = self.tick_after(deadline);
        if number > 0 {
            *last = Some(Tick {
                number,
                after: self.time_of(number - 1),
                until: self.time_of(number),
            });
        }
        number
    }

    /// The wheel's time has passed the deadline. If the clock has not, it was turned back: a wheel
    /// that outlived the paused clock of a test. Then late is right, and early is wrong.
    #[cold]
    fn tick_of_late(&self, slots: &mut Slots<Waker>, deadline: Instant) -> Option<u64> {
        let now = Instant::now();
        if now >= deadline {
            return None;
        }
        slots.rebase(self.tick_before(now));
        Some(self.tick_after(deadline).max(slots.now() + 1))
    }

    /// Whether an entry's tick has come; makes sure that its task is woken when it does.
    fn poll_entry(self: &Arc<Self>, entry: Entry, cx: &Context<'_>) -> Poll<()> {
        let mut shard = self.shards.at(entry.shard as usize).lock();
        let Some((tick, waker)) = shard.slots.waiting(entry.key) else {
            return Poll::Ready(());
        };
        let outdated = match waker {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            waker => waker.replace(cx.waker().clone()),
        };
        drop(shard);
        // Dropped without the lock, since it may drop a task, and with it another timer.
        drop(outdated);
        if !self.lookout.looks() {
            self.look_at(tick);
        }
        Poll::Pending
    }

    fn cancel(&self, entry: Entry) {
        let waker = self
            .shards
            .at(entry.shard as usize)
            .lock()
            .slots
            .remove(entry.key);
        drop(waker); // without the lock, as above
    }
}

// ===== impl Shard =====

impl Shard {
    fn new() -> Self {
        Self {
            slots: Slots::new(),
            last: None,
        }
    }
}

// ===== impl Tick =====

impl Tick {
    #[inline]
    fn contains(&self, deadline: Instant) -> bool {
        self.after < deadline && deadline <= self.until
    }
}

// ===== impl WheelTimer =====

impl<W: AsRef<Wheel>> WheelTimer<W> {
    /// A timer for `deadline`; without one it never fires. Nothing is registered yet.
    #[inline]
    pub fn new(wheel: W, deadline: Option<Instant>) -> Self {
        Self {
            wheel,
            deadline,
            entry: None,
        }
    }

    /// When this timer fires.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What this timer holds of its wheel.
    pub fn owner(&self) -> &W {
        &self.wheel
    }

    /// Whether the deadline has passed; if not, the task is woken when it has.
    ///
    /// Poll the work first and the timer only when that is pending: then work that is ready at once
    /// never registers a timer, and an answer that comes at the deadline still counts.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, if it is the first timer to wait.
    pub fn poll_expired(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let wheel = &self.wheel.as_ref().0;
        if let Some(entry) = self.entry {
            if wheel.poll_entry(entry, cx).is_pending() {
                return Poll::Pending;
            }
            wheel.cancel(entry);
        }
        self.entry = None;
        wheel.register(deadline, cx, &mut self.entry)
    }

    /// Sets another deadline.
    pub fn reset(&mut self, deadline: Option<Instant>) {
        self.cancel();
        self.deadline = deadline;
    }

    /// Gives the registration back; the next poll registers anew.
    #[inline]
    pub fn cancel(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.wheel.as_ref().0.cancel(entry);
        }
    }
}

impl<W: AsRef<Wheel>> Drop for WheelTimer<W> {
    #[inline]
    fn drop(&mut self) {
        self.cancel();
    }
}

impl<W: AsRef<Wheel>> fmt::Debug for WheelTimer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WheelTimer")
            .field("deadline", &self.deadline)
            .field("is_registered", &self.entry.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
