//! The queue: those who wait, in the order they came.
//!
//! A doubly linked list in one vector, so that whoever gives up leaves at once and from anywhere, and
//! places in it are used again: waiting allocates only when more wait than ever before.

use std::{
    mem,
    task::{Poll, Waker},
};

use tokio::time::Instant;

/// An empty queue gives memory back that is for more than this.
const SPARE: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Queue {
    slots: Vec<Slot>,
    /// The first of the slots that are not in use.
    vacant: Option<u32>,
    in_use: usize,
    oldest: Option<u32>,
    newest: Option<u32>,
    busy_since: Option<Instant>,
}

/// A place in the queue. Belongs to one waiter, and is used once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u32);

#[derive(Debug)]
enum Slot {
    Vacant {
        next: Option<u32>,
    },
    Waiting {
        /// `None` before the first poll.
        waker: Option<Waker>,
        older: Option<u32>,
        newer: Option<u32>,
    },
    /// Let in, and does not know yet.
    Entered,
}

/// How a waiter left.
#[derive(Debug)]
pub(super) enum Left {
    /// It had been let in.
    Entered,
    /// It had not; what would have woken it, to be dropped without a lock held.
    Waiting(#[allow(dead_code, reason = "to be dropped")] Option<Waker>),
}

// ===== impl Queue =====

impl Queue {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Since when somebody or other has been waiting; `None` where nobody is.
    pub(super) fn busy_since(&self) -> Option<Instant> {
        self.busy_since
    }

    /// Adds a waiter at the end.
    pub(super) fn push(&mut self, now: Instant) -> Ticket {
        let slot = Slot::Waiting {
            waker: None,
            older: self.newest,
            newer: None,
        };
        let at = match self.vacant {
            Some(at) => {
                if let Slot::Vacant { next } = mem::replace(&mut self.slots[at as usize], slot) {
                    self.vacant = next;
                }
                at
            }
            None => {
                let at = u32::try_from(self.slots.len()).expect("the limit of the queue is a u32");
                self.slots.push(slot);
                at
            }
        };
        self.in_use += 1;
        match self.newest.replace(at) {
            Some(before) => *self.newer_of(before) = Some(at),
            None => self.oldest = Some(at),
        }
        self.busy_since.get_or_insert(now);
        Ticket(at)
    }

    /// Lets the oldest waiter in, and gives what wakes it.
    pub(super) fn let_in(&mut self) -> Option<Waker> {
        let at = self.oldest?;
        self.unlink(at, Slot::Entered)
    }

    /// Whether a waiter was let in, and its slot is free again; or else its former waker, to be
    /// dropped without a lock held.
    pub(super) fn poll(&mut self, Ticket(at): Ticket, by: &Waker) -> (Poll<()>, Option<Waker>) {
        match &mut self.slots[at as usize] {
            Slot::Waiting { waker, .. } => match waker {
                Some(waker) if waker.will_wake(by) => (Poll::Pending, None),
                waker => (Poll::Pending, waker.replace(by.clone())),
            },
            Slot::Entered => {
                self.vacate(at);
                (Poll::Ready(()), None)
            }
            Slot::Vacant { .. } => unreachable!("a ticket is used once"),
        }
    }

    /// Takes a waiter out.
    pub(super) fn remove(&mut self, Ticket(at): Ticket) -> Left {
        let left = match &self.slots[at as usize] {
            Slot::Waiting { .. } => Left::Waiting(self.unlink(at, Slot::Entered)),
            Slot::Entered => Left::Entered,
            Slot::Vacant { .. } => unreachable!("a ticket is used once"),
        };
        self.vacate(at);
        left
    }

    /// Puts another slot in the place of a waiter, and its neighbours together.
    fn unlink(&mut self, at: u32, slot: Slot) -> Option<Waker> {
        let Slot::Waiting {
            waker,
            older,
            newer,
        } = mem::replace(&mut self.slots[at as usize], slot)
        else {
            unreachable!("only waiters are linked")
        };
        match older {
            Some(older) => *self.newer_of(older) = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => *self.older_of(newer) = older,
            None => self.newest = older,
        }
        if self.oldest.is_none() {
            self.busy_since = None;
        }
        waker
    }

    fn vacate(&mut self, at: u32) {
        self.in_use -= 1;
        if self.in_use == 0 && self.slots.len() > SPARE {
            (self.slots, self.vacant) = (Vec::new(), None);
            return;
        }
        let next = self.vacant.replace(at);
        self.slots[at as usize] = Slot::Vacant { next };
    }

    fn older_of(&mut self, at: u32) -> &mut Option<u32> {
        match &mut self.slots[at as usize] {
            Slot::Waiting { older, .. } => older,
            _ => unreachable!("only waiters are linked"),
        }
    }

    fn newer_of(&mut self, at: u32) -> &mut Option<u32> {
        match &mut self.slots[at as usize] {
            Slot::Waiting { newer, .. } => newer,
            _ => unreachable!("only waiters are linked"),
        }
    }
}
