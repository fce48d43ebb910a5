use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    failures: 5,
    timeouts: 3,
    base_ms: 3_000,
    max_ms: 60_000,
    refused_max_ms: 10_000,
    probation_ms: 10_000,
};

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

fn eject(health: &mut Health, now: u64) -> u64 {
    health.take_out(Cause::Ejected, now, &POLICY, &mut rng())
}

#[test]
fn five_failures_or_three_timeouts_in_a_row_condemn() {
    for (timeout, limit) in [(false, 5), (true, 3)] {
        let mut health = Health::new();
        for n in 1..limit {
            assert_eq!(health.failure(timeout, 0, &POLICY), Verdict::Stay, "{n}");
        }
        assert_eq!(health.failure(timeout, 0, &POLICY), Verdict::Condemned);
    }
}

#[test]
fn a_success_between_starts_the_count_anew() {
    let mut health = Health::new();
    for _ in 0..20 {
        for _ in 0..4 {
            assert_eq!(health.failure(false, 0, &POLICY), Verdict::Stay);
        }
        assert_eq!(health.success(0, 0), Verdict::Stay);
    }
    assert!(!health.is_troubled());
}

#[test]
fn it_returns_by_one_trial_and_stays_out_longer_when_that_fails() {
    let mut health = Health::new();
    assert_eq!(eject(&mut health, 1_000), 4_000);
    assert_eq!(health.due(3_999, &POLICY), Due::Stale);
    assert_eq!(health.due(4_000, &POLICY), Due::Trial(14_000));
    assert_eq!(health.due(4_001, &POLICY), Due::Stale, "one call, not two");
    assert_eq!(health.failure(true, 4_000, &POLICY), Verdict::Condemned);
    assert_eq!(eject(&mut health, 5_000), 11_000);
    assert_eq!(health.due(11_000, &POLICY), Due::Trial(21_000));
    assert_eq!(health.success(11_000, 11_001), Verdict::Returned);
    assert_eq!(health.standing(), Standing::In);
}

#[test]
fn calls_from_before_it_was_taken_out_change_nothing() {
    let mut health = Health::new();
    let _ = eject(&mut health, 1_000);
    assert_eq!(health.success(999, 1_001), Verdict::Stay);
    assert_eq!(health.failure(false, 999, &POLICY), Verdict::Stay);
    let _ = health.due(4_000, &POLICY);
    assert_eq!(health.failure(false, 999, &POLICY), Verdict::Stay);
    assert!(matches!(health.standing(), Standing::Trial { .. }));
}

#[test]
fn a_later_success_brings_it_back_when_it_was_called_all_the_same() {
    let mut health = Health::new();
    let _ = eject(&mut health, 1_000);
    assert_eq!(health.success(1_001, 1_002), Verdict::Returned);
}

#[test]
fn good_behaviour_is_forgiven() {
    let mut health = Health::new();
    for n in 1..=4 {
        assert_eq!(eject(&mut health, 0), n * 3_000);
    }
    assert_eq!(health.success(1, 10), Verdict::Returned);
    // Three stretches of 6 s take three of the four back.
    assert_eq!(eject(&mut health, 18_010), 18_010 + 2 * 3_000);
}

#[test]
fn a_trial_that_is_a_stream_returns_after_probation_and_a_silent_one_does_not() {
    for answered in [true, false] {
        let mut health = Health::new();
        let until = eject(&mut health, 0);
        let Due::Trial(again) = health.due(until, &POLICY) else {
            panic!("due for a trial")
        };
        if answered {
            health.trial_answered();
        }
        let want = if answered {
            Due::Returned
        } else {
            Due::Trial(again + 10_000)
        };
        assert_eq!(health.due(again, &POLICY), want);
    }
}

#[test]
fn a_cancelled_trial_is_made_again_no_later_than_the_first() {
    let mut health = Health::new();
    let until = eject(&mut health, 0);
    assert_eq!(health.due(until, &POLICY), Due::Trial(13_000));
    assert_eq!(health.trial_abandoned(3_100, &POLICY), Some(6_100));
    assert_eq!(health.due(6_100, &POLICY), Due::Trial(16_100));
}

#[test]
fn the_share_is_counted_after_the_ejection() {
    assert!(
        may_eject(0, 3, 0),
        "one of three, though 10% of three is none"
    );
    assert!(!may_eject(1, 3, 1));
    assert!(may_eject(2, 10, 3));
    assert!(!may_eject(3, 10, 3));
    assert!(!may_eject(0, 1, 1), "the last one stays");
    assert!(!may_eject(1, 2, 2));
}

#[test]
fn a_penalty_grows_where_ejection_was_not_allowed() {
    let ms = Duration::from_millis;
    let at = |consecutive| penalty(ms(100), consecutive, 5, ms(3_000));
    assert_eq!(
        [at(1), at(5), at(6), at(7)],
        [ms(100), ms(100), ms(200), ms(400)]
    );
    assert_eq!(at(1_000), ms(3_000));
}

#[derive(Debug, Clone)]
enum Event {
    Success,
    Failure(bool),
    Refused,
    Due,
    Reachable,
    Abandoned,
}

proptest! {
    #[test]
    fn the_cap_holds_for_every_size(all in 1_usize..200, allowed in 0_usize..200) {
        let mut ejected = 0;
        while may_eject(ejected, all, allowed) {
            ejected += 1;
        }
        prop_assert!(ejected < all);
        prop_assert!(ejected <= allowed.max(1));
    }

    #[test]
    fn whatever_happens_it_is_due_in_time_and_a_later_success_brings_it_back(
        events in prop::collection::vec(
            (prop_oneof![
                Just(Event::Success),
                Just(Event::Failure(false)),
                Just(Event::Failure(true)),
                Just(Event::Refused),
                Just(Event::Due),
                Just(Event::Reachable),
                Just(Event::Abandoned),
            ], 0_u64..5_000),
            0..200,
        ),
    ) {
        let (mut health, mut rng, mut now) = (Health::new(), rng(), 1);
        for (event, step) in events {
            now += step;
            match event {
                Event::Success => drop(health.success(now, now)),
                Event::Failure(timeout) => {
                    if health.failure(timeout, now, &POLICY) == Verdict::Condemned {
                        let until = health.take_out(Cause::Ejected, now, &POLICY, &mut rng);
                        prop_assert!(until > now && until - now <= POLICY.max_ms);
                    }
                }
                Event::Refused => {
                    let until = health.take_out(Cause::Refused, now, &POLICY, &mut rng);
                    prop_assert!(until - now <= POLICY.refused_max_ms);
                }
                Event::Due => drop(health.due(now, &POLICY)),
                Event::Reachable => drop(health.reachable(now)),
                Event::Abandoned => drop(health.trial_abandoned(now, &POLICY)),
            }
            if let Standing::Out { until, .. } = health.standing() {
                prop_assert!(until <= now + POLICY.max_ms);
            }
        }
        let _ = health.success(now + 1, now + 1);
        prop_assert_eq!(health.standing(), Standing::In);
        prop_assert!(!health.is_troubled());
    }
}
