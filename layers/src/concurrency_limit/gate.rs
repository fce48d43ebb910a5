//! The gate: how many calls are in, how many wait, and who is next.
//!
//! Both numbers are in one word, so that a call which finds room and no queue is in by one
//! compare-and-swap:
//!
//! ```text
//!   63 ........... 32 31 ............ 0
//!       waiting           in flight
//! ```
//!
//! - **No wake-up is lost.** Whether to wait is decided under the lock of the queue, and noted in the
//!   word by a swap that fails if anybody left meanwhile. Whoever leaves after that sees that somebody
//!   waits, and comes to the lock to let them in. Limits change before that lock is taken, too.
//! - **Nobody overtakes.** Once one waits, the word keeps newcomers off the short way, and at the lock
//!   those who wait come first. A place goes from hand to hand: it is taken for the waiter before the
//!   waiter knows of it.
//! - **No place is lost.** A waiter that was let in and gives up without having noticed has the place,
//!   and leaves it like anybody else.
//!
//! It knows nothing of calls, has no clock, and its atomics and lock come from [`super::sync`], which
//! loom's take the place of in the tests.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    queue::{Left, Queue, Ticket},
    sync::{AtomicU32, AtomicU64, Mutex, Ordering},
};

/// One waiter, in the word.
const WAITER: u64 = 1 << 32;

/// How many may be in and how many may wait: of each gate that shares these.
pub(super) struct Limits {
    in_flight: AtomicU32,
    waiting: AtomicU32,
}

/// One limit.
pub(super) struct Gate {
    word: AtomicU64,
    limits: Arc<Limits>,
    queue: Mutex<Queue>,
}

/// What becomes of one who found no room at once.
#[derive(Debug)]
pub(super) enum Entry {
    /// There was room after all.
    Entered,
    /// Waits, and must [poll](Gate::poll) or [give up](Gate::give_up). Somebody or other has been
    /// waiting since that time without a break.
    Waits(Ticket, Instant),
    /// The queue is full.
    Full,
}

/// Who is to be woken once no lock is held. More than a few only after a limit was raised.
type Wakers = SmallVec<[Waker; 2]>;

fn in_flight(word: u64) -> u32 {
    word as u32
}

fn waiting(word: u64) -> u32 {
    (word >> 32) as u32
}

// ===== impl Limits =====

impl Limits {
    pub(super) fn new(in_flight: u32, waiting: u32) -> Self {
        Self {
            in_flight: AtomicU32::new(in_flight),
            waiting: AtomicU32::new(waiting),
        }
    }

    /// Other limits from now on. [`Gate::let_in`] has to follow for every gate.
    pub(super) fn set(&self, in_flight: u32, waiting: u32) {
        // NOTE: relaxed, as are the loads: what must not be missed is read under the queue's lock,
        // which `let_in` takes after this.
        self.in_flight.store(in_flight, Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    #[inline]
    fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }
}

// ===== impl Gate =====

impl Gate {
    pub(super) fn new(limits: Arc<Limits>) -> Self {
        Self {
            word: AtomicU64::new(0),
            limits,
            queue: Mutex::new(Queue::new()),
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        in_flight(self.word.load(Ordering::Relaxed))
    }

    pub(super) fn waiting(&self) -> u32 {
        waiting(self.word.load(Ordering::Relaxed))
    }

    /// Whether a new gate would behave the same.
    pub(super) fn is_idle(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }

    /// Enters if there is room and nobody waits.
    #[inline]
    pub(super) fn enter(&self) -> bool {
        let limit = self.limits.in_flight();
        let mut word = self.word.load(Ordering::Relaxed);
        while waiting(word) == 0 && in_flight(word) < limit {
            match self.swap(word, word + 1) {
                Ok(()) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Enters if there is room by now, or waits if there is room for that.
    pub(super) fn enter_or_wait(&self, now: Instant) -> Entry {
        // A gate that is overrun refuses without the lock.
        if self.waiting() >= self.limits.waiting() {
            return Entry::Full;
        }
        let mut wakers = Wakers::new();
        let mut queue = self.queue.lock();
        // Whoever left may be on the way to this lock. Those who wait must not wait for that, and this
        // one must not find a queue full that is not.
        self.admit(&mut queue, &mut wakers);
        let entry = self.enter_or_line_up(&mut queue, now);
        drop(queue);
        wake(wakers);
        entry
    }

    fn enter_or_line_up(&self, queue: &mut Queue, now: Instant) -> Entry {
        let (limit, room) = (self.limits.in_flight(), self.limits.waiting());
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let enters = waiting(word) == 0 && in_flight(word) < limit;
            if !enters && waiting(word) >= room {
                return Entry::Full;
            }
            let next = word + if enters { 1 } else { WAITER };
            match self.swap(word, next) {
                Ok(()) if enters => return Entry::Entered,
                Ok(()) => {
                    let ticket = queue.push(now);
                    return Entry::Waits(ticket, queue.busy_since().unwrap_or(now));
                }
                Err(now) => word = now,
            }
        }
    }

    /// Whether the waiter has been let in; the ticket is used up then.
    pub(super) fn poll(&self, ticket: Ticket, cx: &Context<'_>) -> Poll<()> {
        let (polled, outdated) = self.queue.lock().poll(ticket, cx.waker());
        // Dropped without the lock, since it may drop a task, and with it another waiter.
        drop(outdated);
        polled
    }

    /// Waits no longer. `true` if the waiter had been let in: then it has a place.
    pub(super) fn give_up(&self, ticket: Ticket) -> bool {
        let mut queue = self.queue.lock();
        let left = queue.remove(ticket);
        if let Left::Waiting(_) = &left {
            self.word.fetch_sub(WAITER, Ordering::Relaxed);
        }
        drop(queue);
        matches!(left, Left::Entered)
    }

    /// Gives a place back.
    #[inline]
    pub(super) fn leave(&self) {
        // Release, for what this call did to be seen by the one that gets its place.
        let before = self.word.fetch_sub(1, Ordering::Release);
        debug_assert!(in_flight(before) > 0, "more calls left than entered");
        if waiting(before) > 0 {
            self.let_in();
        }
    }

    /// Lets in all who wait and for whom there is room.
    #[cold]
    pub(super) fn let_in(&self) {
        let mut wakers = Wakers::new();
        self.admit(&mut self.queue.lock(), &mut wakers);
        wake(wakers);
    }

    fn admit(&self, queue: &mut Queue, wakers: &mut Wakers) {
        let limit = self.limits.in_flight();
        let mut word = self.word.load(Ordering::Relaxed);
        while waiting(word) > 0 && in_flight(word) < limit {
            match self.swap(word, word - WAITER + 1) {
                Ok(()) => {
                    wakers.extend(queue.let_in());
                    word = self.word.load(Ordering::Relaxed);
                }
                Err(now) => word = now,
            }
        }
    }

    /// Acquire, for what the one who left did to be seen.
    #[inline]
    fn swap(&self, from: u64, to: u64) -> Result<(), u64> {
        self.word
            .compare_exchange_weak(from, to, Ordering::Acquire, Ordering::Relaxed)
            .map(drop)
    }
}

fn wake(wakers: Wakers) {
    wakers.into_iter().for_each(Waker::wake);
}
