//! Models of the lookout: all orders in which timers can register while the driver looks and goes to sleep.
//!
//! loom runs the lookout's own source, with loom's atomics and lock in place of the real ones. A shard is a lock
//! around the tick of its first timer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Waker,
};

use loom::thread::{self, JoinHandle};

use self::lookout::{Lookout, NEVER};
use crate::loom_sync::{Mutex, all_orders};

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

    pub(super) use crate::loom_sync::Mutex;
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "lookout.rs"]
mod lookout;

struct Rig {
    lookout: Lookout,
    shards: [Mutex<u64>; 2],
    /// Whether the driver was woken or started, and has not looked since. No thread is stopped between two
    /// of these, so a real one will do.
    called: AtomicBool,
}

// ===== impl Rig =====

impl Rig {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lookout: Lookout::new(),
            shards: [NEVER, NEVER].map(Mutex::new),
            called: AtomicBool::new(false),
        })
    }

    /// As a timer has it.
    fn register(&self, shard: usize, tick: u64) {
        {
            let mut first = self.shards[shard].lock();
            *first = tick.min(*first);
        }
        if !self.lookout.looks_by(tick) {
            let (sleeping, new) = self.lookout.look_at(tick, || ());
            if sleeping.is_some() || new.is_some() {
                self.called.store(true, SeqCst);
            }
        }
    }

    /// As the driver has it, once it is called.
    fn look(&self) {
        if !self.called.swap(false, SeqCst) {
            return;
        }
        self.lookout.begin();
        let first = |shard: &Mutex<u64>| *shard.lock();
        let next = self.shards.iter().map(first).min().unwrap_or(NEVER);
        self.lookout.settle(next, Waker::noop());
    }

    fn registers(self: &Arc<Self>, shard: usize, tick: u64) -> JoinHandle<()> {
        let rig = self.clone();
        thread::spawn(move || rig.register(shard, tick))
    }
}

#[test]
fn timers_that_register_while_the_driver_looks_are_looked_at_in_time() {
    all_orders(3, || {
        let rig = Rig::new();
        rig.register(0, 10);
        let others = [rig.registers(0, 5), rig.registers(1, 7)];
        rig.look();
        others.into_iter().for_each(|other| other.join().unwrap());
        // It may have been woken meanwhile.
        rig.look();
        assert!(rig.lookout.looks_by(5));
    });
}

#[test]
fn a_timer_that_registers_while_the_driver_ends_has_another_one() {
    all_orders(3, || {
        let rig = Rig::new();
        rig.register(0, 10);
        // It was cancelled.
        *rig.shards[0].lock() = NEVER;
        let others = [rig.registers(0, 5), rig.registers(1, 7)];
        rig.look();
        others.into_iter().for_each(|other| other.join().unwrap());
        rig.look();
        assert!(rig.lookout.is_driven() && rig.lookout.looks_by(5));
        // And without timers it ends, whatever was to be looked at before.
        rig.shards.iter().for_each(|shard| *shard.lock() = NEVER);
        rig.called.store(true, SeqCst);
        rig.look();
        assert!(!rig.lookout.is_driven());
    });
}
