//! A model of the due time: loom runs its own source, with loom's atomics in place of the real ones.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use self::due::Due;
use crate::loom_sync::{Mutex, all_orders};

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "../due.rs"]
mod due;

const NOW: u64 = 5;

#[derive(Default)]
struct Rig {
    due: Due,
    /// The share that is asked for, and the one that was taken last.
    wanted: AtomicU64,
    known: AtomicU64,
    taking: Mutex<()>,
}

// ===== impl Rig =====

impl Rig {
    /// As a call has it, but that it waits for another one that is at it.
    fn percentile(&self) -> u64 {
        if self.due.is_over(NOW) {
            let _taking = self.taking.lock();
            self.due.begin(NOW);
            let wanted = self.wanted.load(Relaxed);
            self.known.store(wanted, Relaxed);
        }
        self.known.load(Relaxed)
    }
}

#[test]
fn another_percentile_is_taken_with_the_next_call_even_if_the_old_one_is_being_taken() {
    all_orders(3, || {
        let rig = Arc::new(Rig::default());
        let calls = rig.clone();
        let calls = thread::spawn(move || _ = calls.percentile());
        rig.wanted.store(95, Relaxed);
        rig.due.expire();
        calls.join().unwrap();
        assert_eq!(rig.percentile(), 95);
    });
}
