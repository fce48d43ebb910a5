//! The cases of go-chassis' bizkeeper, in its words.

use super::*;

fn parse(hystrix: &str) -> BreakerConfig {
    let config = format!(r#"{{"hystrix": {hystrix}}}"#);
    serde_json::from_str(&config).unwrap()
}

/// What each of a sequence of calls got, where the peer answers as told.
async fn answers(config: BreakerConfig, peer: &Peer, calls: u32) -> Vec<u16> {
    let layer = layer(config);
    let mut service = layer.layer(peer.clone());
    let mut answers = Vec::new();
    for _ in 0..calls {
        answers.push(call(&mut service).await.status().as_u16());
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn the_call_after_the_volume_is_refused_without_reaching_the_peer() {
    // Case 39: with a volume of 20, 19 failures leave it closed; the 21st call is refused.
    let peer = Peer::new(|_| status(500));
    let answers = answers(parse("{}"), &peer, 21).await;
    assert_eq!(answers[..20], [500; 20]);
    assert_eq!((answers[20], peer.calls()), (503, 20));
}

#[tokio::test(start_paused = true)]
async fn forty_failures_of_a_hundred_are_over_39_and_under_41() {
    // Case 36; and that it rounds: 39.5 is 40.
    for (percentage, failures_of_200, opens) in [
        (39, 80, true),
        (41, 80, false),
        (40, 79, true),
        (40, 78, false),
    ] {
        let layer = layer(parse(&format!(
            r#"{{"requestVolumeThreshold": 200, "errorThresholdPercentage": {percentage}}}"#
        )));
        let good = 200 - failures_of_200;
        let mut service = layer.layer(Peer::new(move |n| status(if n < good { 200 } else { 500 })));
        for _ in 0..200 {
            call(&mut service).await;
        }
        let is_open = state(&layer) == BreakerState::Open;
        assert_eq!(is_open, opens, "{failures_of_200} of 200, {percentage}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_each_sleep_window_one_call_passes() {
    // Case 40: a failed probe starts another sleep window, which is as long; a good one starts afresh.
    let layer = layer(parse(
        r#"{"requestVolumeThreshold": 1, "sleepWindowInMilliseconds": 100}"#,
    ));
    let peer = Peer::new(|call| status(if call < 4 { 500 } else { 200 }));
    let mut service = layer.layer(peer.clone());
    call(&mut service).await;
    for probes in 1..4 {
        advance(Duration::from_millis(99)).await;
        assert_eq!(call(&mut service).await.status(), 503);
        advance(Duration::from_millis(1)).await;
        assert_eq!(call(&mut service).await.status(), 500);
        assert_eq!(call(&mut service).await.status(), 503);
        assert_eq!(peer.calls(), 1 + probes);
    }
    advance(Duration::from_millis(100)).await;
    for _ in 0..10 {
        assert_eq!(call(&mut service).await.status(), 200);
    }
    let breaker = &layer.handle().breakers()[0];
    // The probe itself is not in the window that starts with it.
    assert_eq!(breaker.failure_rate(), Some((0.0, 9)));
}

#[tokio::test(start_paused = true)]
async fn the_flags_count_in_their_order() {
    // Case 42.
    let failing = Peer::new(|_| status(500));
    for (flags, expected) in [
        (r#"{"forceOpen": true}"#, [503; 40]),
        (r#"{"forceClosed": true}"#, [500; 40]),
        (r#"{"forceOpen": true, "forceClosed": true}"#, [503; 40]),
        (r#"{"enabled": false}"#, [500; 40]),
        (r#"{"enabled": false, "forceOpen": true}"#, [500; 40]),
    ] {
        let answers = answers(parse(flags), &failing, 40).await;
        assert_eq!(answers, expected, "{flags}");
    }
}

#[test]
fn a_zero_is_the_default_and_a_service_stands_over_its_role() {
    // Case 44.
    let block = |sleep: Option<u32>, volume: Option<u32>, percentage: Option<u8>| HystrixConfig {
        sleep_window_in_milliseconds: sleep,
        request_volume_threshold: volume,
        error_threshold_percentage: percentage,
        ..HystrixConfig::default()
    };
    let sees = |hystrix: HystrixConfig| {
        let config = BreakerConfig::from(&hystrix);
        let percentage = config.failure_rate.as_f64() * 100.0 + 0.5;
        (
            config.open_time.as_millis(),
            config.minimum_calls,
            percentage.round() as u8,
        )
    };
    let role = block(Some(10_000), Some(30), Some(30));
    let service = block(Some(1_000), Some(3), Some(3));
    let zero = block(Some(0), Some(0), Some(0));
    let absent = HystrixConfig::default();
    assert_eq!(sees(service.over(&role)), (1_000, 3, 3));
    assert_eq!(sees(absent.over(&role)), (10_000, 30, 30));
    assert_eq!(sees(zero.over(&role)), (10_000, 30, 30));
    assert_eq!(sees(absent.over(&zero)), (15_000, 20, 50));
    assert_eq!(sees(absent), (15_000, 20, 50));
    // The flags are those of the service's block, wholesale.
    let forced = HystrixConfig {
        force_open: Some(true),
        ..HystrixConfig::default()
    };
    assert_eq!(BreakerConfig::from(&forced).force, Some(Force::Open));
    let under = HystrixConfig::default().over(&forced);
    assert_eq!(BreakerConfig::from(&under).force, None);
}

#[test]
fn what_becomes_of_any_block_is_valid() {
    for percentage in 0..=100 {
        for sleep in [0, 1, 3_600_000] {
            let hystrix = HystrixConfig {
                error_threshold_percentage: Some(percentage),
                sleep_window_in_milliseconds: Some(sleep),
                ..HystrixConfig::default()
            };
            hystrix.validate().unwrap();
            BreakerConfig::from(&hystrix).validate().unwrap();
        }
    }
}

#[tokio::test]
async fn a_hundred_calls_at_once_make_one_breaker() {
    // Case 38.
    let layer = layer(BreakerConfig {
        key: Some(Key::operation()),
        ..parse("{}")
    });
    let calls = (0..100).map(|_| {
        let mut service = layer.layer(Peer::new(|_| status(200)));
        tokio::spawn(async move { call(&mut service).await.status() })
    });
    futures_util::future::join_all(calls).await;
    // It, and the one for keys above the cap.
    assert_eq!(layer.handle().breakers().len(), 2);
}
