use std::time::Duration;

use super::*;
use crate::Ratio;

fn signals(window: Window) -> Signals {
    Signals::new(
        1,
        &BreakerConfig {
            failure_rate: Ratio::percent(50),
            minimum_calls: 4,
            window,
            ..BreakerConfig::default()
        },
    )
}

#[test]
fn a_burst_within_a_microsecond_is_seen() {
    let signals = signals(Window::Time(Duration::from_secs(10)));
    let trips: Vec<_> = (0..4).map(|_| signals.failure(5)).collect();
    assert_eq!(trips, [false, false, false, true]);
}

#[test]
fn failures_slide_out_of_the_window() {
    let signals = signals(Window::Time(Duration::from_secs(10)));
    (0..3).for_each(|_| assert!(!signals.failure(0)));
    // Eleven seconds later those three are gone, and a fourth failure is the only call known.
    assert!(!signals.failure(11_000_000));
    assert_eq!(signals.rate(11_000_000), (1.0, 1));
}

#[test]
fn successes_of_long_ago_do_not_hide_failures() {
    // The flaw of a "window" that only resets on a state change.
    for window in [Window::Calls(100), Window::Time(Duration::from_secs(10))] {
        let signals = signals(window);
        (0..10_000).for_each(|_| signals.success(|| 0));
        let after = (1..=10_000).find(|_| signals.failure(20_000_000)).unwrap();
        assert!(
            after <= 51,
            "{after} failures in a row were not seen over {window:?}"
        );
    }
}

#[test]
fn an_overload_is_in_the_rate_and_not_in_the_row() {
    let signals = Signals::new(
        1,
        &BreakerConfig {
            failure_rate: Ratio::ZERO,
            consecutive_failures: Some(2),
            ..BreakerConfig::default()
        },
    );
    assert!(!signals.failure(0));
    assert!(!signals.overload(0));
    assert!(signals.failure(0));
    signals.success(|| 0);
    assert!(!signals.failure(0));
}

#[test]
fn the_rate_opens_at_exactly_the_percentage_that_was_set() {
    for percent in 1..=100_u8 {
        let signals = Signals::new(
            1,
            &BreakerConfig {
                failure_rate: Ratio::percent(percent),
                minimum_calls: 100,
                ..BreakerConfig::default()
            },
        );
        (percent..100).for_each(|_| signals.success(|| 0));
        let trips = (0..percent).filter(|_| signals.failure(0)).count();
        assert_eq!(trips, 1, "{percent} failures in 100 calls");
    }
}

/// Slow from 100 ms, too many at half of at least four.
fn slow(window: Window) -> Signals {
    let slow_call = SlowCall {
        duration: Duration::from_millis(100),
        rate: Ratio::percent(50),
    };
    Signals::new(
        1,
        &BreakerConfig {
            failure_rate: Ratio::ZERO,
            slow_call: Some(slow_call),
            minimum_calls: 4,
            window,
            ..BreakerConfig::default()
        },
    )
}

#[test]
fn too_many_slow_calls_are_one_too_many() {
    for window in [Window::Calls(100), Window::Time(Duration::from_secs(10))] {
        let signals = slow(window);
        assert!(!signals.took(100_000, 0), "one call is not four");
        assert!(!signals.took(99_999, 0));
        assert!(!signals.took(5, 0));
        assert!(signals.took(100_000, 0), "two of four");
        assert_eq!(signals.slow_rate(0), Some((0.5, 4)));
    }
}

#[test]
fn failures_and_slow_calls_are_counted_apart() {
    let signals = slow(Window::Calls(100));
    (0..100).for_each(|_| assert!(!signals.failure(0)));
    (0..4).for_each(|_| assert!(!signals.took(5, 0)));
    assert_eq!(signals.slow_rate(0), Some((0.0, 4)));
}
