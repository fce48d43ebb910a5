//! What the configuration says of all breakers, and what the metrics say of each.

use super::*;
use crate::metrics;

fn forced(force: Option<Force>) -> BreakerConfig {
    BreakerConfig {
        force,
        ..consecutive(2)
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_is_forced_by_its_options_learns_nothing_and_forgets_nothing() {
    let live = Live::new(forced(None));
    let layer = CircuitBreakerLayer::live(live.clone()).unwrap();
    let peer = Peer::new(|_| status(500));
    let mut service = layer.layer(peer.clone());
    call(&mut service).await;

    live.set(forced(Some(Force::Closed))).unwrap();
    for _ in 0..10 {
        assert_eq!(call(&mut service).await.status(), 500);
    }
    assert_eq!(state(&layer), BreakerState::ForcedClosed);
    live.set(forced(Some(Force::Open))).unwrap();
    let refused = call(&mut service).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().get("retry-after").is_none());
    assert_eq!(state(&layer), BreakerState::ForcedOpen);

    live.set(forced(None)).unwrap();
    assert_eq!(state(&layer), BreakerState::Closed, "one failure was seen");
    assert_eq!(call(&mut service).await.status(), 500);
    assert_eq!(state(&layer), BreakerState::Open, "and this is the second");
    assert_eq!(peer.calls(), 12);
    assert_eq!(layer.handle().stats().failures, 12);
}

#[tokio::test(start_paused = true)]
async fn what_is_forced_by_hand_stands_above_the_options() {
    let layer = layer(forced(Some(Force::Open)));
    let breaker = &layer.handle().breakers()[0];
    let mut service = layer.layer(Peer::new(|_| status(200)));
    assert_eq!(call(&mut service).await.status(), 503);
    breaker.force_closed();
    assert_eq!(call(&mut service).await.status(), 200);
    breaker.reset();
    assert_eq!(call(&mut service).await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn the_metrics_say_which_operation_is_cut_off() {
    let layer = layer(BreakerConfig {
        key: Some(Key::operation()),
        name: "state-per-key".into(),
        ..consecutive(1)
    });
    let grpc = async |method: &str, code| {
        let request = Request::post(method).header("content-type", "application/grpc");
        let request = request.body(Empty::new()).unwrap();
        let service = layer.layer(Peer::new(move |_| grpc_stream(code)));
        let response = service.oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    };
    grpc("/shop.Orders/Get", grpc::Code::OK).await;
    grpc("/shop.Orders/Put", grpc::Code::UNAVAILABLE).await;
    let seen = metrics::snapshot();
    let state = |key, state| {
        let labels = [("policy", "state-per-key"), ("key", key), ("state", state)];
        seen.gauge("mesh_breaker_state", &labels)
    };
    for (key, open) in [("/shop.Orders/Get", 0.0), ("/shop.Orders/Put", 1.0)] {
        assert_eq!(state(key, "open"), Some(open), "{key}");
        assert_eq!(state(key, "half_open"), Some(0.0), "{key}");
    }
    let opened = [("policy", "state-per-key"), ("to", "open")];
    assert_eq!(
        seen.counter("mesh_breaker_transitions_total", &opened),
        Some(1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_callers_making_is_no_label() {
    let layer = layer(BreakerConfig {
        key: Some(Key::header("x-tenant").unwrap()),
        name: "no-state-per-key".into(),
        ..consecutive(1)
    });
    call(&mut layer.layer(Peer::new(|_| status(500)))).await;
    let seen = metrics::snapshot();
    let of_this_layer = seen.iter().filter(|sample| {
        let ours = |label: &(_, _)| *label == ("policy", "no-state-per-key");
        sample.name == "mesh_breaker_state"
            && sample
                .labels
                .iter()
                .map(|(n, v)| (*n, &**v))
                .any(|label| ours(&label))
    });
    assert_eq!(of_this_layer.count(), 0);
}

#[test]
fn a_policy_and_an_option_that_it_would_ignore_are_refused() {
    use failsafe::{backoff, failure_policy::consecutive_failures};
    let builder = || {
        let policy = || consecutive_failures(3, backoff::constant(Duration::from_secs(30)));
        CircuitBreakerLayer::builder().policy(policy)
    };
    let slow = builder().slow_calls(Duration::from_secs(1), Ratio::ONE);
    assert_eq!(slow.build().unwrap_err().path(), "slowCall");
    let adaptive = builder().adaptive(AdaptiveConfig::default());
    assert_eq!(adaptive.build().unwrap_err().path(), "adaptive");
}

/// go-micro's own case for its breakers: six calls fail, and the seventh does not reach the peer.
#[tokio::test(start_paused = true)]
async fn after_so_many_failures_the_next_call_is_refused_and_errors_of_the_caller_are_none() {
    let failing = Peer::new(|_| status(500));
    let layer_of_six = layer(consecutive(6));
    let mut service = layer_of_six.layer(failing.clone());
    for expected in [500, 500, 500, 500, 500, 500, 503] {
        assert_eq!(call(&mut service).await.status(), expected);
    }
    assert_eq!(failing.calls(), 6);

    let strict = Peer::new(|n| status([400, 401, 404, 409, 422][n as usize % 5]));
    let mut service = layer(consecutive(6)).layer(strict.clone());
    for _ in 0..200 {
        call(&mut service).await;
    }
    assert_eq!(strict.calls(), 200);
}
