//! Models of what calls pay in and lose: all orders in which three threads can.
//!
//! loom runs the sources themselves, with its atomics in place of the real ones.

use loom::{sync::Arc, thread};

use self::{
    slots::{SLOTS, Slots},
    tokens::{TOKEN, Tokens},
};
use crate::loom_sync::all_orders;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicI64, AtomicU64, Ordering};
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "slots.rs"]
mod slots;
#[allow(
    clippy::duplicate_mod,
    dead_code,
    reason = "the same source over other atomics"
)]
#[path = "tokens.rs"]
mod tokens;

#[test]
fn the_first_deposits_of_a_second_all_count_and_those_of_long_ago_do_not() {
    const THEN: u32 = 3;
    const NOW: u32 = THEN + SLOTS as u32;
    all_orders(3, || {
        let slots = Arc::new(Slots::default());
        slots.add(THEN);
        let others = [0, 1].map(|_| {
            let slots = slots.clone();
            thread::spawn(move || slots.add(NOW))
        });
        slots.add(NOW);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(slots.sum(NOW), 3);
    });
}

#[test]
fn one_who_was_held_up_since_the_last_round_takes_no_deposit_away() {
    const LATE: u32 = 3;
    const NOW: u32 = LATE + SLOTS as u32;
    all_orders(3, || {
        let slots = Arc::new(Slots::default());
        let (now, late) = (slots.clone(), slots.clone());
        let now = thread::spawn(move || now.add(NOW));
        let late = thread::spawn(move || late.add(LATE));
        now.join().unwrap();
        late.join().unwrap();
        // It may have looked at the slot before that was taken over, and count in the new one.
        assert!((1..=2).contains(&slots.sum(NOW)));
    });
}

#[test]
fn each_failure_costs_a_token_and_each_success_gives_its_part_back() {
    all_orders(3, || {
        let tokens = Arc::new(Tokens::default());
        tokens.set(10 * TOKEN, TOKEN / 10);
        tokens.failed();
        let (fails, succeeds) = (tokens.clone(), tokens.clone());
        let fails = thread::spawn(move || fails.failed());
        let succeeds = thread::spawn(move || succeeds.succeeded());
        tokens.failed();
        fails.join().unwrap();
        succeeds.join().unwrap();
        assert_eq!(tokens.lost(), 3 * TOKEN - TOKEN / 10);
    });
}

#[test]
fn no_more_is_lost_than_there_is_whatever_is_set_meanwhile() {
    for most in [0, TOKEN] {
        all_orders(3, move || {
            let tokens = Arc::new(Tokens::default());
            tokens.set(3 * TOKEN, TOKEN);
            let others = [0, 1].map(|_| {
                let tokens = tokens.clone();
                thread::spawn(move || tokens.failed())
            });
            tokens.set(most, 0);
            others.into_iter().for_each(|other| other.join().unwrap());
            // One that went by the old number may still be in it, up to the next call.
            tokens.succeeded();
            assert!(tokens.lost() <= most);
        });
    }
}
