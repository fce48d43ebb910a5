//! Models of the door: all orders in which calls can come and go while the process is told to leave.
//!
//! loom runs the door's own source. The course, which is behind a lock, is a lock here.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use loom::{sync::Arc, thread};

use self::door::Door;
use crate::loom_sync::{Mutex, all_orders, on_shard};

mod sync {
    pub(super) use loom::sync::atomic::Ordering;

    pub(super) use crate::loom_sync::{
        Sharded,
        seq_cst::{AtomicBool, AtomicI64},
    };
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "../door.rs"]
mod door;

#[derive(Default)]
struct Rig {
    door: Door,
    refusing: Mutex<bool>,
    /// No thread is stopped between two of these, so real ones will do.
    inside: AtomicUsize,
    exited: AtomicBool,
}

// ===== impl Rig =====

impl Rig {
    /// As the service has it: counted first. Says whether the call is in.
    fn enter(&self) -> bool {
        self.door.enter();
        if self.door.is_told() && *self.refusing.lock() {
            self.door.leave();
            return false;
        }
        self.inside.fetch_add(1, SeqCst);
        self.assert_not_exited();
        true
    }

    fn leave(&self) {
        self.assert_not_exited();
        self.inside.fetch_sub(1, SeqCst);
        self.door.leave();
    }

    fn call(&self) {
        if self.enter() {
            self.leave();
        }
    }

    fn assert_not_exited(&self) {
        assert!(!self.exited.load(SeqCst), "the process is gone");
    }

    /// As the handle has it, for one look.
    fn drain(&self) {
        self.door.tell();
        *self.refusing.lock() = true;
        if self.door.in_flight() == 0 {
            assert_eq!(self.inside.load(SeqCst), 0);
            self.exited.store(true, SeqCst);
        }
    }
}

#[test]
fn no_call_slips_through_beside_the_last_look() {
    all_orders(3, || {
        let rig = Arc::new(Rig::default());
        let calls = rig.clone();
        let calls = thread::spawn(move || {
            on_shard(1);
            calls.call();
        });
        rig.drain();
        calls.join().unwrap();
        assert_eq!(rig.door.in_flight(), 0);
    });
}

#[test]
fn calls_that_are_refused_do_not_hide_one_that_is_in_flight() {
    all_orders(2, || {
        let rig = Arc::new(Rig::default());
        assert!(rig.enter());
        let (ends, comes) = (rig.clone(), rig.clone());
        // It ends on another thread than it began on.
        let ends = thread::spawn(move || {
            on_shard(1);
            ends.leave();
        });
        let comes = thread::spawn(move || {
            on_shard(1);
            comes.call();
        });
        rig.drain();
        ends.join().unwrap();
        comes.join().unwrap();
        assert_eq!(rig.door.in_flight(), 0);
    });
}
