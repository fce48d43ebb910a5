use std::{collections::VecDeque, sync::atomic::Ordering::SeqCst};

use proptest::prelude::*;

use super::*;

#[test]
fn a_failure_that_is_taken_back_before_it_is_added_is_not_a_hundred() {
    // One thread has set its bit and not added it yet; another one laps it with a success.
    let window = CallWindow::new(4);
    (0..4).for_each(|_| window.record(true));
    window.bits[0].fetch_or(1, SeqCst);
    window.record(true);
    assert_eq!(window.sum(), (4, 0));
    window.bad.fetch_add(1, SeqCst);
    assert_eq!(window.sum(), (4, 0));
}

#[test]
fn the_window_counts_on_when_its_tenths_start_again_at_zero() {
    let window = || TimeWindow {
        bucket_us: 1_000,
        shards: Sharded::new(Default::default),
    };
    let wrap = (u64::from(u32::MAX) - 20) * 1_000;
    let busy = window();
    for millis in 0..40 {
        busy.record(wrap + millis * 1_000, false);
        let seen = busy.sum(wrap + millis * 1_000).1;
        assert!((1..=10).contains(&seen), "{seen} after {millis} ms");
    }
    // A thread that comes back after half a round of the numbers, which is weeks.
    let idle = window();
    idle.record(0, false);
    let later = u64::from(u32::MAX) / 20 * 10 * 1_000 + 100_000_000;
    idle.record(later, false);
    assert_eq!(idle.sum(later), (0, 1));
}

proptest! {
    #[test]
    fn the_call_window_is_exact(size in 1_u32..200, calls in proptest::collection::vec(any::<bool>(), 0..600)) {
        let window = CallWindow::new(size.into());
        let mut reference = VecDeque::new();
        for good in calls {
            window.record(good);
            reference.push_back(good);
            if reference.len() > size as usize {
                reference.pop_front();
            }
            let good = reference.iter().filter(|good| **good).count() as u64;
            prop_assert_eq!(window.sum(), (good, reference.len() as u64 - good));
        }
    }

    #[test]
    fn the_time_window_holds_between_nine_and_ten_tenths(
        steps in proptest::collection::vec((0_u64..3_000_000, any::<bool>()), 0..200),
    ) {
        let window = TimeWindow { bucket_us: 1_000_000, shards: Sharded::new(Default::default) };
        let (mut now, mut seen) = (0, Vec::new());
        for (step, good) in steps {
            now += step;
            window.record(now, good);
            seen.push((now, good));
            let count = |span: u64, want: bool| {
                seen.iter().filter(|(at, good)| *at + span > now && *good == want).count() as u64
            };
            let (good, bad) = window.sum(now);
            prop_assert!((count(9_000_000, true)..=count(10_000_000, true)).contains(&good));
            prop_assert!((count(9_000_000, false)..=count(10_000_000, false)).contains(&bad));
        }
    }
}
