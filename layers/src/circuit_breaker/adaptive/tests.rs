//! The cases of kratos' aegis (`circuitbreaker/sre`), and the simulation that decides a default.

use fastrand::Rng;
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000;

fn config(success: u8, minimum_calls: u32) -> AdaptiveConfig {
    AdaptiveConfig {
        success_ratio: Ratio::percent(success),
        minimum_calls,
        ..AdaptiveConfig::default()
    }
}

/// Whether a call is refused for certain: by the lowest random number that there is.
fn refuses(config: &AdaptiveConfig, throttle: &Throttle, now: u64) -> bool {
    config.drop_ratio(throttle.sum(now)) > 0.0
}

fn record(throttle: &Throttle, now: u64, accepts: u32, failures: u32) {
    (0..accepts).for_each(|_| throttle.record(now, true));
    (0..failures).for_each(|_| throttle.record(now, false));
}

#[test]
fn the_drop_ratios_are_those_of_kratos() {
    let golden = [
        // v2: success 0.6, so K = 1.667; 100 calls at least
        (config(60, 100), 99, 0, 0.0),
        (config(60, 100), 100, 0, 0.9901),
        (config(60, 100), 100, 60, 0.0),
        (config(60, 100), 200, 60, 0.4975),
        (config(60, 100), 1_000, 100, 0.8325),
        // v3: failureRatio 0.5, so K = 2; 20 calls at least
        (config(50, 20), 20, 0, 0.9524),
        (config(50, 20), 21, 10, 0.0455),
        (config(50, 20), 100, 10, 0.7921),
    ];
    for (config, total, accepts, expected) in golden {
        let ratio = config.drop_ratio(Sum { total, accepts });
        assert!(
            (ratio - expected).abs() < 5e-5,
            "({total}, {accepts}): {ratio}"
        );
    }
}

#[test]
fn nothing_is_refused_below_the_least_number_of_calls() {
    // aegis 1, 2, 7: request 3 and two failures; request 1 and one failure; 99 of 100.
    for (minimum, failures, refused) in [(3, 2, false), (1, 1, true), (100, 99, false)] {
        let config = config(50, minimum);
        let throttle = Throttle::new(&config);
        record(&throttle, 0, 0, failures);
        assert_eq!(refuses(&config, &throttle, 0), refused, "{minimum}");
    }
}

#[test]
fn the_twentieth_failure_is_the_first_that_costs() {
    // aegis 3, with the defaults of v3.
    let config = config(50, 20);
    let throttle = Throttle::new(&config);
    record(&throttle, 0, 0, 19);
    assert!(!refuses(&config, &throttle, 0));
    record(&throttle, 0, 0, 1);
    assert!(refuses(&config, &throttle, 0));
}

#[test]
fn half_is_enough_and_one_failure_more_is_not() {
    // aegis 4 and 5.
    let config = config(50, 20);
    let throttle = Throttle::new(&config);
    record(&throttle, 0, 10, 10);
    assert!(!refuses(&config, &throttle, 0));
    record(&throttle, 0, 0, 1);
    assert!(refuses(&config, &throttle, 0));

    let successes = Throttle::new(&config);
    for accepts in [80, 120] {
        record(&successes, 0, accepts, 0);
        assert!(!refuses(&config, &successes, 0));
    }
}

#[test]
fn ten_million_failures_are_refused_as_good_as_always() {
    // aegis 6.
    let config = config(50, 100);
    let sum = Sum {
        total: 10_000_100,
        accepts: 100,
    };
    assert!(config.drop_ratio(sum) > 0.9999);
}

#[test]
fn a_window_without_calls_forgets() {
    // aegis 8.
    let config = config(50, 20);
    let throttle = Throttle::new(&config);
    record(&throttle, 0, 0, 100);
    assert!(refuses(&config, &throttle, 2_999_999));
    let (total, accepts) = (0, 0);
    assert_eq!(throttle.sum(3 * SECOND), Sum { total, accepts });
    assert!(!refuses(&config, &throttle, 3 * SECOND));
}

#[test]
fn calls_that_are_spread_are_summed() {
    // aegis 9: five that succeed and five that fail, over half a second.
    let throttle = Throttle::new(&config(50, 20));
    (0..10).for_each(|call| throttle.record(call * 50_000, call % 2 == 0));
    let (total, accepts) = (10, 5);
    assert_eq!(throttle.sum(500_000), Sum { total, accepts });
}

#[test]
fn a_share_of_the_calls_is_refused_as_large_as_the_ratio() {
    // aegis 10, by the formula instead of pi: 1,000 calls of which 100 succeeded.
    let ratio = config(60, 100).drop_ratio(Sum {
        total: 1_000,
        accepts: 100,
    });
    let mut rng = Rng::with_seed(1);
    let refused = (0..100_000).filter(|_| rng.f64() < ratio).count() as f64;
    assert!((refused / 100_000.0 / ratio - 1.0).abs() < 0.05);
}

/// What came of an outage of 20 s, under calls that come at even distances.
#[derive(Debug)]
struct Outage {
    /// Calls that reached the peer while it was down.
    leaked: u64,
    /// Seconds until one in which 99% of the calls passed.
    recovered_after: u64,
}

fn outage(config: &AdaptiveConfig, per_second: u64, seed: u64) -> Outage {
    const DOWN: u64 = 10;
    const UP: u64 = 30;
    const END: u64 = 90;
    let (throttle, mut rng) = (Throttle::new(config), Rng::with_seed(seed));
    let mut leaked = 0;
    for second in 0..END {
        let mut passed = 0;
        for call in 0..per_second {
            let now = second * SECOND + call * SECOND / per_second;
            let down = (DOWN..UP).contains(&second);
            if rng.f64() >= config.drop_ratio(throttle.sum(now)) {
                throttle.record(now, !down);
                passed += 1;
                leaked += u64::from(down);
            } else if config.count_local_rejects {
                throttle.record(now, false);
            }
        }
        if second >= UP && passed * 100 >= per_second * 99 {
            let recovered_after = second - UP + 1;
            return Outage {
                leaked,
                recovered_after,
            };
        }
    }
    panic!("has not recovered after {} s", END - UP)
}

/// The simulation behind the default of `countLocalRejects`: `docs/decisions.md` has the numbers, which
/// `--nocapture` shows.
#[test]
#[allow(clippy::print_stdout, reason = "the numbers are what this is for")]
fn without_local_rejects_all_calls_pass_within_five_seconds_of_recovery() {
    const SEEDS: u64 = 11;
    for (name, base) in [("v2", config(60, 100)), ("v3", config(50, 20))] {
        for per_second in [50, 200, 1_000] {
            let [counted, not] = [true, false].map(|count_local_rejects| {
                let config = AdaptiveConfig {
                    count_local_rejects,
                    ..base
                };
                let mut all: Vec<_> = (0..SEEDS)
                    .map(|seed| outage(&config, per_second, seed))
                    .collect();
                all.sort_by_key(|outage| outage.recovered_after);
                let slowest = all.last().map_or(0, |outage| outage.recovered_after);
                let mut leaked: Vec<_> = all.iter().map(|outage| outage.leaked).collect();
                leaked.sort_unstable();
                let median = SEEDS as usize / 2;
                (leaked[median], all[median].recovered_after, slowest)
            });
            println!(
                "{name} {per_second}/s: counted {counted:?}, not counted {not:?} (leaked, s, slowest)"
            );
            assert!(not.2 <= 5, "{name} at {per_second}/s: {not:?}");
            assert!(counted.1 >= 2 * not.1, "{counted:?} against {not:?}");
            // What it costs: more calls reach the peer while it is down, 30 a second at most.
            let more = not.0 - counted.0;
            assert!(more > 0 && more <= 20 * 30, "{counted:?} against {not:?}");
        }
    }
}

proptest! {
    #[test]
    fn the_ratio_is_one_and_grows_with_failures(
        success in 1_u8..=100, minimum in 1_u32..1_000, accepts in 0_u64..100_000, failures in 0_u64..100_000,
    ) {
        let config = config(success, minimum);
        let ratio = |failures| config.drop_ratio(Sum { total: accepts + failures, accepts });
        prop_assert!((0.0..1.0).contains(&ratio(failures)));
        prop_assert!(ratio(failures + 1) >= ratio(failures));
    }

    /// Against a list of all calls.
    #[test]
    fn the_window_holds_the_buckets_that_are_not_over(
        buckets in 1_u32..12, steps in proptest::collection::vec((0_u64..900_000, any::<bool>()), 0..200),
    ) {
        let config = AdaptiveConfig { buckets, window: Duration::from_secs(1), ..AdaptiveConfig::default() };
        let throttle = Throttle::new(&config);
        let (mut now, mut calls) = (0, Vec::new());
        for (step, accepted) in steps {
            now += step;
            throttle.record(now, accepted);
            calls.push((now / throttle.bucket_us, accepted));
            let current = |(slot, _): &&(u64, bool)| now / throttle.bucket_us - slot < u64::from(buckets);
            let total = calls.iter().filter(current).count() as u64;
            let accepts = calls.iter().filter(current).filter(|(_, accepted)| *accepted).count() as u64;
            prop_assert_eq!(throttle.sum(now), Sum { total, accepts });
        }
    }
}
