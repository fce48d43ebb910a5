//! Who is let through as a probe, and what their fates lead to.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_good_probe_closes_and_a_bad_one_opens_for_longer() {
    let layer = layer(consecutive(1));
    open(&layer, 1).await;
    advance(Duration::from_secs(8)).await;
    let mut failing = layer.layer(Peer::new(|_| status(500)));
    call(&mut failing).await;
    assert_eq!(state(&layer), BreakerState::Open);

    let good = Peer::new(|_| status(200));
    let mut service = layer.layer(good.clone());
    advance(Duration::from_secs(8)).await;
    assert_eq!(
        call(&mut service).await.status(),
        503,
        "the second open time is 10 s at least"
    );
    advance(Duration::from_secs(8)).await;
    assert_eq!(call(&mut service).await.status(), 200);
    assert_eq!((state(&layer), good.calls()), (BreakerState::Closed, 1));
}

#[tokio::test(start_paused = true)]
async fn half_open_admits_exactly_the_permitted_probes() {
    for permits in [1, 5] {
        let layer = layer(BreakerConfig {
            probes: permits,
            ..consecutive(1)
        });
        open(&layer, 1).await;
        advance(Duration::from_secs(8)).await;
        let peer = Peer::new(|_| grpc_stream(grpc::Code::OK));
        let mut answers = Vec::new();
        for _ in 0..1_000 {
            // The streams are held, so no probe is decided while the others arrive.
            answers.push(grpc_call(&mut layer.layer(peer.clone())).await);
        }
        assert_eq!(peer.calls(), u64::from(permits));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_or_refused_elsewhere_gives_its_slot_back() {
    let layer = layer(consecutive(1));
    open(&layer, 1).await;
    advance(Duration::from_secs(8)).await;
    let below = CircuitBreakerLayer::new(consecutive(1)).unwrap();
    below.handle().force_open();
    let good = Peer::new(|_| status(200));

    call(&mut layer.layer(below.layer(good.clone()))).await; // refused below
    drop(layer.layer(good.clone()).call(Request::default())); // dropped before the head
    let stream = grpc_call(&mut layer.layer(Peer::new(|_| grpc_stream(grpc::Code::OK)))).await;
    drop(stream); // dropped after the head
    assert_eq!(state(&layer), BreakerState::HalfOpen);
    assert_eq!(call(&mut layer.layer(good)).await.status(), 200);
    assert_eq!(state(&layer), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_late_success_from_before_does_not_close_a_half_open_breaker() {
    let layer = layer(consecutive(1));
    let early = grpc_call(&mut layer.layer(Peer::new(|_| grpc_stream(grpc::Code::OK)))).await;
    open(&layer, 1).await;
    advance(Duration::from_secs(8)).await;
    let probe = grpc_call(&mut layer.layer(Peer::new(|_| grpc_stream(grpc::Code::OK)))).await;
    assert_eq!(state(&layer), BreakerState::HalfOpen);
    early.into_body().collect().await.unwrap();
    assert_eq!(state(&layer), BreakerState::HalfOpen);
    probe.into_body().collect().await.unwrap();
    assert_eq!(state(&layer), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_closes_by_probation_starts_afresh_and_is_counted() {
    let layer = layer(consecutive(3));
    open(&layer, 3).await;
    advance(Duration::from_secs(8)).await;
    let streams = Peer::new(|_| grpc_stream(grpc::Code::OK));
    let _alive = grpc_call(&mut layer.layer(streams)).await;
    advance(Duration::from_secs(10)).await;
    call(&mut layer.layer(Peer::new(|_| status(500)))).await;
    assert_eq!(
        state(&layer),
        BreakerState::Closed,
        "one failure after it closed, and three were allowed"
    );
    let stats = layer.handle().stats();
    assert_eq!((stats.opened, stats.closed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_by_probation_is_counted() {
    let layer = layer(consecutive(1));
    open(&layer, 1).await;
    advance(Duration::from_secs(8)).await;
    let silent = tower::service_fn(|_: Request<Empty<Bytes>>| {
        std::future::pending::<Result<Answer, Infallible>>()
    });
    let _silence = layer.layer(silent).call(Request::default());
    advance(Duration::from_secs(10)).await;
    call(&mut layer.layer(Peer::new(|_| status(200)))).await;
    assert_eq!(state(&layer), BreakerState::Open);
    assert_eq!(layer.handle().stats().opened, 2);
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_an_earlier_generation_is_not_counted_as_an_opening() {
    let layer = layer(consecutive(1));
    open(&layer, 1).await;
    advance(Duration::from_secs(8)).await;
    let streams = Peer::new(|_| grpc_stream(grpc::Code::UNAVAILABLE));
    let early = grpc_call(&mut layer.layer(streams.clone())).await;
    layer.handle().reset();
    open(&layer, 1).await;
    advance(Duration::from_secs(8)).await;
    let _probe = grpc_call(&mut layer.layer(streams)).await;
    assert_eq!(state(&layer), BreakerState::HalfOpen);
    let opened = layer.handle().stats().opened;
    early.into_body().collect().await.unwrap();
    assert_eq!(layer.handle().stats().opened, opened);
}
