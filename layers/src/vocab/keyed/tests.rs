use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::AtomicBool,
};

use proptest::prelude::*;

use super::*;

/// An entry that is busy (limited, open) until told otherwise.
#[derive(Debug, Default)]
struct Entry(AtomicBool);

impl Entry {
    fn busy() -> Self {
        Self(AtomicBool::new(true))
    }

    fn is_busy(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn idle(entry: &Entry) -> bool {
    !entry.is_busy()
}

/// Spreads small numbers over all bits, as a key's hash does.
fn hash(n: u64) -> u64 {
    fastrand::Rng::with_seed(n).u64(..)
}

#[test]
fn a_flood_of_keys_stays_below_the_cap_and_resets_no_limited_key() {
    let keyed = Keyed::new(DEFAULT_CAP, Entry::default());
    let victim = hash(0);
    keyed.get_or_insert(victim, idle, Entry::busy);
    let mut most = 0;
    for n in 1..=1_000_000 {
        keyed.get_or_insert(hash(n), idle, Entry::default);
        most = most.max(keyed.len());
    }
    assert!(most <= DEFAULT_CAP, "{most}");
    assert!(
        keyed
            .get(victim)
            .expect("the limited key is gone")
            .is_busy()
    );
    let stats = keyed.stats();
    assert_eq!(
        stats.len as u64 + stats.evicted + stats.overflowed,
        1_000_001
    );
    // All flooding keys are idle at once, so room is found in time and most get their own entry.
    assert!(stats.overflowed < 100_000, "{stats:?}");

    keyed.sweep(idle);
    assert_eq!(keyed.len(), 1);
    assert!(
        keyed.capacity() <= 4 * MOST_SHARDS,
        "memory is kept: {}",
        keyed.capacity()
    );
}

#[test]
fn keys_beyond_the_cap_share_one_entry_until_there_is_room() {
    let keyed = Keyed::new(10, Entry::default());
    for n in 0..10 {
        keyed.get_or_insert(hash(n), idle, Entry::busy);
    }
    for n in 10..500 {
        let entry = keyed.get_or_insert(hash(n), idle, Entry::busy);
        assert!(Arc::ptr_eq(&entry, keyed.overflow()));
    }
    assert_eq!(
        keyed.stats(),
        KeyedStats {
            len: 10,
            cap: 10,
            evicted: 0,
            overflowed: 490
        }
    );

    keyed.for_each(|_, entry| entry.0.store(false, Ordering::Relaxed));
    let tries = (500..1000)
        .position(|n| {
            let entry = keyed.get_or_insert(hash(n), idle, Entry::busy);
            !Arc::ptr_eq(&entry, keyed.overflow())
        })
        .expect("idle entries were never found");
    // A round over all shards and entries, at two looks per insert.
    assert!(tries <= (FEWEST_SHARDS + 10) / LOOKS_PER_INSERT, "{tries}");
}

#[test]
fn another_cap_is_for_the_keys_to_come() {
    let keyed = Keyed::new(2, Entry::default());
    let own = |n| {
        let entry = keyed.get_or_insert(hash(n), idle, Entry::busy);
        !Arc::ptr_eq(&entry, keyed.overflow())
    };
    assert_eq!([0, 1, 2].map(own), [true, true, false]);
    keyed.set_cap(3);
    assert_eq!([2, 3].map(own), [true, false]);
    keyed.set_cap(1);
    assert_eq!([0, 1, 2, 3].map(own), [true, true, true, false]);
}

#[test]
fn an_entry_that_somebody_holds_is_not_evicted() {
    let keyed = Keyed::new(10, Entry::default());
    let held = keyed.get_or_insert(1, idle, Entry::default);
    keyed.sweep(idle);
    assert!(Arc::ptr_eq(
        &held,
        &keyed.get(1).expect("evicted while in use")
    ));
    drop(held);
    keyed.sweep(idle);
    assert!(keyed.get(1).is_none());
    assert_eq!(keyed.stats().evicted, 1);
}

#[test]
fn without_a_flood_idle_entries_do_not_pile_up() {
    // A thousand live keys at any time, replaced one by one.
    let (live, turns) = (1000, 50_000);
    let keyed = Keyed::new(DEFAULT_CAP, Entry::default());
    let mut entries = std::collections::VecDeque::new();
    for n in 0..turns {
        entries.push_back(keyed.get_or_insert(hash(n), idle, Entry::busy));
        if entries.len() > live {
            entries
                .pop_front()
                .unwrap()
                .0
                .store(false, Ordering::Relaxed);
        }
    }
    assert!(keyed.len() <= 5 * live / 2, "{}", keyed.len());
    assert!(
        keyed.capacity() <= 8 * live + 8 * MOST_SHARDS,
        "{}",
        keyed.capacity()
    );
}

#[test]
fn a_panic_while_making_an_entry_leaves_nothing_behind() {
    let keyed = Keyed::new(1, Entry::default());
    let made = catch_unwind(AssertUnwindSafe(|| {
        keyed.get_or_insert(1, idle, || panic!("no entry today"));
    }));
    assert!(made.is_err());
    assert!(keyed.is_empty());
    let entry = keyed.get_or_insert(1, idle, Entry::busy);
    assert!(!Arc::ptr_eq(&entry, keyed.overflow()));
}

#[test]
fn threads_agree_on_the_entry_of_a_key() {
    let keyed = Keyed::new(64, AtomicU64::new(0));
    let never = |_: &AtomicU64| false;
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let keyed = &keyed;
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                for _ in 0..10_000 {
                    let key = hash(rng.u64(..100));
                    keyed
                        .get_or_insert(key, never, AtomicU64::default)
                        .fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let mut total = keyed.overflow().load(Ordering::Relaxed);
    keyed.for_each(|_, calls| total += calls.load(Ordering::Relaxed));
    assert_eq!(
        total, 40_000,
        "a call was counted on an entry that is not in the map"
    );
    assert_eq!(keyed.len(), 64);
}

proptest! {
    #[test]
    fn it_is_a_map_with_a_cap(
        cap in 1..20_usize,
        ops in proptest::collection::vec((0..40_u64, any::<bool>(), 0..10_u8), 0..300),
    ) {
        let keyed = Keyed::new(cap, Entry::default());
        let mut busy = std::collections::HashSet::new();
        for (n, is_busy, op) in ops {
            if op == 0 {
                keyed.sweep(idle);
            }
            let known = keyed.get(hash(n));
            let entry = keyed.get_or_insert(hash(n), idle, Entry::default);
            prop_assert!(known.is_none_or(|known| Arc::ptr_eq(&known, &entry)));
            if !Arc::ptr_eq(&entry, keyed.overflow()) {
                prop_assert_eq!(entry.is_busy(), busy.contains(&n), "a busy entry was reset");
                entry.0.store(is_busy, Ordering::Relaxed);
                if is_busy { busy.insert(n) } else { busy.remove(&n) };
            }
            prop_assert!(keyed.len() <= cap);
            prop_assert!(busy.iter().all(|n| keyed.get(hash(*n)).is_some()));
        }
        let mut seen = 0;
        keyed.for_each(|_, _| seen += 1);
        prop_assert_eq!(seen, keyed.len());
    }
}
