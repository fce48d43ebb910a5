//! Calls that take too long, whatever they answer.

use tokio::time::sleep;
use tower::service_fn;

use super::*;

const SLOW: Duration = Duration::from_millis(100);

/// Opens when half of at least four calls are slow; failures alone never do it.
fn config() -> BreakerConfig {
    BreakerConfig {
        failure_rate: Ratio::ZERO,
        slow_call: Some(SlowCall {
            duration: SLOW,
            rate: Ratio::percent(50),
        }),
        minimum_calls: 4,
        ..BreakerConfig::default()
    }
}

/// A call whose head takes this long.
async fn take(layer: &CircuitBreakerLayer, took: Duration, answer: Answer) -> Response<()> {
    let mut answer = Some(answer);
    let peer = service_fn(move |_: Request<Empty<Bytes>>| {
        let answer = answer.take().unwrap();
        async move {
            sleep(took).await;
            Ok::<_, Infallible>(answer)
        }
    });
    let response = call(&mut layer.layer(peer)).await;
    response.map(drop)
}

#[tokio::test(start_paused = true)]
async fn too_many_slow_successes_open_it() {
    let layer = layer(config());
    for (took, opens) in [(1, false), (100, false), (99, false), (100, true)] {
        take(&layer, Duration::from_millis(took), status(200)).await;
        assert_eq!(state(&layer) == BreakerState::Open, opens, "{took} ms");
    }
    let stats = layer.handle().stats();
    assert_eq!((stats.slow, stats.successes, stats.opened), (2, 4, 1));
    assert_eq!(take(&layer, SLOW, status(200)).await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn fast_failures_are_not_slow() {
    let layer = layer(config());
    for _ in 0..100 {
        take(&layer, Duration::ZERO, status(500)).await;
    }
    assert_eq!(state(&layer), BreakerState::Closed);
    let breaker = &layer.handle().breakers()[0];
    assert_eq!(breaker.slow_rate(), Some((0.0, 100)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_does_not_make_the_peer_slow() {
    let layer = layer(config());
    let mut service = layer.layer(Peer::new(|_| status(200)));
    for _ in 0..10 {
        let response = call(&mut service).await;
        sleep(10 * SLOW).await;
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(layer.handle().stats().slow, 0);
}

#[tokio::test(start_paused = true)]
async fn over_grpc_the_first_message_counts() {
    let layer = layer(config());
    let mut service = layer.layer(Peer::new(|_| {
        let late = futures_util::stream::once(async {
            sleep(SLOW).await;
            Ok(Frame::data(Bytes::from("message")))
        });
        Response::new(StreamBody::new(late).boxed_unsync())
    }));
    for round in 0..4 {
        let mut body = grpc_call(&mut service).await.into_body();
        assert_eq!(layer.handle().stats().slow, round);
        body.frame().await.unwrap().unwrap();
        assert_eq!(layer.handle().stats().slow, round + 1);
    }
    assert_eq!(state(&layer), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn who_gave_up_after_that_long_has_seen_a_slow_call_and_who_did_earlier_has_not() {
    let layer = layer(config());
    for (patience, slow) in [(SLOW / 2, 0), (2 * SLOW, 4)] {
        for _ in 0..4 {
            let hung = take(&layer, 100 * SLOW, status(200));
            tokio::time::timeout(patience, hung).await.unwrap_err();
        }
        assert_eq!(layer.handle().stats().slow, slow);
    }
    assert_eq!(layer.handle().stats().cancelled, 8);
    assert_eq!(state(&layer), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_has_failed() {
    for (took, then) in [(SLOW, BreakerState::Open), (SLOW / 2, BreakerState::Closed)] {
        let layer = layer(BreakerConfig {
            consecutive_failures: Some(1),
            ..config()
        });
        open(&layer, 1).await;
        advance(Duration::from_secs(8)).await;
        take(&layer, took, status(200)).await;
        assert_eq!(state(&layer), then, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_calls_can_be_looked_for_by_a_reload() {
    let live = Live::new(consecutive(5));
    let layer = CircuitBreakerLayer::live(live.clone()).unwrap();
    take(&layer, SLOW, status(200)).await;
    assert_eq!(layer.handle().stats().slow, 0);
    live.set(config()).unwrap();
    for _ in 0..4 {
        take(&layer, SLOW, status(200)).await;
    }
    assert_eq!(state(&layer), BreakerState::Open);
}
