//! Slow, failing, hanging and dead peers under traffic.

use super::*;

const GAP: Duration = ms(5);
const LIMIT: Duration = ms(300);

#[tokio::test(start_paused = true)]
async fn a_peer_ten_times_slower_falls_to_a_third_of_its_share_within_three_seconds() {
    for seed in 0..10 {
        let world = World::of(3, ms(4));
        let balance = world.balance(BalanceConfig::default(), seeded(seed));
        traffic(&balance, GAP, ms(3_000), LIMIT).await;
        world.peer(&id(0)).does(Does::Answer(200, ms(40)));
        let before = world.calls(3);
        traffic(&balance, GAP, ms(3_000), LIMIT).await;
        let after = world.calls(3);
        let took: Vec<_> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let share = took[0] as f64 / took.iter().sum::<u64>() as f64;
        assert!(share <= 1.0 / 9.0, "seed {seed}: {took:?}");
        assert!(took[0] > 0, "it is tried again now and then");
    }
}

#[tokio::test(start_paused = true)]
async fn equal_peers_get_equal_shares() {
    let world = World::of(5, ms(10));
    let balance = world.balance(BalanceConfig::default(), seeded(3));
    traffic(&balance, ms(1), ms(10_000), LIMIT).await;
    for calls in world.calls(5) {
        assert!((1_600..2_400).contains(&calls), "{:?}", world.calls(5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_fails_fast_does_not_look_fast() {
    for seed in 0..10 {
        let world = World::of(3, ms(20));
        world
            .peer(&id(1))
            .does(Does::Answer(500, Duration::from_micros(100)));
        let mut config = BalanceConfig::default();
        config.ejection.consecutive_failures = 0; // the penalty alone must do
        let balance = world.balance(config, seeded(seed));
        traffic(&balance, GAP, ms(5_000), LIMIT).await;
        let calls = world.calls(3);
        let share = calls[1] as f64 / calls.iter().sum::<u64>() as f64;
        assert!(share <= 1.0 / 3.0, "seed {seed}: {calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_peer_is_ejected_within_two_seconds_and_then_gets_one_percent_at_most() {
    for (seed, limit) in [(1, 200), (2, 300), (3, 400), (4, 500), (5, 500), (6, 300)] {
        let world = World::of(3, ms(4));
        let balance = world.balance(BalanceConfig::default(), seeded(seed));
        traffic(&balance, ms(10), ms(2_000), ms(limit)).await;
        world.peer(&id(2)).does(Does::Hang);
        let hung = Instant::now();
        while state_of(&balance, 2) != EndpointState::Ejected {
            traffic(&balance, ms(10), ms(10), ms(limit)).await;
            assert!(hung.elapsed() < ms(2_000), "{limit} ms, seed {seed}");
        }
        let before = world.calls(3);
        traffic(&balance, ms(10), ms(20_000), ms(limit)).await;
        let after = world.calls(3);
        let all: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
        let hung = after[2] - before[2];
        assert!(hung * 100 <= all, "{hung} of {all}");
        assert!(hung > 0, "it is tried again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_503_for_five_seconds_is_out_within_two_and_back_within_ten() {
    for seed in 0..10 {
        let world = World::of(3, ms(4));
        let balance = world.balance(BalanceConfig::default(), seeded(seed));
        traffic(&balance, GAP, ms(1_000), LIMIT).await;
        world.peer(&id(0)).does(Does::Answer(503, ms(1)));
        let start = Instant::now();
        while state_of(&balance, 0) != EndpointState::Ejected {
            traffic(&balance, GAP, GAP, LIMIT).await;
            assert!(start.elapsed() < ms(2_000), "seed {seed}");
        }
        let rest = ms(5_000) - start.elapsed();
        traffic(&balance, GAP, rest, LIMIT).await;
        world.peer(&id(0)).does(Does::Answer(200, ms(4)));
        while state_of(&balance, 0) != EndpointState::Ready {
            traffic(&balance, GAP, GAP, LIMIT).await;
            assert!(start.elapsed() < ms(10_000), "seed {seed}");
        }
        let before = world.calls(3);
        traffic(&balance, GAP, ms(3_000), LIMIT).await;
        let took: Vec<_> = world
            .calls(3)
            .iter()
            .zip(&before)
            .map(|(a, b)| a - b)
            .collect();
        assert!(took[0] >= 100, "its share is back as well: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn ejection_never_takes_more_than_its_cap() {
    let world = World::of(10, ms(4));
    for i in 0..10 {
        world.peer(&id(i)).does(Does::Answer(503, ms(1)));
    }
    let mut config = BalanceConfig::default();
    config.ejection.max_ejected = "30%".parse().unwrap();
    let balance = world.balance(config, seeded(1));
    let mut most = 0;
    for _ in 0..1_000 {
        traffic(&balance, GAP, GAP, LIMIT).await;
        let ejected = balance
            .endpoints()
            .iter()
            .filter(|view| matches!(view.state, EndpointState::Ejected | EndpointState::Trial))
            .count();
        most = most.max(ejected);
        assert!(ejected <= 3);
    }
    assert_eq!(most, 3);
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_all_are_called_equally() {
    let world = World::of(10, ms(4));
    for i in 0..6 {
        world.peer(&id(i)).does(Does::Answer(503, ms(4)));
    }
    let mut config = BalanceConfig::default();
    config.ejection.max_ejected = "90%".parse().unwrap();
    config.ejection.base_time = Duration::from_secs(600);
    config.ejection.max_time = Duration::from_secs(600);
    config.panic_threshold = "50%".parse().unwrap();
    config.penalty = Duration::ZERO; // the penalty would prefer the good ones, as it should
    let balance = world.balance(config, Picker::round_robin());
    while !format!("{balance:?}").contains("panic: true") {
        traffic(&balance, GAP, ms(100), LIMIT).await;
    }
    let before = world.calls(10);
    traffic(&balance, ms(1), ms(10_000), LIMIT).await;
    for (after, before) in world.calls(10).iter().zip(&before) {
        assert!(
            (700..=1_300).contains(&(after - before)),
            "{:?}",
            world.calls(10)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_of_our_own_layers_eject_nobody() {
    let world = World::of(3, ms(1));
    for i in 0..3 {
        world.peer(&id(i)).does(Does::Shed);
    }
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    for _ in 0..1_000 {
        assert_eq!(call(&balance).await.unwrap(), 503);
    }
    for i in 0..3 {
        assert_eq!(state_of(&balance, i), EndpointState::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn one_dead_peer_of_two_costs_no_call() {
    let world = World::of(2, ms(1));
    world.peer(&id(0)).does(Does::Refuse);
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    for _ in 0..1_000 {
        assert_eq!(call(&balance).await.unwrap(), 200);
    }
    assert_eq!(world.calls(2), [0, 1_000]);
    assert_eq!(state_of(&balance, 0), EndpointState::Refused);

    // Long enough for the longest backoff: then it is tried by nobody's call, and used.
    sleep(ms(60_000)).await;
    world.peer(&id(0)).does(Does::Answer(200, ms(1)));
    sleep(ms(10_000)).await;
    assert_eq!(state_of(&balance, 0), EndpointState::Ready);
    for _ in 0..100 {
        assert_eq!(call(&balance).await.unwrap(), 200);
    }
    assert!(world.calls(2)[0] > 20);
}

#[tokio::test(start_paused = true)]
async fn when_all_are_dead_the_error_surfaces_and_they_are_found_again() {
    let world = World::of(3, ms(1));
    for i in 0..3 {
        world.peer(&id(i)).does(Does::Refuse);
    }
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    for _ in 0..10 {
        let error = timeout(ms(100), call(&balance))
            .await
            .expect("no hang")
            .unwrap_err();
        assert!(error.is_unsent());
    }
    for i in 0..3 {
        world.peer(&id(i)).does(Does::Answer(200, ms(1)));
    }
    assert_eq!(call(&balance).await.unwrap(), 200);
    sleep(ms(10_000)).await;
    for i in 0..3 {
        assert_eq!(state_of(&balance, i), EndpointState::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_connection_is_left_for_one_that_is_ready() {
    let world = World::of(2, ms(1));
    world.peer(&id(0)).does(Does::Blackhole);
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let start = Instant::now();
        assert_eq!(call(&balance).await.unwrap(), 200);
        slowest = slowest.max(start.elapsed());
        sleep(ms(20)).await;
    }
    assert!(slowest < ms(60), "{slowest:?}");
    assert_eq!(state_of(&balance, 0), EndpointState::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_connection_refused_in_call_takes_the_peer_out_at_once() {
    let world = World::of(2, ms(1));
    world.peer(&id(0)).does(Does::RefuseInCall);
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    let mut failed = 0;
    for _ in 0..1_000 {
        failed += u32::from(call(&balance).await.is_err());
        sleep(ms(10)).await;
    }
    assert!((1..=12).contains(&failed), "{failed} of 1000 in 10 s");
}

#[tokio::test(start_paused = true)]
async fn overload_moves_calls_elsewhere_and_ejects_nobody() {
    let world = World::of(3, ms(4));
    world.peer(&id(0)).does(Does::Answer(429, ms(1)));
    let balance = world.balance(BalanceConfig::default(), seeded(1));
    for _ in 0..400 {
        traffic(&balance, GAP, GAP, LIMIT).await;
        assert_ne!(state_of(&balance, 0), EndpointState::Ejected);
    }
    let calls = world.calls(3);
    assert!(calls[0] * 6 < calls.iter().sum(), "{calls:?}");
}

/// Under load and with one call at a time, and when the weights change.
#[tokio::test(start_paused = true)]
async fn weights_are_shares_of_the_calls() {
    const CALLS: u32 = 4_000;
    for (picker, gap, tolerance) in [
        (Picker::round_robin(), ms(1), 10),
        (seeded(1), ms(1), 400),
        (seeded(1), ms(10), 200),
    ] {
        let world = World::of(2, ms(4));
        let balance = world.balance(BalanceConfig::default(), picker);
        for (weights, shares) in [([60, 40], [2_400, 1_600]), ([1, 4], [800, 3_200])] {
            let weighted = [0, 1].map(|i| instance(i).with_weight(weights[i]));
            world.publisher.publish(snapshot(weighted));
            traffic(&balance, gap, ms(1_000), LIMIT).await; // the new set is taken up meanwhile
            let before = world.calls(2);
            traffic(&balance, gap, gap * CALLS, LIMIT).await;
            for ((after, before), share) in world.calls(2).iter().zip(before).zip(shares) {
                let got: u64 = after - before;
                assert!(
                    got.abs_diff(share) <= tolerance,
                    "{got} for {share}: {balance:?}"
                );
            }
        }
    }
}
