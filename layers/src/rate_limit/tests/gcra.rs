use std::{num::NonZeroU32, time::Duration};

use proptest::prelude::*;
use tokio::time::{Instant, advance};

use crate::rate_limit::{
    gcra::{Cell, Gcra, TOKEN},
    limit::{Algorithm, Refused},
    rate::Rate,
};

const ONE: NonZeroU32 = NonZeroU32::MIN;

fn limiter(rate: &str, burst: u32) -> Gcra {
    Gcra::new(rate.parse().unwrap(), burst, 0, None, Instant::now())
}

fn admitted(limiter: &Gcra, cell: &Cell, calls: u32) -> u32 {
    (0..calls)
        .filter(|_| limiter.take(cell, ONE).is_ok())
        .count() as u32
}

#[tokio::test(start_paused = true)]
async fn the_burst_passes_at_once_and_then_the_rate() {
    let (limiter, cell) = (limiter("100/s", 20), Cell::default());
    assert_eq!(admitted(&limiter, &cell, 1_000), 20);
    let mut total = 0;
    for _ in 0..1_000 {
        advance(Duration::from_millis(1)).await;
        total += admitted(&limiter, &cell, 10);
    }
    assert!((99..=100).contains(&total), "{total} in a second");
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_exact_enough_to_come_back_after() {
    for rate in ["1/h", "1/s", "50/s", "333/s", "1000000/s"] {
        let (limiter, cell) = (limiter(rate, 1), Cell::default());
        assert_eq!(
            limiter.take(&cell, ONE).map(|taken| limiter.left(&taken)),
            Ok(0)
        );
        let Refused { wait } = limiter.take(&cell, ONE).unwrap_err();
        let period = limiter.time_of(TOKEN).as_secs_f64();
        assert!(
            (wait.as_secs_f64() / period - 1.0).abs() < 0.001,
            "{rate}: {wait:?}"
        );
        // Tokio's paused clock rounds up to whole milliseconds, so go just over.
        advance(wait).await;
        assert!(
            limiter.take(&cell, ONE).is_ok(),
            "{rate}: too early after {wait:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_quota_keeps_the_tokens_left_up_to_the_new_burst() {
    for (used, new_burst, left) in [(15, 100, 5), (15, 3, 3), (20, 100, 0), (18, 20, 2)] {
        let (old, cell) = (limiter("100/s", 20), Cell::default());
        assert_eq!(admitted(&old, &cell, used), used);
        let rate = "7/s".parse().unwrap();
        let new = Gcra::new(rate, new_burst, 0, Some(&old), Instant::now());
        assert_eq!(
            admitted(&new, &cell, 1_000),
            left,
            "{used} used, then burst {new_burst}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_new_quotas_in_a_row_give_nothing_away() {
    let (mut limiter, cell) = (limiter("10/s", 10), Cell::default());
    assert_eq!(admitted(&limiter, &cell, 100), 10);
    let mut total = 0;
    for round in 0..100_u32 {
        let burst = 1 + round * 37 % 50;
        limiter = Gcra::new(
            Rate::per_second(10),
            burst,
            0,
            Some(&limiter),
            Instant::now(),
        );
        advance(Duration::from_millis(10)).await;
        total += admitted(&limiter, &cell, 100);
    }
    assert!(total <= 10, "{total} in a second at 10/s");
}

#[tokio::test(start_paused = true)]
async fn a_full_bucket_is_told_from_a_used_one() {
    let (limiter, cell) = (limiter("10/s", 2), Cell::default());
    assert!(limiter.is_idle(&cell));
    limiter.take(&cell, ONE).unwrap();
    assert!(!limiter.is_idle(&cell));
    advance(Duration::from_millis(101)).await;
    assert!(limiter.is_idle(&cell));
}

/// Failure class R19: many threads, no more than the quota.
#[test]
fn threads_together_get_no_more_than_the_burst() {
    let (limiter, cell) = (limiter("1/h", 1_000), Cell::default());
    let total: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| admitted(&limiter, &cell, 1_000)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(total, 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_call_may_cost_more_than_one_and_gets_it_all_or_not_at_all() {
    let (limiter, cell) = (limiter("10/s", 10), Cell::default());
    let cost = |tokens| NonZeroU32::new(tokens).unwrap();
    assert!(limiter.take(&cell, cost(7)).is_ok());
    let refused = limiter.take(&cell, cost(7)).unwrap_err();
    assert_eq!(refused.wait.as_millis(), 400, "four tokens are missing");
    assert_eq!(admitted(&limiter, &cell, 10), 3, "nothing was taken");
    advance(refused.wait + Duration::from_millis(300)).await;
    assert!(limiter.take(&cell, cost(7)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_can_be_taken_again_and_is_no_more_than_the_burst() {
    let (limiter, cell) = (limiter("1/h", 5), Cell::default());
    assert_eq!(admitted(&limiter, &cell, 10), 5);
    limiter.give_back(&cell, NonZeroU32::new(2).unwrap());
    assert_eq!(admitted(&limiter, &cell, 10), 2);
    limiter.give_back(&cell, NonZeroU32::new(5).unwrap());
    assert!(limiter.is_idle(&cell));
    assert_eq!(admitted(&limiter, &cell, 10), 5);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_queue_are_due_one_after_the_other() {
    let rate = "100/s".parse().unwrap();
    let (limiter, cell) = (Gcra::new(rate, 2, 3, None, Instant::now()), Cell::default());
    let mut waits = Vec::new();
    while let Ok(taken) = limiter.take(&cell, ONE) {
        waits.push((limiter.wait(&taken).as_millis(), limiter.left(&taken)));
    }
    assert_eq!(waits, [(0, 1), (0, 0), (10, 0), (20, 0), (30, 0)]);
    // Half a token later: half a token less to wait.
    advance(Duration::from_millis(15)).await;
    let taken = limiter.take(&cell, ONE).unwrap();
    let wait = limiter.wait(&taken).as_secs_f64();
    assert!((wait - 0.025).abs() < 0.000_1, "{wait}");
}

proptest! {
    /// Against the textbook: a token bucket in floating point, asked at random times.
    #[test]
    fn gcra_is_a_token_bucket(
        per_second in 1_u32..1_000,
        burst in 1_u32..50,
        gaps in proptest::collection::vec(0_u64..50_000, 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let limiter = Gcra::new(Rate::per_second(per_second), burst, 0, None, Instant::now());
            let (cell, mut tokens, mut last) = (Cell::default(), f64::from(burst), Instant::now());
            for gap in gaps {
                advance(Duration::from_micros(gap)).await;
                let elapsed = last.elapsed().as_secs_f64();
                last = Instant::now();
                tokens = (tokens + elapsed * f64::from(per_second)).min(f64::from(burst));
                let passed = limiter.take(&cell, ONE).is_ok();
                // Within a unit of token time either answer is right.
                if (tokens - 1.0).abs() > 0.001 {
                    assert_eq!(passed, tokens > 1.0, "{tokens} tokens");
                }
                if passed {
                    tokens -= 1.0;
                }
            }
        });
    }
}
