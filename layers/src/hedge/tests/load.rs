//! How much is added to a peer that is slow altogether, and what the delay follows.

use super::*;

/// Calls one after the other of which each is slow: how many attempts reach the peer.
async fn storm(layer: &HedgeLayer, calls: u32, time: Duration) -> usize {
    let peer = Peer::default();
    let service = layer.layer(peer.service(vec![], vec![After(time, Ok(200))]));
    let start = Instant::now();
    let calls = (0..calls).map(|n| {
        let service = service.clone();
        async move {
            tokio::time::sleep_until(start + n * MS).await;
            assert!(service.oneshot(get()).await.is_ok());
        }
    });
    futures_util::future::join_all(calls).await;
    let attempts = peer.seen.lock().len();
    assert_eq!(peer.dropped.lock().len(), attempts);
    attempts
}

/// R13, and its teeth: with a cap that does not bind the same storm is twice the load.
#[tokio::test(start_paused = true)]
async fn a_slow_peer_gets_at_most_the_cap_on_top() {
    let capped = HedgeLayer::builder().delay(DELAY).build().unwrap();
    let attempts = storm(&capped, 10_000, 300 * MS).await;
    assert!((10_400..=10_500).contains(&attempts), "{attempts}");
    assert!(capped.handle().held_back(HeldBack::ExtraLoad) > 9_000);
    let uncapped = generous().build().unwrap();
    assert_eq!(storm(&uncapped, 10_000, 300 * MS).await, 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_shared_is_drawn_on_and_where_it_is_spent_nothing_is_hedged() {
    let budget = Budget::new();
    budget.set_terms(Some(crate::BudgetTerms::ratio(Ratio::ZERO, 1)));
    let layer = generous().build().unwrap().budget(budget.clone());
    assert_eq!(storm(&layer, 100, 300 * MS).await, 110);
    assert_eq!(budget.remaining(Instant::now()), 0);
    assert_eq!(layer.handle().held_back(HeldBack::Budget), 90);

    // The tokens of a peer that fails.
    budget.set_terms(Some(crate::BudgetTerms::tokens(10, Ratio::percent(10))));
    (0..5).for_each(|_| budget.failed());
    assert_eq!(storm(&layer, 10, 300 * MS).await, 10);
    budget.succeeded();
    assert_eq!(storm(&layer, 10, 300 * MS).await, 20);

    // A cap that is reached leaves the budget to the retries.
    budget.set_terms(Some(crate::BudgetTerms::ratio(Ratio::ZERO, 10)));
    let before = budget.remaining(Instant::now());
    let none = generous().extra_load(Ratio::ZERO).build().unwrap();
    assert_eq!(storm(&none.budget(budget.clone()), 10, 300 * MS).await, 10);
    assert_eq!(budget.remaining(Instant::now()), before);
}

#[tokio::test(start_paused = true)]
async fn a_percentile_follows_what_the_peer_takes() {
    let layer = HedgeLayer::builder()
        .extra_load(Ratio::ONE)
        .build()
        .unwrap();
    let hedges = layer.handle();
    assert_eq!(hedges.delay(), None);
    // Nothing is known of the first, however slow they are.
    assert_eq!(storm(&layer, 99, 300 * MS).await, 99);
    assert_eq!(storm(&layer, 1, 300 * MS).await, 1);
    for time in [20, 200] {
        for _ in 0..30 {
            storm(&layer, 100, time * MS).await;
            tokio::time::sleep(900 * MS).await;
        }
        let delay = hedges.delay().unwrap().as_secs_f64() * 1e3;
        assert!(
            (delay / f64::from(time) - 1.0).abs() < 0.04,
            "{time}: {delay}"
        );
    }
    // One in fifty is slow, and is cut off.
    let peer = Peer::default();
    let times = vec![After(5_000 * MS, Ok(200)), After(20 * MS, Ok(200))];
    let (_, took) = timed(layer.layer(peer.service(vec![], times)).oneshot(get())).await;
    assert!((200 * MS..260 * MS).contains(&took), "{took:?}");
}

/// Attempts that lose would pull the percentile down if they were left out.
#[tokio::test(start_paused = true)]
async fn what_loses_counts_with_the_time_it_had() {
    let layer = HedgeLayer::builder()
        .delay(HedgeDelay::Percentile(Ratio::percent(90)))
        .extra_load(Ratio::ONE)
        .build()
        .unwrap();
    for turn in 0..40_u32 {
        let start = Instant::now();
        for nth in 0..150_u32 {
            // A fifth is slow, and would be without a hedge that is fast.
            let slow = if nth.is_multiple_of(5) {
                400 * MS
            } else {
                10 * MS
            };
            let peer = Peer::default();
            let times = vec![After(slow, Ok(200)), After(10 * MS, Ok(200))];
            _ = layer
                .layer(peer.service(vec![], times))
                .oneshot(get())
                .await;
        }
        tokio::time::sleep_until(start + 10_000 * MS).await;
        if turn > 10 {
            assert!(layer.handle().delay().unwrap() > 100 * MS, "{turn}");
        }
    }
}
