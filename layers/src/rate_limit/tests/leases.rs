use std::{num::NonZeroU32, thread, time::Duration};

use proptest::prelude::*;
use tokio::time::{Instant, advance};

use crate::rate_limit::{
    leases::{Leased, Leases},
    limit::Algorithm,
};

const ONE: NonZeroU32 = NonZeroU32::MIN;

fn leased(rate: &str, burst: u32) -> Leased {
    Leased::new(rate.parse().unwrap(), burst, None, Instant::now())
}

fn admitted(leased: &Leased, leases: &Leases, calls: u32) -> u32 {
    (0..calls)
        .filter(|_| leased.take(leases, ONE).is_ok())
        .count() as u32
}

#[test]
fn threads_together_get_the_burst_and_no_token_is_left_with_one_of_them() {
    let (leased, leases) = (leased("1/h", 1_000), Leases::default());
    assert!(leased.batch > 0);
    let total: u32 = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| admitted(&leased, &leases, 1_000)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(total, 1_000);
}

#[tokio::test(start_paused = true)]
async fn what_a_thread_holds_over_a_pause_is_at_most_half_a_burst() {
    let (leased, leases) = (leased("100/s", 100), Leases::default());
    leased.take(&leases, ONE).unwrap(); // and a batch
    advance(Duration::from_secs(60)).await;
    let total = admitted(&leased, &leases, 1_000);
    assert!((101..=150).contains(&total), "{total}");
    assert_eq!(total, 100 + leased.batch);
}

#[tokio::test(start_paused = true)]
async fn a_burst_too_small_to_share_is_exact() {
    let (leased, leases) = (leased("100/s", 1), Leases::default());
    assert_eq!(leased.batch, 0);
    assert_eq!(admitted(&leased, &leases, 10), 1);
}

#[tokio::test(start_paused = true)]
async fn another_quota_takes_what_threads_hold() {
    let (first, leases) = (leased("1/h", 100), Leases::default());
    first.take(&leases, ONE).unwrap();
    let rate = "1/h".parse().unwrap();
    let second = Leased::new(rate, 10, Some(&first), Instant::now());
    leases.forget();
    assert_eq!(admitted(&second, &leases, 1_000), 10);
}

proptest! {
    /// In any span: what GCRA has in it, and half a burst.
    #[test]
    fn no_span_has_more_than_half_a_burst_too_many(
        burst in 1_u32..200,
        steps in proptest::collection::vec((0_u64..300, 0_u32..60), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (leased, leases) = (leased("100/s", burst), Leases::default());
            let start = Instant::now();
            let mut passed: Vec<(f64, u32)> = Vec::new();
            for (gap, calls) in steps {
                advance(Duration::from_millis(gap)).await;
                let now = start.elapsed().as_secs_f64();
                passed.push((now, admitted(&leased, &leases, calls)));
                let mut sum = 0;
                for (at, count) in passed.iter().rev() {
                    sum += count;
                    let most = (now - at) * 100.0 + 1.5 * f64::from(burst) + 1.0;
                    prop_assert!(f64::from(sum) <= most, "{sum} > {most}");
                }
            }
            Ok(())
        })?;
    }
}
