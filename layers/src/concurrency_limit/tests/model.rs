//! Models of the gate: all orders in which two or three threads can come, wait, give up and leave,
//! with all that the memory model lets them see.
//!
//! loom runs the gate's own source, with its atomics and lock in place of the real ones. So no part of
//! the crate has to be built for it, and the models are ordinary tests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

use loom::{future::block_on, thread};
use tokio::time::Instant;

use self::gate::{Entry, Gate, Limits};
use crate::{concurrency_limit::queue, loom_sync::all_orders};

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    pub(super) use crate::loom_sync::Mutex;
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "../gate.rs"]
mod gate;

/// A gate, and a check that never more are in than may be.
struct Rig {
    gate: Gate,
    limits: Arc<Limits>,
    /// No thread is stopped between two of these, so a real one will do.
    inside: AtomicUsize,
    /// The highest limit there was.
    most: AtomicUsize,
}

// ===== impl Rig =====

impl Rig {
    fn new(limit: u32, queue: u32) -> loom::sync::Arc<Self> {
        let limits = Arc::new(Limits::new(limit, queue));
        loom::sync::Arc::new(Self {
            gate: Gate::new(limits.clone()),
            limits,
            inside: AtomicUsize::new(0),
            most: AtomicUsize::new(limit as usize),
        })
    }

    /// Comes in, perhaps after a wait; `false` if it was refused.
    fn come(&self) -> bool {
        if !self.gate.enter() {
            match self.gate.enter_or_wait(Instant::now()) {
                Entry::Entered => {}
                Entry::Full => return false,
                // A wake-up that is lost is a deadlock, which loom finds.
                Entry::Waits(ticket, _) => {
                    block_on(std::future::poll_fn(|cx| self.gate.poll(ticket, cx)));
                }
            }
        }
        let others = self.inside.fetch_add(1, SeqCst);
        assert!(others < self.most.load(SeqCst), "one too many is in");
        true
    }

    fn go(&self) {
        self.inside.fetch_sub(1, SeqCst);
        self.gate.leave();
    }

    fn pass(&self) -> bool {
        let came = self.come();
        if came {
            self.go();
        }
        came
    }

    /// Waits for a moment, and gives up.
    fn try_and_give_up(&self) {
        if self.gate.enter() {
            return self.gate.leave();
        }
        match self.gate.enter_or_wait(Instant::now()) {
            Entry::Entered => self.gate.leave(),
            Entry::Full => {}
            Entry::Waits(ticket, _) => {
                let polled = self.gate.poll(ticket, &Context::from_waker(Waker::noop()));
                if polled == Poll::Ready(()) || self.gate.give_up(ticket) {
                    self.gate.leave();
                }
            }
        }
    }

    fn assert_empty(&self) {
        assert_eq!((self.gate.in_flight(), self.gate.waiting()), (0, 0));
    }
}

#[test]
fn no_wake_up_is_lost_between_one_who_leaves_and_one_who_comes() {
    all_orders(3, || {
        let rig = Rig::new(1, 1);
        assert!(rig.come());
        let other = rig.clone();
        let other = thread::spawn(move || assert!(other.pass(), "there was room to wait"));
        rig.go();
        other.join().unwrap();
        rig.assert_empty();
    });
}

#[test]
fn a_place_goes_from_hand_to_hand() {
    all_orders(2, || {
        let rig = Rig::new(1, 2);
        assert!(rig.come());
        let others: Vec<_> = (0..2)
            .map(|_| {
                let rig = rig.clone();
                thread::spawn(move || assert!(rig.pass(), "there was room to wait"))
            })
            .collect();
        rig.go();
        others.into_iter().for_each(|other| other.join().unwrap());
        rig.assert_empty();
    });
}

#[test]
fn one_who_gives_up_takes_no_place_along() {
    all_orders(2, || {
        let rig = Rig::new(1, 2);
        assert!(rig.come());
        let (gives_up, waits) = (rig.clone(), rig.clone());
        let gives_up = thread::spawn(move || gives_up.try_and_give_up());
        let waits = thread::spawn(move || assert!(waits.pass()));
        rig.go();
        gives_up.join().unwrap();
        waits.join().unwrap();
        rig.assert_empty();
    });
}

#[test]
fn a_limit_that_is_raised_is_seen_by_one_who_begins_to_wait() {
    all_orders(3, || {
        let rig = Rig::new(1, 1);
        assert!(rig.come());
        let other = rig.clone();
        // The first one stays in: only the new limit can let this one in.
        let other = thread::spawn(move || assert!(other.pass()));
        rig.most.store(2, SeqCst);
        rig.limits.set(2, 1);
        rig.gate.let_in();
        other.join().unwrap();
        rig.go();
        rig.assert_empty();
    });
}

#[test]
fn with_no_queue_one_of_two_gets_in_or_both_one_after_the_other() {
    all_orders(3, || {
        let rig = Rig::new(1, 0);
        let other = rig.clone();
        let other = thread::spawn(move || other.pass());
        let came = rig.pass();
        assert!(other.join().unwrap() || came);
        rig.assert_empty();
    });
}
