use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use tokio_test::{assert_pending, assert_ready, task};

use super::*;
use crate::config::in_range;

fn below(limit: u32) -> impl Fn(&u32) -> Result<u32, ConfigError> {
    move |&value| in_range("rate", value, 0..=limit)
}

#[test]
fn a_change_reaches_what_is_derived_from_the_derived() {
    let root = Live::new(1u32);
    let text = root.derive(|value| Ok(value.to_string())).unwrap();
    let length = text.derive(|text| Ok(text.len())).unwrap();

    root.set(100).unwrap();
    assert_eq!((text.get().as_str(), *length.get()), ("100", 3));
    assert_eq!(
        (root.revision(), text.revision(), length.revision()),
        (2, 2, 2)
    );
}

#[test]
fn one_refusal_far_down_leaves_everything_as_it_was() {
    let root = Live::new(1u32);
    let before = root.derive(below(1_000)).unwrap();
    let middle = root.derive(below(1_000)).unwrap();
    let strict = middle.derive(below(10)).unwrap();
    let beside = middle.derive(below(1_000)).unwrap();
    let after = root.derive(below(1_000)).unwrap();

    let refused = root.set(11).unwrap_err();
    assert_eq!(refused.to_string(), "rate: got `11`, expected 0 to 10");
    for live in [&root, &before, &middle, &strict, &beside, &after] {
        assert_eq!((*live.get(), live.revision()), (1, 1));
    }

    root.set(10).unwrap();
    for live in [&root, &before, &middle, &strict, &beside, &after] {
        assert_eq!((*live.get(), live.revision()), (10, 2));
    }
}

#[test]
fn a_panicking_follower_leaves_everything_as_it_was() {
    let root = Live::new(1u32);
    let first = root.derive(below(1_000)).unwrap();
    let _panics = root
        .derive(|&value| if value == 7 { panic!("7") } else { Ok(()) })
        .unwrap();

    let set = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| root.set(7)));
    assert!(set.is_err());
    assert_eq!((*root.get(), *first.get()), (1, 1));
    root.set(8).unwrap();
    assert_eq!((*root.get(), *first.get()), (8, 8));
}

#[test]
fn a_refused_start_value_derives_nothing() {
    let root = Live::new(11u32);
    assert!(root.derive(below(10)).is_err());
    root.set(12).unwrap();
    assert!(root.0.followers.lock().is_empty());
}

#[test]
fn a_derived_value_is_set_through_its_source_only() {
    let root = Live::new(1u32);
    let derived = root.derive(below(10)).unwrap();
    assert!(derived.set(5).is_err());
    assert_eq!((*root.get(), *derived.get()), (1, 1));
}

#[test]
fn dropped_followers_neither_refuse_nor_stay() {
    let root = Live::new(1u32);
    let captured = Arc::new(());
    let strict = {
        let captured = captured.clone();
        root.derive(move |value| {
            let _captured = &captured;
            below(10)(value)
        })
    };
    let clone = strict.unwrap().clone();
    assert!(root.set(11).is_err());

    drop(clone);
    root.set(11).unwrap();
    assert!(root.0.followers.lock().is_empty());
    assert_eq!(
        Arc::strong_count(&captured),
        1,
        "the compiler of a dropped follower is freed"
    );

    for _ in 0..100 {
        drop(root.derive(below(100)).unwrap());
    }
    assert_eq!(
        root.0.followers.lock().len(),
        1,
        "pruned when deriving, too"
    );
}

#[test]
fn a_chain_follows_although_nobody_keeps_its_middle() {
    let root = Live::new(1u32);
    let end = root
        .derive(below(10))
        .unwrap()
        .derive(|value| Ok(value * 2))
        .unwrap();
    root.set(4).unwrap();
    assert_eq!(*end.get(), 8);
}

#[test]
fn a_follower_keeps_its_state_across_a_swap() {
    struct Compiled {
        limit: u32,
        used: Arc<AtomicU64>,
    }
    let root = Live::new(1u32);
    let compiled = root
        .derive_with(|value, previous: Option<&Compiled>| {
            let used = previous.map_or_else(Arc::default, |previous| previous.used.clone());
            below(10)(value).map(|limit| Compiled { limit, used })
        })
        .unwrap();

    compiled.get().used.store(7, Ordering::Relaxed);
    assert!(root.set(11).is_err());
    root.set(2).unwrap();
    let now = compiled.get();
    assert_eq!((now.limit, now.used.load(Ordering::Relaxed)), (2, 7));
}

#[test]
fn what_was_loaded_does_not_change() {
    let root = Live::new(1u32);
    let (pinned, reading) = (root.load_full(), root.get());
    root.set(2).unwrap();
    assert_eq!((*pinned, *reading, *root.get()), (1, 1, 2));
}

/// A call that reads several values must not see one from before a change and another from after it,
/// as long as it does not last over two changes.
#[test]
fn values_of_one_revision_are_read_together() {
    const SETS: u64 = 1_000;
    const READS: u64 = 1_000_000;
    let root = Live::new(1u64);
    let doubled = root.derive(|value| Ok(value * 2)).unwrap();
    let tripled = root.derive(|value| Ok(value * 3)).unwrap();
    let readers = [AtomicU64::new(0), AtomicU64::new(0)];
    let done = AtomicBool::new(false);
    let read = |reads: &AtomicU64| {
        while reads.load(Ordering::Relaxed) < READS / 2 || !done.load(Ordering::Acquire) {
            let revision = root.revision();
            let (double, triple) = (*doubled.get_at(revision), *tripled.get_at(revision));
            assert_eq!((double, triple), (revision * 2, revision * 3), "torn");
            reads.fetch_add(1, Ordering::Release);
        }
    };
    thread::scope(|scope| {
        let running = readers.each_ref().map(|reads| scope.spawn(|| read(reads)));
        for revision in 2..=SETS + 1 {
            root.set(revision).unwrap();
            // The reading that was under way ends, and another one: none lasts over two changes.
            for reads in &readers {
                let before = reads.load(Ordering::Acquire);
                while reads.load(Ordering::Acquire) < before + 2 {
                    assert!(running.iter().all(|reader| !reader.is_finished()));
                    thread::yield_now();
                }
            }
        }
        done.store(true, Ordering::Release);
    });
}

#[test]
fn a_call_goes_on_with_what_it_began_with() {
    let root = Live::new(1u32);
    let derived = root.derive(below(10)).unwrap();
    let began = root.revision();
    root.set(2).unwrap();
    assert_eq!((*derived.get_at(began), *derived.get()), (1, 2));
    assert!(root.set(11).is_err());
    assert_eq!(*derived.get_at(began), 1, "a refused change is none");
    root.set(3).unwrap();
    assert_eq!(*derived.get_at(began), 3, "two changes later it is gone");
    let late = root.derive(below(10)).unwrap();
    assert_eq!(*late.get_at(began), 3);
}

/// Readers in other threads must never see half of a value, nor an older one after a newer one,
/// nor a revision whose value is not there yet.
#[test]
fn concurrent_sets_are_read_whole_and_in_order() {
    const SETS: u64 = 2_000;
    let root = Live::new([0u64; 8]);
    let derived = root.derive(|value| Ok(*value)).unwrap();
    let done = AtomicBool::new(false);

    let read_until_done = |live: &Live<[u64; 8]>| {
        let mut last = 0;
        while !done.load(Ordering::Acquire) {
            let revision = live.revision();
            let value = *live.get();
            assert!(
                value.iter().all(|part| *part == value[0]),
                "torn: {value:?}"
            );
            assert!(value[0] >= last, "went back");
            assert!(
                value[0] + 1 >= revision,
                "value {} at revision {revision}",
                value[0]
            );
            last = value[0];
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| read_until_done(&root));
        scope.spawn(|| read_until_done(&derived));
        for value in 1..=SETS {
            root.set([value; 8]).unwrap();
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!((root.revision(), derived.revision()), (SETS + 1, SETS + 1));
}

#[test]
fn concurrent_sets_leave_source_and_follower_agreeing() {
    let root = Live::new(0u32);
    let derived = root.derive(|value| Ok(*value)).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let root = &root;
            scope.spawn(move || (0..500).for_each(|n| root.set(thread * 1_000 + n).unwrap()));
        }
    });
    assert_eq!(*root.get(), *derived.get());
    assert_eq!(root.revision(), 2_001, "no set was lost");
}

#[test]
fn a_watcher_wakes_for_a_change_and_not_for_a_refusal() {
    let root = Live::new(1u32);
    let derived = root.derive(below(10)).unwrap();
    let mut changes = derived.changes();
    let mut change = task::spawn(changes.changed());
    assert_pending!(change.poll());

    assert!(root.set(11).is_err());
    assert!(!change.is_woken());
    root.set(3).unwrap();
    root.set(4).unwrap();
    assert!(change.is_woken());
    assert_eq!(*assert_ready!(change.poll()), 4);
    drop(change);
    assert_pending!(task::spawn(changes.changed()).poll());
}

#[test]
fn a_plain_value_is_a_live_one_where_one_is_asked_for() {
    fn layer(config: impl Into<Live<u32>>) -> Live<u32> {
        config.into()
    }
    let live = Live::new(1);
    let (given, made) = (layer(live.clone()), layer(2));
    live.set(3).unwrap();
    assert_eq!((*given.get(), *made.get()), (3, 2));
    assert_eq!(format!("{live:?}"), "Live { revision: 2, value: 3 }");
}

#[test]
fn a_reaction_sees_the_new_value_and_no_refused_one() {
    let root = Live::new(1u32);
    let derived = root.derive(below(10)).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (reader, noted) = (Arc::downgrade(&derived.0), seen.clone());
    derived.on_change(move || {
        let reader = Live(reader.upgrade().expect("it is being changed"));
        noted.lock().push((reader.revision(), *reader.get()));
    });
    root.set(7).unwrap();
    root.set(11).unwrap_err();
    root.set(9).unwrap();
    assert_eq!(*seen.lock(), [(2, 7), (3, 9)]);
}
