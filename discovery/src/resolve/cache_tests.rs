use proptest::prelude::*;

use super::*;
use crate::resolve::snapshot;

const GRACE: Duration = FailStatic::DEFAULT_GRACE;

fn instances(ids: impl IntoIterator<Item = u8>) -> Snapshot {
    snapshot(
        ids.into_iter()
            .map(|id| Instance::new("orders", format!("{id:03}"))),
    )
}

fn with_down(up: &[u8], down: &[u8]) -> Snapshot {
    let record = |id: &u8, status| Instance::new("orders", format!("{id:03}")).with_status(status);
    let up = up.iter().map(|id| record(id, Status::Up));
    snapshot(up.chain(down.iter().map(|id| record(id, Status::Down))))
}

fn outage() -> ResolveError {
    ResolveError::unavailable("connection refused")
}

/// Rules that believe in ten instances, and the time.
fn ten() -> (FailStatic, Instant) {
    let now = Instant::now();
    let mut rules = FailStatic::new(GRACE, now);
    assert_eq!(
        rules.answer(now, instances(0..10)),
        Verdict::Applied {
            added: 10,
            removed: 0
        }
    );
    (rules, now)
}

fn served(rules: &FailStatic) -> usize {
    rules.served().expect("something is known").len()
}

#[test]
fn an_error_changes_nothing_however_long_it_lasts() {
    let (mut rules, start) = ten();
    let before = rules.served().cloned().unwrap();
    for second in 0..3_600 {
        let now = start + Duration::from_secs(second);
        rules.error(now, outage());
        assert_eq!(rules.tick(now), Verdict::Unchanged);
    }
    assert!(Arc::ptr_eq(rules.served().unwrap(), &before));
    let hour = Duration::from_secs(3_600);
    assert_eq!(rules.health().staleness(start + hour), hour);
    assert!(rules.health().last_error.is_some());

    assert_eq!(
        rules.answer(start + hour, instances(0..10)),
        Verdict::Unchanged
    );
    assert_eq!(rules.health().staleness(start + hour), Duration::ZERO);
    assert!(rules.health().last_error.is_none());
}

#[test]
fn an_empty_answer_is_held_for_the_grace_time_and_then_believed() {
    let (mut rules, start) = ten();
    let held = Verdict::Held {
        answered: 0,
        held: 10,
        began: true,
    };
    assert_eq!(rules.answer(start, instances([])), held);
    assert_eq!((served(&rules), rules.health().held), (10, 10));
    assert_eq!(rules.deadline(), Some(start + GRACE));

    assert_eq!(
        rules.tick(start + GRACE - Duration::from_millis(1)),
        Verdict::Unchanged
    );
    assert_eq!(served(&rules), 10);
    assert_eq!(
        rules.tick(start + GRACE),
        Verdict::Applied {
            added: 0,
            removed: 10
        }
    );
    assert_eq!(
        (served(&rules), rules.health().held, rules.deadline()),
        (0, 0, None)
    );
}

#[test]
fn asking_again_does_not_prolong_a_doubt() {
    let (mut rules, start) = ten();
    rules.answer(start, instances([]));
    let again = rules.answer(start + GRACE / 2, instances([]));
    assert_eq!(
        again,
        Verdict::Held {
            answered: 0,
            held: 10,
            began: false
        }
    );
    rules.answer(start + GRACE, instances([]));
    assert_eq!(served(&rules), 0);
}

#[test]
fn less_than_half_is_doubted_and_half_is_not() {
    let (mut rules, now) = ten();
    rules.answer(now, instances(0..4));
    assert_eq!(served(&rules), 10);
    rules.answer(now, instances(0..5));
    assert_eq!(served(&rules), 5);
}

#[test]
fn one_of_ten_less_is_applied_at_once() {
    let (mut rules, now) = ten();
    assert_eq!(
        rules.answer(now, instances(0..9)),
        Verdict::Applied {
            added: 0,
            removed: 1
        }
    );
}

#[test]
fn a_whole_fleet_replaced_by_an_equal_one_is_applied_at_once() {
    let (mut rules, now) = ten();
    assert_eq!(
        rules.answer(now, instances(10..20)),
        Verdict::Applied {
            added: 10,
            removed: 10
        }
    );
}

#[test]
fn all_that_leave_one_by_one_are_gone_at_once() {
    let (mut rules, mut now) = ten();
    for left in (0..10).rev() {
        now += Duration::from_secs(1);
        let verdict = rules.answer(now, instances(0..left));
        assert_eq!(
            verdict,
            Verdict::Applied {
                added: 0,
                removed: 1
            },
            "{left} left"
        );
    }
    assert_eq!(served(&rules), 0);
}

#[test]
fn the_only_instance_is_held_unless_another_has_just_left_before_it() {
    let start = Instant::now();
    let mut rules = FailStatic::new(GRACE, start);
    rules.answer(start, instances(0..1));
    rules.answer(start, instances([]));
    assert_eq!(served(&rules), 1);

    let mut rules = FailStatic::new(GRACE, start);
    rules.answer(start, instances(0..2));
    rules.answer(start, instances(0..1));
    rules.answer(start + GRACE, instances([]));
    assert_eq!(served(&rules), 1, "the other one left long ago");
}

#[test]
fn a_record_that_says_down_is_obeyed_at_once() {
    let (mut rules, now) = ten();
    let all: Vec<u8> = (0..10).collect();
    let verdict = rules.answer(now, with_down(&[], &all));
    assert_eq!(
        verdict,
        Verdict::Applied {
            added: 0,
            removed: 10
        }
    );

    let (mut rules, now) = ten();
    rules.answer(now, with_down(&[], &[3]));
    assert_eq!(
        (served(&rules), rules.health().held),
        (9, 9),
        "the rest is only missing"
    );
}

#[test]
fn additions_out_of_a_doubted_answer_are_served() {
    let (mut rules, now) = ten();
    rules.answer(now, instances([20]));
    assert_eq!(served(&rules), 11);
    rules.tick(now + GRACE);
    assert_eq!(served(&rules), 1);
}

#[test]
fn an_error_starts_the_doubt_anew() {
    let (mut rules, start) = ten();
    rules.answer(start, instances([]));
    rules.error(start + GRACE / 2, outage());
    assert_eq!(rules.tick(start + 10 * GRACE), Verdict::Unchanged);
    // A registry that comes back empty, long after: a restart without its data looks like this.
    rules.answer(start + 10 * GRACE, instances([]));
    assert_eq!(served(&rules), 10);
    assert_eq!(rules.deadline(), Some(start + 11 * GRACE));
}

#[test]
fn a_saved_set_is_served_until_the_first_answer_and_defended_like_any() {
    let now = Instant::now();
    let mut rules = FailStatic::new(GRACE, now);
    let age = Duration::from_secs(600);
    rules.boot(now, instances(0..10), age);
    assert_eq!(served(&rules), 10);
    assert_eq!(rules.health().staleness(now + GRACE), age + GRACE);
    rules.answer(now, instances([]));
    assert_eq!(served(&rules), 10);

    let (mut rules, now) = ten();
    assert_eq!(rules.boot(now, instances(20..30), age), Verdict::Unchanged);
}

#[test]
fn a_service_that_is_known_to_be_empty_is_not_unknown() {
    let now = Instant::now();
    let mut rules = FailStatic::new(GRACE, now);
    assert!(rules.served().is_none());
    assert_eq!(
        rules.health().staleness(now + GRACE),
        GRACE,
        "nothing is confirmed yet"
    );
    rules.answer(now, instances([]));
    assert_eq!(served(&rules), 0);
}

#[test]
fn unchanged_instances_keep_their_arc_and_changed_ones_do_not() {
    let (mut rules, now) = ten();
    let before = rules.served().cloned().unwrap();
    let mut records: Vec<Instance> = instances(0..10).iter().map(|i| (**i).clone()).collect();
    records[4].weight = 7;
    records.reverse();
    let verdict = rules.answer(now, records.into_iter().map(Arc::new).collect());
    assert_eq!(
        verdict,
        Verdict::Applied {
            added: 0,
            removed: 0
        }
    );
    let after = rules.served().unwrap();
    for (i, (old, new)) in before.iter().zip(&**after).enumerate() {
        assert_eq!(Arc::ptr_eq(old, new), i != 4);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Answer {
        up: BTreeSet<u8>,
        down: BTreeSet<u8>,
    },
    Error,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let ids = || prop::collection::btree_set(0..12_u8, 0..12);
    let few = || prop::collection::btree_set(0..12_u8, 0..3);
    prop_oneof![
        4 => (ids(), few()).prop_map(|(up, down)| Step::Answer { up, down }),
        1 => Just(Step::Error),
        2 => (0..40_u64).prop_map(Step::Wait),
    ]
}

fn ids(set: &Snapshot) -> BTreeSet<u8> {
    set.iter()
        .map(|instance| instance.id.parse().unwrap())
        .collect()
}

proptest! {
    /// The rules, said a second time and from outside: who may be missing, and when.
    #[test]
    fn whatever_a_registry_says_nobody_is_lost_without_a_reason(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut now = Instant::now();
        let mut rules = FailStatic::new(GRACE, now);
        // The answers since the last error that were all too small, and since when.
        let mut doubted_since: Option<Instant> = None;
        let mut singles: Option<Instant> = None;
        for step in steps {
            let before = rules.served().cloned().unwrap_or_else(|| instances([]));
            let believed = rules.believed.as_ref().map(ids).unwrap_or_default();
            match step {
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    rules.tick(now);
                    if doubted_since.is_some_and(|since| since + GRACE <= now) {
                        doubted_since = None;
                        prop_assert_eq!(rules.health().held, 0, "a doubt ends");
                    } else if let Some(served) = rules.served() {
                        prop_assert!(Arc::ptr_eq(served, &before) , "time alone does nothing else");
                    }
                }
                Step::Error => {
                    rules.error(now, outage());
                    doubted_since = None;
                    prop_assert_eq!(rules.served().map(ids).unwrap_or_default(), ids(&before));
                    prop_assert!(rules.health().stale_since.is_some());
                }
                Step::Answer { mut up, down } => {
                    up.retain(|id| !down.contains(id));
                    let up_list: Vec<u8> = up.iter().copied().collect();
                    let down_list: Vec<u8> = down.iter().copied().collect();
                    rules.answer(now, with_down(&up_list, &down_list));
                    let base: BTreeSet<u8> = believed.difference(&down).copied().collect();
                    let served = rules.served().cloned().unwrap();
                    let one_gone = up.is_subset(&base) && base.len() == up.len() + 1;
                    let run = singles.is_some_and(|at| now < at + GRACE);
                    let stood = doubted_since.is_some_and(|since| since + GRACE <= now);
                    if up.len() * 2 < base.len() && !(one_gone && run) && !stood {
                        doubted_since.get_or_insert(now);
                        prop_assert_eq!(ids(&served), up.union(&base).copied().collect());
                        prop_assert!(rules.health().stale_since.is_some());
                    } else {
                        doubted_since = None;
                        prop_assert_eq!(ids(&served), up.clone());
                        prop_assert!(rules.health().stale_since.is_none());
                        if up != base {
                            singles = one_gone.then_some(now);
                        }
                    }
                    prop_assert!(ids(&served).is_disjoint(&down));
                    prop_assert!(served.is_sorted_by(|a, b| a.id < b.id));
                    for old in before.iter() {
                        let same = served.iter().find(|new| new == &old);
                        prop_assert!(same.is_none_or(|new| Arc::ptr_eq(old, new)));
                    }
                }
            }
        }
    }
}
