//! Models of the windows: all orders in which three threads can count calls.
//!
//! loom runs the sources themselves, with its atomics in place of the real ones.

use loom::{sync::Arc, thread};

use self::{calls::CallWindow, count::Count};
use crate::loom_sync::all_orders;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "../calls.rs"]
mod calls;
#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "../count.rs"]
mod count;

/// The bits that are set, and how many are said to be.
fn bad(window: &CallWindow) -> (u64, u64) {
    let bits = window.bits.iter();
    let set: u32 = bits
        .map(|word| word.load(sync::Ordering::SeqCst).count_ones())
        .sum();
    (set.into(), window.bad.load(sync::Ordering::SeqCst))
}

#[test]
fn calls_that_come_to_a_bucket_at_its_turn_all_count_and_the_old_ones_do_not() {
    all_orders(3, || {
        let count = Arc::new(Count::default());
        count.record(0);
        let others = [10, 10].map(|slot| {
            let count = count.clone();
            thread::spawn(move || count.record(slot))
        });
        count.record(10);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(count.of_last(10, 10), 3);
    });
}

#[test]
fn one_who_was_held_up_takes_no_call_away() {
    all_orders(3, || {
        let count = Arc::new(Count::default());
        let (late, now) = (count.clone(), count.clone());
        let late = thread::spawn(move || late.record(0));
        let now = thread::spawn(move || now.record(10));
        late.join().unwrap();
        now.join().unwrap();
        // Either it came first, and is over; or it is counted where the bucket is by now.
        assert!((1..=2).contains(&count.of_last(10, 10)));
    });
}

#[test]
fn a_window_of_calls_knows_how_many_of_its_bits_are_set() {
    for size in [1, 2] {
        all_orders(3, move || {
            let window = Arc::new(CallWindow::new(size));
            window.record(true);
            let others = [false, false].map(|good| {
                let window = window.clone();
                thread::spawn(move || window.record(good))
            });
            window.record(true);
            others.into_iter().for_each(|other| other.join().unwrap());
            let (set, said) = bad(&window);
            assert_eq!(set, said);
            let (good, bad) = window.sum();
            assert_eq!((good + bad, bad), (size, set));
        });
    }
}

#[test]
fn a_window_that_is_cleared_while_calls_come_counts_no_bit_that_is_not_there() {
    all_orders(3, || {
        let window = Arc::new(CallWindow::new(2));
        window.record(false);
        let others = [false, true].map(|good| {
            let window = window.clone();
            thread::spawn(move || window.record(good))
        });
        window.clear();
        others.into_iter().for_each(|other| other.join().unwrap());
        let (set, said) = bad(&window);
        assert_eq!(set, said);
    });
}
