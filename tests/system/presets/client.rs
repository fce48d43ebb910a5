//! The client preset.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_slots_of_the_client_preset_see_a_call_in_the_documented_order() {
    let log = Log::default();
    let config = ClientConfig {
        deadline: with_deadline(),
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let client = around(&all_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&client, get()).await, OK);
    let seen = [
        ("outermost", false), // the deadline is inside it, and around all else
        ("before_retry", true),
        ("before_breaker", true),
        ("peer", true),
    ];
    assert_eq!(log.take_deadlines(), seen);
}

#[tokio::test(start_paused = true)]
async fn slots_inside_the_retries_see_each_attempt_and_those_outside_each_call() {
    let log = Log::default();
    // An attempt is not a call to the limit either: three of them pass a limit of one.
    let config = ClientConfig {
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let answers = [Answer::status(503), Answer::status(503), Answer::ok()];
    let client = around(&all_slots(&log, &config), log.peer(answers));
    assert_eq!(answer(&client, get()).await, OK);
    let attempt = ["before_breaker", "peer"];
    let seen = [["outermost", "before_retry"], attempt, attempt, attempt];
    assert_eq!(log.take_places(), seen.concat());
}

#[tokio::test(start_paused = true)]
async fn only_slots_around_the_rate_limit_of_a_client_see_what_it_refuses() {
    let log = Log::default();
    let config = ClientConfig {
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let client = around(&all_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&client, get()).await, OK);
    log.take_places();
    assert_eq!(answer(&client, get()).await, TOO_MANY);
    assert_eq!(log.take_places(), ["outermost"]);
}

#[tokio::test(start_paused = true)]
async fn only_slots_around_the_breaker_see_what_it_refuses() {
    let log = Log::default();
    let preset = all_slots(&log, &ClientConfig::default());
    let client = around(&preset, log.peer([Answer::ok()]));
    assert_eq!(answer(&client, get()).await, OK); // from now on its operation has a breaker
    log.take_places();
    preset.breakers().force_open();
    let refused = answer(&client, get()).await;
    assert_eq!(refused.1, Some(Reason::CircuitOpen));
    let seen = log.take_places();
    assert_eq!(seen[..3], ["outermost", "before_retry", "before_breaker"]);
    assert!(!seen.contains(&"peer"), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_client_that_comes_too_late_costs_no_quota() {
    let log = Log::default();
    let config = ClientConfig {
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let client = around(&all_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&client, expired()).await, EXPIRED);
    assert_eq!(log.take_places(), ["outermost"]);
    assert_eq!(answer(&client, get()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn one_deadline_holds_for_all_attempts() {
    let log = Log::default();
    let config = ClientConfig {
        deadline: with_deadline(),
        ..ClientConfig::default()
    };
    let client = around(
        &all_slots(&log, &config),
        log.peer([Answer::status(503), Answer::never()]),
    );
    let start = Instant::now();
    assert_eq!(answer(&client, get()).await, EXPIRED);
    let took = start.elapsed();
    let limits = Duration::from_secs(1)..Duration::from_millis(1_010);
    assert!(limits.contains(&took), "{took:?}");
    let attempt = ["before_breaker", "peer"];
    let seen = [["outermost", "before_retry"], attempt, attempt];
    assert_eq!(log.take_places(), seen.concat());
}

/// The first attempt hangs; the hedge fails, and is retried.
#[tokio::test(start_paused = true)]
async fn a_hedge_is_inside_the_limits_and_its_attempts_are_retried() {
    let log = Log::default();
    let config = ClientConfig {
        hedge: Some(HedgeConfig {
            delay: Duration::from_millis(20).into(),
            extra_load: Ratio::ONE,
            ..HedgeConfig::default()
        }),
        ..ClientConfig::default()
    };
    let answers = [Answer::never(), Answer::status(503), Answer::ok()];
    let client = around(&all_slots(&log, &config), log.peer(answers));
    assert_eq!(answer(&client, get()).await, OK);
    let attempt = ["before_breaker", "peer"];
    let seen = [["outermost", "before_retry"], attempt, attempt, attempt];
    assert_eq!(log.take_places(), seen.concat());
}

#[tokio::test(start_paused = true)]
async fn a_client_preset_with_nothing_configured_passes_everything_on() {
    let log = Log::default();
    let config = ClientConfig {
        registry: None,
        trace: None,
        metrics: None,
        metadata: None,
        deadline: None,
        concurrency_limit: None,
        rate_limit: None,
        route: None,
        hedge: None,
        retry: None,
        circuit_breaker: None,
        body_limit: None,
        balance: BalanceConfig::default(),
    };
    let answers = [
        Answer::ok().body(TestBody::full("as it was")),
        Answer::status(503),
        Answer::fail(ProbeError::reset()),
    ];
    let preset = all_slots(&log, &config);
    let client = around(&preset, log.peer(answers));
    let every = ["outermost", "before_retry", "before_breaker", "peer"];

    let response = client.clone().oneshot(get()).await.unwrap();
    assert_eq!(support::read(response).await.into_body(), "as it was");
    assert_eq!(log.take_places(), every);
    let failed = (StatusCode::SERVICE_UNAVAILABLE, None);
    assert_eq!(answer(&client, get()).await, failed);
    assert_eq!(log.take_places(), every, "nobody tries again");
    // Neither wrapped nor turned into a response: the caller sees its own client's error.
    let error = client.clone().oneshot(get()).await.err().unwrap();
    let error: &ProbeError = error.downcast_ref().unwrap();
    assert_eq!(error.kind(), ProbeError::reset().kind());
    assert_eq!(log.take_places(), every);
}

#[tokio::test(start_paused = true)]
async fn a_call_has_a_span_inside_the_outermost_slot_and_an_attempt_one_around_its_slot() {
    let _listening = listen(tracing_subscriber::registry());
    let log = Log::default();
    let answers = [Answer::status(503), Answer::ok()];
    let client = around(
        &all_slots(&log, &ClientConfig::default()),
        log.peer(answers),
    );
    assert_eq!(answer(&client, get()).await, OK);
    let attempt = [("before_breaker", "attempt"), ("peer", "attempt")];
    let call = [("outermost", ""), ("before_retry", "client")];
    assert_eq!(log.take_spans(), [call, attempt, attempt].concat());

    let config = ClientConfig {
        trace: None,
        ..ClientConfig::default()
    };
    let client = around(&all_slots(&log, &config), log.peer([Answer::ok()]));
    assert_eq!(answer(&client, get()).await, OK);
    assert!(log.take_spans().iter().all(|(_, span)| span.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn metrics_count_calls_and_not_attempts_and_what_the_layers_inside_refuse() {
    let config = ClientConfig {
        rate_limit: one_call(),
        ..ClientConfig::default()
    };
    let log = Log::default();
    let preset = ClientLayer::new("counted", &config).unwrap();
    let client = forget(preset.layer(log.peer([Answer::status(503), Answer::ok()])));
    assert_eq!(answer(&client, expired()).await, EXPIRED);
    assert_eq!(answer(&client, get()).await, OK);
    assert_eq!(answer(&client, get()).await, TOO_MANY);
    for (error, calls) in [
        ("", 1),
        ("DEADLINE_EXCEEDED", 1),
        ("RATE_LIMITED", 1),
        ("503", 0),
    ] {
        let labels = [("server_address", "counted"), ("error_type", error)];
        assert_eq!(counted(CLIENT_CALLS, &labels), calls, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_client_that_finds_no_place_costs_no_quota() {
    let log = Log::default();
    let (concurrency_limit, rate_limit) = one_at_once();
    let config = ClientConfig {
        concurrency_limit,
        rate_limit,
        ..ClientConfig::default()
    };
    let preset = all_slots(&log, &config);
    let client = around(
        &preset,
        log.peer([Answer::ok().body(TestBody::full("until it is read"))]),
    );
    let first = client.clone().oneshot(get()).await.unwrap();
    log.take_places();
    assert_eq!(answer(&client, get()).await, BUSY);
    assert_eq!(log.take_places(), ["outermost"]);
    assert_eq!(preset.concurrency_limits().stats().in_flight, 1);
    drop(first);
    assert_eq!(answer(&client, get()).await, OK);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_too_much_fails_its_breaker() {
    let config = ClientConfig {
        body_limit: Some(BodyLimitConfig {
            response: Some("4".parse().unwrap()),
            ..BodyLimitConfig::default()
        }),
        retry: None,
        ..ClientConfig::default()
    };
    let preset = ClientLayer::new("orders", &config).unwrap();
    let body = TestBody::chunks(["12", "345"]);
    let client = forget(preset.layer(Log::default().peer([Answer::ok().body(body)])));
    let response = client.oneshot(get()).await.unwrap();
    response.into_body().collect().await.unwrap_err();
    assert_eq!(preset.body_limits().stats().responses, 1);
    assert_eq!(preset.breakers().stats().failures, 1);
}
