//! A breaker that refuses a share of the calls.

use super::*;

fn adaptive(count_local_rejects: bool) -> AdaptiveConfig {
    AdaptiveConfig {
        count_local_rejects,
        ..AdaptiveConfig::default()
    }
}

fn throttle(count_local_rejects: bool) -> CircuitBreakerLayer {
    let builder = CircuitBreakerLayer::builder().adaptive(adaptive(count_local_rejects));
    builder.seed(7).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_down_sees_a_hundred_calls_and_few_more() {
    for (count_local_rejects, most) in [(true, 110), (false, 170)] {
        let layer = throttle(count_local_rejects);
        let peer = Peer::new(|_| status(500));
        let mut service = layer.layer(peer.clone());
        for sent in 0..1_000 {
            call(&mut service).await;
            let refused = layer.handle().stats().rejected;
            assert!(sent >= 100 || refused == 0, "refused as number {sent}");
        }
        assert!((100..=most).contains(&peer.calls()), "{}", peer.calls());
        assert_eq!(state(&layer), BreakerState::Open);
        let breaker = &layer.handle().breakers()[0];
        assert!(breaker.drop_ratio().unwrap() > 0.98);
        // All pass once the window is over, with no timer and no probe.
        advance(Duration::from_secs(3)).await;
        assert_eq!(state(&layer), BreakerState::Closed);
        assert_eq!(call(&mut service).await.status(), 500);
        let stats = layer.handle().stats();
        assert_eq!((stats.opened, stats.half_opened, stats.closed), (1, 0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_succeed_often_enough_all_pass() {
    let layer = throttle(false);
    // Three of five: exactly the 60% that are asked for.
    let peer = Peer::new(|call| status(if call % 5 < 3 { 200 } else { 500 }));
    let mut service = layer.layer(peer.clone());
    for _ in 0..1_000 {
        call(&mut service).await;
    }
    assert!(peer.calls() > 990, "{}", peer.calls());
}

#[tokio::test(start_paused = true)]
async fn an_overload_is_no_success_and_a_cancelled_call_is_nothing() {
    let layer = throttle(false);
    let mut service = layer.layer(Peer::new(|_| status(429)));
    for _ in 0..100 {
        drop(service.call(Request::default()));
    }
    let breaker = &layer.handle().breakers()[0];
    assert_eq!(breaker.failure_rate(), Some((0.0, 0)));
    for _ in 0..100 {
        call(&mut service).await;
    }
    assert_eq!(breaker.failure_rate(), Some((1.0, 100)));
    assert_eq!(state(&layer), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_refuses_the_same_calls() {
    let run = async |seed| {
        let builder = CircuitBreakerLayer::builder().adaptive(adaptive(false));
        let layer = builder.seed(seed).build().unwrap();
        let mut service = layer.layer(Peer::new(|_| status(500)));
        let mut answers = Vec::new();
        for _ in 0..300 {
            let response = call(&mut service).await;
            answers.push(response.status().as_u16());
        }
        answers
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_was_seen_unless_the_window_changes() {
    let with = |adaptive| BreakerConfig {
        adaptive: Some(adaptive),
        ..BreakerConfig::default()
    };
    let live = Live::new(with(adaptive(false)));
    let layer = CircuitBreakerLayer::live(live.clone()).unwrap();
    let mut service = layer.layer(Peer::new(|_| status(500)));
    for _ in 0..50 {
        call(&mut service).await;
    }
    let seen = || layer.handle().breakers()[0].failure_rate().unwrap().1;
    assert_eq!((seen(), state(&layer)), (50, BreakerState::Closed));

    let eager = AdaptiveConfig {
        minimum_calls: 50,
        ..adaptive(false)
    };
    live.set(with(eager)).unwrap();
    assert_eq!((seen(), state(&layer)), (50, BreakerState::Open));
    let longer = AdaptiveConfig {
        window: Duration::from_secs(9),
        ..eager
    };
    live.set(with(longer)).unwrap();
    assert_eq!((seen(), state(&layer)), (0, BreakerState::Closed));
    live.set(BreakerConfig::default()).unwrap();
    assert_eq!(layer.handle().breakers()[0].drop_ratio(), None);
}
