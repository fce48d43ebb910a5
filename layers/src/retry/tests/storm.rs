//! What a peer that fails is spared: budgets, hops, jitter.

use super::*;

/// 1,000 calls at 100 a second through `layer` to a peer that always fails: how many reach it.
async fn storm(layer: &RetryLayer) -> u64 {
    let (probe, handle) = Probe::always(Answer::status(503));
    let service = layer.layer(probe);
    run_storm(service).await;
    handle.calls()
}

async fn run_storm<S>(service: S)
where
    S: Service<Request<RequestBody>> + Clone,
{
    let start = Instant::now();
    let calls = (0..1_000).map(|n| {
        let service = service.clone();
        async move {
            tokio::time::sleep_until(start + n * 10 * MS).await;
            _ = service.oneshot(get()).await;
        }
    });
    futures_util::future::join_all(calls).await;
}

fn attempts(attempts: u32, ratio: Ratio, reserve: u32) -> RetryLayer {
    RetryLayer::builder()
        .max_attempts(attempts)
        .budget(ratio, reserve)
        .build()
        .unwrap()
}

/// R1, and its teeth: without a budget that binds, the same storm is four times the load.
#[tokio::test(start_paused = true)]
async fn a_failing_peer_gets_at_most_the_budget_on_top() {
    let with_reserve = storm(&attempts(4, Ratio::percent(20), 10)).await;
    assert!((1_250..=1_300).contains(&with_reserve), "{with_reserve}");
    let without = storm(&attempts(4, Ratio::percent(20), 0)).await;
    assert!((1_150..=1_200).contains(&without), "{without}");
    let unprotected = storm(&attempts(4, Ratio::ONE, 1_000_000)).await;
    assert_eq!(unprotected, 4_000);
}

/// All services of a layer share its budget, however often it was applied.
#[tokio::test(start_paused = true)]
async fn the_budget_is_shared_by_all_applications_of_the_layer() {
    let layer = attempts(2, Ratio::ZERO, 1);
    let (probe, handle) = Probe::always(Answer::status(503));
    for _ in 0..100 {
        _ = layer.layer(probe.clone()).oneshot(get()).await;
    }
    assert_eq!(handle.calls(), 110);
}

/// R2: two hops that both retry, over a peer that fails.
async fn two_hops(ratio: Ratio, reserve: u32) -> u64 {
    let (probe, handle) = Probe::always(Answer::status(503));
    let [first, second] = [(); 2].map(|()| attempts(3, ratio, reserve));
    run_storm(first.layer(second.layer(probe))).await;
    handle.calls()
}

#[tokio::test(start_paused = true)]
async fn hops_do_not_multiply_retries() {
    let bounded = two_hops(Ratio::percent(20), 0).await;
    assert!((1_150..=1_440).contains(&bounded), "{bounded}");
    assert_eq!(two_hops(Ratio::ONE, 1_000_000).await, 9_000);
}

#[tokio::test(start_paused = true)]
async fn for_want_of_budget_the_last_answer_is_passed_up_with_a_mark() {
    let layer = attempts(3, Ratio::ZERO, 0);
    let answer = Answer::status(503).header("x-peer", "a").body("busy");
    let rig = Rig::new(&layer, Probe::always(answer));
    let answered = rig.call(get()).await.unwrap();
    assert_eq!(answered.headers()["x-peer"], "a");
    assert_eq!(answered.headers()["x-mesh-retry"], "never");
    let (parts, body) = answered.into_parts();
    assert_eq!(parts.status, 503);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "busy");

    let rig = Rig::new(&layer, Probe::always(Answer::grpc_status("14")));
    let answered = rig.call(grpc()).await.unwrap();
    assert_eq!(answered.headers()["grpc-status"], "14");
    assert_eq!(answered.headers()["grpc-retry-pushback-ms"], "-1");
    assert_eq!(rig.retries.gave_up(GaveUp::Budget), 2);
    assert_eq!(rig.probe.calls(), 1);
}

/// R17: callers that failed together do not come back together.
#[tokio::test(start_paused = true)]
async fn first_retries_are_spread_over_the_whole_pause() {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    };
    let start = Instant::now();
    let buckets: Arc<[AtomicU32; 11]> = Arc::default();
    let seen = buckets.clone();
    let peer = tower::service_fn(move |request: Request<RequestBody>| {
        let number = crate::CallContext::get(request.extensions()).map(|call| call.attempt.number);
        if number == Some(2) {
            let bucket = start.elapsed().as_millis() as usize / 10;
            seen[bucket].fetch_add(1, Relaxed);
        }
        let answer = Response::builder().status(503).body(TestBody::empty());
        std::future::ready(Ok::<_, BoxError>(answer.unwrap()))
    });
    let layer = generous()
        .max_attempts(2)
        .backoff(100 * MS, 100 * MS)
        .seed(1)
        .build()
        .unwrap();
    let service = layer.layer(peer);
    let calls = (0..10_000).map(|_| tokio::spawn(service.clone().oneshot(get())));
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap().status(), 503);
    }
    let counts = buckets.each_ref().map(|count| count.load(Relaxed));
    assert_eq!(counts.iter().sum::<u32>(), 10_000);
    assert!(counts.iter().all(|count| *count <= 1_200), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_up_to_the_most() {
    let layer = generous()
        .max_attempts(10)
        .backoff(100 * MS, 400 * MS)
        .build()
        .unwrap();
    let rig = Rig::new(&layer, Probe::always(Answer::status(503)));
    let mut total = Duration::ZERO;
    for _ in 0..200 {
        total += timed(rig.call(get())).await.1;
    }
    // On average half of 100 + 200 + 7 x 400.
    let average = total.as_millis() / 200;
    assert!((1_450..1_650).contains(&average), "{average}");
}
