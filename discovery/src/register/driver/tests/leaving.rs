//! Draining, closing and dropping a registration.

use futures_util::FutureExt;

use super::*;

#[tokio::test(start_paused = true)]
async fn closing_drains_and_then_leaves() {
    let registry = MemoryRegistry::new();
    let registration = registered(&registry, "a").await;
    time::sleep(Duration::from_secs(3)).await;
    let mut states = registration.states();
    let start = Instant::now();
    let closed = tokio::spawn(registration.close());
    settle().await;
    assert_eq!(*states.borrow_and_update(), State::Draining);
    assert_eq!(present(&registry)[0].status, Status::Draining);
    time::sleep(DRAIN - SLACK).await;
    assert_eq!(present(&registry).len(), 1, "the drain time is waited for");
    closed.await.unwrap().unwrap();
    assert!(start.elapsed() >= DRAIN && start.elapsed() < DRAIN + SLACK);
    assert_eq!(present(&registry).len(), 0);
    assert_eq!(*states.borrow(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_longer_than_the_ttl_keeps_the_record() {
    let registry = MemoryRegistry::new();
    let config = RegisterConfig {
        drain: 4 * TTL,
        ..Default::default()
    };
    let registration = Registration::start(registry.clone(), orders("a"), config).unwrap();
    registration.registered().await;
    let closed = tokio::spawn(registration.close());
    time::sleep(4 * TTL - SLACK).await;
    assert_eq!(present(&registry)[0].status, Status::Draining);
    closed.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_drain_time_and_without_ever_being_seen_it_leaves_at_once() {
    let registry = MemoryRegistry::new();
    let config = RegisterConfig {
        drain: Duration::ZERO,
        ..Default::default()
    };
    let registration = Registration::start(registry.clone(), orders("a"), config).unwrap();
    registration.registered().await;
    let start = Instant::now();
    registration.close().await.unwrap();
    assert_eq!(present(&registry).len(), 0);

    register(&registry, "b").close().await.unwrap();
    registry.outage(Outage::Refuses);
    let never = register(&registry, "c");
    settle().await;
    registry.recover();
    never.close().await.unwrap();
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn draining_takes_its_time_once_and_can_be_cut_short() {
    let registry = MemoryRegistry::new();
    let registration = registered(&registry, "a").await;
    let (idle, start) = (registration.drain(), Instant::now());
    settle().await;
    assert_eq!(
        registration.state(),
        State::Registered,
        "it begins when it is polled"
    );
    idle.await;
    assert!(start.elapsed() >= DRAIN && start.elapsed() < DRAIN + SLACK);
    assert_eq!(present(&registry)[0].status, Status::Draining);
    registration.drain().await;
    time::sleep(10 * TTL).await;
    assert_eq!(present(&registry).len(), 1, "it stays until it is closed");
    let start = Instant::now();
    registration.close().await.unwrap();
    assert!(start.elapsed() < SLACK);

    let registration = registered(&registry, "a").await;
    let start = Instant::now();
    registration
        .drain_until(time::sleep(Duration::from_secs(1)))
        .await;
    assert_eq!(present(&registry)[0].status, Status::Draining);
    registration.close().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1) + SLACK);

    let registration = registered(&registry, "a").await;
    let draining = tokio::spawn(registration.drain());
    settle().await;
    drop(registration);
    let start = Instant::now();
    draining.await.unwrap();
    assert!(start.elapsed() < SLACK, "a drain keeps nothing alive");
    assert_eq!(present(&registry).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_close_that_nobody_waits_for_ends_the_drain_time_and_goes_on() {
    let registry = MemoryRegistry::new();
    let registration = registered(&registry, "a").await;
    let start = Instant::now();
    assert!(
        time::timeout(Duration::from_secs(1), registration.close())
            .await
            .is_err()
    );
    settle().await;
    assert_eq!(present(&registry).len(), 0);
    assert!(start.elapsed() < Duration::from_secs(1) + SLACK);
}

#[tokio::test(start_paused = true)]
async fn closing_is_bounded_and_tells_of_a_failure() {
    for outage in [Outage::Refuses, Outage::Hangs] {
        let registry = MemoryRegistry::new();
        let registration = registered(&registry, "a").await;
        registry.outage(outage);
        let start = Instant::now();
        let error = registration.close().await.unwrap_err();
        assert!(matches!(error, RegisterError::Unavailable(_)), "{error}");
        assert!(
            start.elapsed() <= DRAIN + TIMEOUT + SLACK,
            "{:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn deregistering_is_tried_again() {
    let registry = MemoryRegistry::new();
    let registration = registered(&registry, "a").await;
    registration.drain().await;
    registry.fail_next(4);
    registration.close().await.unwrap();
    assert_eq!(present(&registry).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_it_stops_the_heartbeat_and_deregisters() {
    let registry = Counted::default();
    let registration =
        Registration::start(registry.clone(), orders("a"), RegisterConfig::default()).unwrap();
    registration.registered().await;
    drop(registration);
    settle().await;
    assert_eq!(present(&registry.registry).len(), 0);
    let writes = registry.writes.lock().len();
    time::sleep(10 * TTL).await;
    assert_eq!(registry.writes.lock().len(), writes);
    assert_eq!(registry.count("remove"), 1);

    // With the registry down it ends all the same.
    let registration =
        Registration::start(registry.clone(), orders("a"), RegisterConfig::default()).unwrap();
    registration.registered().await;
    let mut states = registration.states();
    registry.registry.outage(Outage::Hangs);
    drop(registration);
    let start = Instant::now();
    states
        .wait_for(|state| *state == State::Closed)
        .await
        .unwrap();
    assert!(start.elapsed() <= TIMEOUT + SLACK);
}

#[test]
fn dropping_it_without_a_runtime_is_no_panic() {
    let registry = MemoryRegistry::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let registration = runtime.block_on(registered(&registry, "a"));
    let drain = registration.drain();
    drop(runtime);
    registration.set_status(Status::Draining);
    assert!(drain.now_or_never().is_some(), "nobody is left to drain");
    drop(registration);
}
