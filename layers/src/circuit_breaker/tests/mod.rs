mod adaptive;
mod counts;
mod gate;
mod half_open;
mod hystrix;
mod model;
mod options;
mod slow_calls;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::{
    FailureKind, Live, Outcome, Ratio, Rejection,
    vocab::{grpc, key::Key},
};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Answers as told, and counts the calls that reach it.
#[derive(Clone)]
struct Peer {
    calls: Arc<AtomicU64>,
    answer: Arc<dyn Fn(u64) -> Answer + Send + Sync>,
}

impl Peer {
    fn new(answer: impl Fn(u64) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            calls: Arc::default(),
            answer: Arc::new(answer),
        }
    }

    fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }
}

impl Service<Request<Empty<Bytes>>> for Peer {
    type Response = Answer;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Answer, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        std::future::ready(Ok((self.answer)(self.calls.fetch_add(1, SeqCst))))
    }
}

fn status(status: u16) -> Answer {
    Response::builder()
        .status(status)
        .body(Full::from("body").boxed_unsync())
        .unwrap()
}

/// A gRPC stream of one message that ends with a status in its trailers.
fn grpc_stream(code: grpc::Code) -> Answer {
    let trailers = HeaderMap::from_iter([(grpc::STATUS, code.to_header_value())]);
    let frames = [
        Ok(Frame::data(Bytes::from("message"))),
        Ok(Frame::trailers(trailers)),
    ];
    Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
}

fn consecutive(failures: u32) -> BreakerConfig {
    BreakerConfig {
        consecutive_failures: Some(failures),
        ..BreakerConfig::default()
    }
}

fn layer(config: BreakerConfig) -> CircuitBreakerLayer {
    CircuitBreakerLayer::new(config).unwrap()
}

fn state(layer: &CircuitBreakerLayer) -> BreakerState {
    layer.handle().breakers()[0].state()
}

async fn call<S, B>(service: &mut S) -> Response<B>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    service
        .ready()
        .await
        .unwrap()
        .call(Request::default())
        .await
        .unwrap()
}

async fn grpc_call<S, B>(service: &mut S) -> Response<B>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    let request = Request::post("/").header("content-type", "application/grpc");
    let request = request.body(Empty::new()).unwrap();
    service.ready().await.unwrap().call(request).await.unwrap()
}

/// Opens the breaker of `layer` by one failing call after another.
async fn open(layer: &CircuitBreakerLayer, failures: u32) {
    let mut service = layer.layer(Peer::new(|_| status(500)));
    for _ in 0..failures {
        call(&mut service).await;
    }
    assert_eq!(state(layer), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_calls_after_the_last_allowed_failure_are_refused() {
    let layer = layer(consecutive(10));
    let peer = Peer::new(|_| status(503));
    // A service per call, as axum makes one per connection: the state is the layer's.
    for _ in 0..200 {
        call(&mut layer.layer(peer.clone())).await;
    }
    assert_eq!(peer.calls(), 10);
    let stats = layer.handle().stats();
    assert_eq!((stats.failures, stats.rejected, stats.opened), (10, 190, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_to_come_back_in_both_protocols() {
    let layer = layer(consecutive(1));
    open(&layer, 1).await;
    let mut service = layer.layer(Peer::new(|_| status(200)));
    let refused = call(&mut service).await;
    assert_eq!(refused.status(), 503);
    let seconds: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((5..=8).contains(&seconds), "{seconds}");
    assert!(refused.extensions().get::<Rejection>().is_some());
    let refused = grpc_call(&mut service).await;
    assert_eq!(
        grpc::Code::from_headers(refused.headers()),
        Some(grpc::Code::UNAVAILABLE)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_fails_in_its_trailers_counts_and_a_dropped_one_does_not() {
    let layer = layer(consecutive(1));
    let mut service = layer.layer(Peer::new(|_| grpc_stream(grpc::Code::UNAVAILABLE)));
    drop(grpc_call(&mut service).await);
    assert_eq!(state(&layer), BreakerState::Closed);
    assert_eq!(layer.handle().stats().cancelled, 1);
    grpc_call(&mut service)
        .await
        .into_body()
        .collect()
        .await
        .unwrap();
    assert_eq!(state(&layer), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_a_layer_below_is_not_the_peers_failure() {
    let layer = layer(consecutive(1));
    let below = CircuitBreakerLayer::new(consecutive(1)).unwrap();
    below.handle().force_open();
    let mut service = layer.layer(below.layer(Peer::new(|_| status(200))));
    for _ in 0..10 {
        assert_eq!(call(&mut service).await.status(), 503);
    }
    assert_eq!(
        (state(&layer), layer.handle().stats().ignored),
        (BreakerState::Closed, 10)
    );
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_breaker_and_the_rest_share_one() {
    let config = BreakerConfig {
        key: Some(Key::header("x-tenant").unwrap()),
        max_keys: 2,
        ..consecutive(1)
    };
    let layer = layer(config);
    let call = async |tenant: &'static str, answer: u16| {
        let request = Request::builder()
            .header("x-tenant", tenant)
            .body(Empty::new())
            .unwrap();
        let service = layer.layer(Peer::new(move |_| status(answer)));
        service.oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(call("a", 500).await, 500);
    assert_eq!(call("a", 200).await, 503);
    assert_eq!(call("b", 200).await, 200);
    // "b" is closed and has a call in its window; no room for more.
    assert_eq!(call("c", 500).await, 500);
    assert_eq!(call("d", 200).await, 503, "further keys share a breaker");
    assert_eq!(layer.handle().breakers().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_and_what_it_has_seen_outlive_a_reload() {
    let live = Live::new(consecutive(3));
    let layer = CircuitBreakerLayer::live(live.clone()).unwrap();
    let mut failing = layer.layer(Peer::new(|_| status(500)));
    call(&mut failing).await;
    live.set(BreakerConfig {
        name: "renamed".into(),
        ..consecutive(2)
    })
    .unwrap();
    call(&mut failing).await;
    assert_eq!(
        state(&layer),
        BreakerState::Open,
        "one failure before the reload, one after"
    );
    for _ in 0..50 {
        live.set(BreakerConfig {
            name: "again".into(),
            ..consecutive(2)
        })
        .unwrap();
    }
    assert_eq!(state(&layer), BreakerState::Open);
    let refused = live
        .set(BreakerConfig {
            probes: 0,
            ..consecutive(2)
        })
        .unwrap_err();
    assert_eq!(refused.path(), "probes");
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_failsafe_decides_and_the_gate_is_still_ours() {
    use failsafe::{backoff, failure_policy::consecutive_failures};
    let layer = CircuitBreakerLayer::builder()
        .policy(|| consecutive_failures(3, backoff::constant(Duration::from_secs(30))))
        .build()
        .unwrap();
    open(&layer, 3).await;
    let good = Peer::new(|_| status(200));
    let mut service = layer.layer(good.clone());
    advance(Duration::from_secs(29)).await;
    assert_eq!(call(&mut service).await.status(), 503);
    advance(Duration::from_secs(1)).await;
    let streams = Peer::new(|_| grpc_stream(grpc::Code::OK));
    let _held = grpc_call(&mut layer.layer(streams)).await;
    assert_eq!(
        call(&mut service).await.status(),
        503,
        "failsafe alone would admit everybody"
    );
    assert_eq!(good.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sees_every_state() {
    let layer = layer(consecutive(1));
    let breaker = &layer.handle().breakers()[0];
    let mut states = breaker.subscribe();
    assert_eq!(*states.borrow_and_update(), BreakerState::Closed);
    breaker.force_open();
    states.changed().await.unwrap();
    assert_eq!(*states.borrow_and_update(), BreakerState::ForcedOpen);
    assert_eq!(
        call(&mut layer.layer(Peer::new(|_| status(200))))
            .await
            .status(),
        503
    );
    breaker.reset();
    assert_eq!(*states.borrow_and_update(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn another_classifier_decides_what_a_failure_is() {
    #[derive(Clone)]
    struct NotFoundIsFailure;
    #[derive(Debug)]
    struct End;
    impl crate::Classify for NotFoundIsFailure {
        type End = End;
        fn head<B>(&self, _: crate::CallKind, response: &Response<B>) -> crate::Head<End> {
            match response.status().as_u16() {
                404 => crate::Head::Decided(Outcome::Failure(FailureKind::Other)),
                _ => crate::Head::Open(End),
            }
        }
    }
    impl crate::ClassifyEnd for End {
        fn end(self, _: Option<&HeaderMap>) -> Outcome {
            Outcome::Success
        }
        fn error(self, _: crate::vocab::transport::Diagnosis) -> Outcome {
            Outcome::Failure(FailureKind::Reset)
        }
        fn dropped(self) -> Outcome {
            Outcome::Success
        }
    }
    let layer = layer(BreakerConfig {
        failure_rate: Ratio::ZERO,
        ..consecutive(1)
    })
    .classifier(NotFoundIsFailure);
    call(&mut layer.layer(Peer::new(|_| status(500)))).await;
    assert_eq!(layer.handle().breakers()[0].state(), BreakerState::Closed);
    call(&mut layer.layer(Peer::new(|_| status(404)))).await;
    assert_eq!(layer.handle().breakers()[0].state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_failsafe_also_says_how_long_after_a_failed_probe() {
    use failsafe::{backoff, failure_policy::consecutive_failures};
    let layer = CircuitBreakerLayer::builder()
        .policy(|| consecutive_failures(3, backoff::constant(Duration::from_secs(100))))
        .build()
        .unwrap();
    open(&layer, 3).await;
    let mut failing = layer.layer(Peer::new(|_| status(500)));
    for round in 0..3 {
        advance(Duration::from_secs(99)).await;
        assert_eq!(call(&mut failing).await.status(), 503, "round {round}");
        advance(Duration::from_secs(1)).await;
        assert_eq!(call(&mut failing).await.status(), 500, "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_time_without_end_is_no_overflow() {
    use failsafe::{backoff, failure_policy::consecutive_failures};
    for micros in [u64::MAX - 1, u64::MAX] {
        let layer = CircuitBreakerLayer::builder()
            .policy(move || {
                consecutive_failures(1, backoff::constant(Duration::from_micros(micros)))
            })
            .build()
            .unwrap();
        advance(Duration::from_secs(1)).await;
        open(&layer, 1).await;
        let refused = call(&mut layer.layer(Peer::new(|_| status(200)))).await;
        assert_eq!(refused.status(), 503);
    }
}

#[tokio::test(start_paused = true)]
async fn other_keys_do_not_make_a_breaker_forget() {
    let config = BreakerConfig {
        key: Some(Key::header("x-tenant").unwrap()),
        ..consecutive(2)
    };
    let layer = layer(config);
    let call = async |tenant: &str, answer: u16| {
        let request = Request::builder()
            .header("x-tenant", tenant)
            .body(Empty::new())
            .unwrap();
        let service = layer.layer(Peer::new(move |_| status(answer)));
        service.oneshot(request).await.unwrap().status().as_u16()
    };
    let flood = async |round: u32| {
        for tenant in 0..200 {
            call(&format!("{round}-{tenant}"), 200).await;
        }
    };
    assert_eq!(call("a", 500).await, 500);
    advance(Duration::from_secs(60)).await; // its window is empty now
    flood(0).await;
    assert_eq!(call("a", 500).await, 500);
    assert_eq!(
        call("a", 200).await,
        503,
        "the second failure without a success in between"
    );

    advance(Duration::from_secs(8)).await;
    assert_eq!(call("a", 200).await, 200); // the probe
    advance(Duration::from_secs(20)).await; // its window is empty, and it is not stable yet
    flood(1).await;
    assert_eq!(call("a", 500).await, 500);
    assert_eq!(call("a", 500).await, 500);
    advance(Duration::from_secs(9)).await;
    assert_eq!(
        call("a", 200).await,
        503,
        "the second open time is 10 s at least"
    );
}

#[tokio::test(start_paused = true)]
async fn breakers_come_and_go_with_their_options() {
    let live = Live::new(None);
    let layer = CircuitBreakerLayer::optional(live.clone()).unwrap();
    let peer = Peer::new(|_| status(500));
    let mut service = layer.layer(peer.clone());
    for _ in 0..5 {
        assert_eq!(call(&mut service).await.status(), 500);
    }
    assert!(layer.handle().breakers().is_empty());

    live.set(Some(consecutive(2))).unwrap();
    for expected in [500, 500, 503, 503] {
        assert_eq!(call(&mut service).await.status(), expected);
    }
    assert_eq!(state(&layer), BreakerState::Open);

    live.set(None).unwrap();
    assert_eq!(call(&mut service).await.status(), 500);
    live.set(Some(consecutive(2))).unwrap();
    assert_eq!(call(&mut service).await.status(), 503, "it is still open");
}

#[tokio::test(start_paused = true)]
async fn breakers_that_are_kept_by_another_key_are_new() {
    let live = Live::new(consecutive(2));
    let layer = CircuitBreakerLayer::live(live.clone()).unwrap();
    let mut service = layer.layer(Peer::new(|_| status(500)));
    for expected in [500, 500, 503] {
        assert_eq!(call(&mut service).await.status(), expected);
    }
    let by_path = BreakerConfig {
        key: Some(Key::operation()),
        ..consecutive(2)
    };
    for (config, breakers) in [(by_path.clone(), 2), (consecutive(2), 1), (by_path, 2)] {
        live.set(config).unwrap();
        for expected in [500, 500, 503] {
            assert_eq!(call(&mut service).await.status(), expected);
        }
        assert_eq!(layer.handle().breakers().len(), breakers);
    }
}

/// tower-http's own view of gRPC, which differs from ours in both directions.
#[tokio::test(start_paused = true)]
async fn a_classifier_of_tower_http_judges_the_trailers_of_a_stream() {
    use tower_http::classify::{GrpcCode, GrpcErrorsAsFailures};
    let ours = layer(consecutive(1));
    let grpc_errors = GrpcErrorsAsFailures::new().with_success(GrpcCode::Unavailable);
    let theirs = layer(consecutive(1)).classifier(crate::TowerHttp::new(grpc_errors));
    for (code, opens_ours, opens_theirs) in [
        (grpc::Code::OK, false, false),
        (grpc::Code::UNAVAILABLE, true, false),
        (grpc::Code::NOT_FOUND, false, true),
    ] {
        let peer = Peer::new(move |_| grpc_stream(code));
        ours.handle().reset();
        theirs.handle().reset();
        let of_ours = grpc_call(&mut ours.layer(peer.clone())).await;
        let of_theirs = grpc_call(&mut theirs.layer(peer)).await;
        // Both had a head that says nothing.
        let state_of_theirs = || theirs.handle().breakers()[0].state();
        assert_eq!([state(&ours), state_of_theirs()], [BreakerState::Closed; 2]);
        of_ours.into_body().collect().await.unwrap();
        of_theirs.into_body().collect().await.unwrap();
        let open = [state(&ours), state_of_theirs()].map(|state| state == BreakerState::Open);
        assert_eq!(open, [opens_ours, opens_theirs], "{code:?}");
    }
}
