//! Models of a tree of live values: all orders in which they can be read while they are set.
//!
//! loom runs the sources themselves, with its atomics in place of the real ones, and a pointer that promises
//! no more than `ArcSwap` does.

use loom::{sync::Arc, thread};

use self::{
    glance::Glance,
    pair::{Pair, Revision, Tagged},
    reading::Reading,
};
use crate::loom_sync::all_orders;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

    pub(super) use crate::loom_sync::{ArcSwap, Guard};
}

#[allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    reason = "the same source over other atomics"
)]
#[path = "glance.rs"]
mod glance;
#[allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    reason = "the same source over other atomics"
)]
#[path = "pair.rs"]
mod pair;
#[allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    reason = "the same source over other atomics"
)]
#[path = "reading.rs"]
mod reading;

/// Two values of one tree, each the number of its revision.
struct Tree {
    revision: Revision,
    root: Pair<u64>,
    derived: Pair<u64>,
}

/// What a glance is taken of.
struct Live<T> {
    revision: Revision,
    value: Pair<T>,
}

fn tagged(revision: u64) -> Tagged<u64> {
    Tagged {
        revision,
        value: revision,
    }
}

// ===== impl Tree =====

impl Tree {
    fn new() -> Self {
        Self {
            revision: Revision::default(),
            root: Pair::new(tagged(1)),
            derived: Pair::new(tagged(1)),
        }
    }

    /// As a set has it, under the lock.
    fn set(&self) {
        let revision = self.revision.get() + 1;
        for pair in [&self.root, &self.derived] {
            pair.store(tagged(revision).into());
        }
        self.revision.next();
    }
}

// ===== impl Live =====

impl<T> Live<T> {
    fn revision(&self) -> u64 {
        self.revision.get()
    }

    fn get(&self) -> Reading<T> {
        Reading(self.value.newest(&self.revision))
    }
}

#[test]
fn who_saw_a_revision_reads_values_of_it_or_of_a_later_one_and_of_none_that_is_not_yet() {
    all_orders(3, || {
        let tree = Arc::new(Tree::new());
        let sets = tree.clone();
        let sets = thread::spawn(move || (0..2).for_each(|_| sets.set()));
        let seen = tree.revision.get();
        for pair in [&tree.derived, &tree.root] {
            let value = pair.newest(&tree.revision).value;
            assert!((seen..=tree.revision.get()).contains(&value));
        }
        sets.join().unwrap();
    });
}

#[test]
fn all_values_of_a_tree_are_of_one_revision_until_it_has_changed_twice() {
    all_orders(3, || {
        let tree = Arc::new(Tree::new());
        let sets = tree.clone();
        let sets = thread::spawn(move || (0..2).for_each(|_| sets.set()));
        let seen = tree.revision.get();
        let root = tree.root.at(seen, &tree.revision).value;
        let derived = tree.derived.at(seen, &tree.revision).value;
        if tree.revision.get() == seen {
            assert_eq!((root, derived), (seen, seen));
        }
        assert!(root >= seen && derived >= seen);
        sets.join().unwrap();
    });
}

#[test]
fn a_glance_shows_no_bits_older_than_the_revision_that_was_seen() {
    all_orders(2, || {
        let live = Live {
            revision: Revision::default(),
            value: Pair::new(tagged(1)),
        };
        let rig = Arc::new((Glance::default(), live));
        let look = |rig: &(Glance, Live<u64>)| {
            let (glance, live) = rig;
            let seen = live.revision();
            let bits = glance.bits(live, |&value| value as u8);
            assert!(u64::from(bits) >= seen);
        };
        let (sets, looks) = (rig.clone(), rig.clone());
        let sets = thread::spawn(move || {
            sets.1.value.store(tagged(2).into());
            sets.1.revision.next();
        });
        let looks = thread::spawn(move || look(&looks));
        look(&rig);
        sets.join().unwrap();
        looks.join().unwrap();
        look(&rig);
    });
}
