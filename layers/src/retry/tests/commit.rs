//! When a call is committed, and what an attempt is told: gRFC A6, rejections, deadlines, contexts.

use super::*;
use crate::{
    CallContext, Covers, EndpointId, Reason, Rejection,
    context::picked,
    test_util::{End, ProbeError, Read, exchange::read_response},
};

/// R15
#[tokio::test(start_paused = true)]
async fn a_good_head_commits_the_call() {
    let cut = TestBody::stream().data("some").fail(ProbeError::reset());
    let rig = Rig::answering([Answer::ok().body(cut)]);
    let answered = rig.call(get()).await.unwrap();
    let read = read_response(&Method::GET, answered, Read::ToEnd).await;
    assert!(matches!(read.end, End::Failed(_)));
    assert_eq!(rig.probe.calls(), 1);

    // A gRPC stream that fails in its trailers has sent a response before.
    let failed = TestBody::stream().data("abc").trailer("grpc-status", "14");
    let rig = Rig::answering([Answer::grpc(failed)]);
    let answered = rig.call(grpc()).await.unwrap();
    let read = read_response(&Method::POST, answered, Read::ToEnd).await;
    assert_eq!(read.trailers.unwrap()["grpc-status"], "14");
    assert_eq!(rig.probe.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn grpc_is_retried_by_its_status() {
    for (status, attempts) in [("14", 3), ("8", 1), ("2", 1), ("4", 1), ("13", 1), ("5", 1)] {
        let rig = Rig::answering([Answer::grpc_status(status)]);
        let answered = rig.call(grpc()).await.unwrap();
        assert_eq!(answered.headers()["grpc-status"], status);
        assert_eq!(rig.probe.calls(), attempts, "grpc-status {status}");
        let previous = rig.probe.requests();
        let previous = previous
            .iter()
            .map(|one| one.headers.get("grpc-previous-rpc-attempts"));
        let expected = [None, Some("1"), Some("2")];
        assert!(
            previous
                .zip(expected)
                .all(|(seen, expected)| { seen.map(|seen| seen.to_str().unwrap()) == expected })
        );
    }
    // A proxy answers in plain HTTP: UNAVAILABLE to a gRPC client.
    let rig = Rig::answering([Answer::status(502), Answer::grpc_status("0")]);
    assert_eq!(
        rig.call(grpc()).await.unwrap().headers()["grpc-status"],
        "0"
    );
}

#[tokio::test(start_paused = true)]
async fn a_grpc_call_cut_in_the_middle_is_retried_only_if_it_is_idempotent() {
    let cut = || [Answer::fail(ProbeError::reset()), Answer::grpc_status("0")];
    let rig = Rig::answering(cut());
    assert!(rig.call(grpc()).await.is_err());
    assert_eq!(rig.retries.gave_up(GaveUp::NotIdempotent), 1);

    let rig = Rig::answering(cut());
    let mut marked = grpc();
    marked.extensions_mut().insert(Idempotent);
    assert!(rig.call(marked).await.is_ok());

    let orders = crate::RequestMatch::grpc_service("shop.Orders");
    let layer = generous().idempotent(orders).build().unwrap();
    let rig = Rig::new(&layer, Probe::sequence(cut()));
    assert!(rig.call(grpc()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn other_conditions_and_another_classifier_can_be_chosen() {
    let layer = generous().retry_on(["409".parse().unwrap(), "ABORTED".parse().unwrap()]);
    for (answer, request, attempts) in [
        (Answer::status(409), get(), 3),
        (Answer::status(503), get(), 1),
        (Answer::grpc_status("10"), grpc(), 3),
        (Answer::grpc_status("14"), grpc(), 1),
    ] {
        let rig = Rig::new(&layer.clone().build().unwrap(), Probe::always(answer));
        _ = rig.call(request).await;
        assert_eq!(rig.probe.calls(), attempts);
    }

    let layer = generous().build().unwrap();
    let statuses = tower_http::classify::StatusInRangeAsFailures::new(500..=599);
    let (probe, handle) = Probe::sequence([Answer::status(503), Answer::ok()]);
    let service = layer
        .classifier(crate::TowerHttp::new(statuses))
        .layer(probe);
    let answered: Answered = service.oneshot(get()).await;
    assert_eq!(
        (answered.unwrap().status().as_u16(), handle.calls()),
        (200, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_this_process_is_not_retried() {
    let refusing = tower::service_fn(|_: Request<RequestBody>| async {
        let rejection = Rejection::new("circuit_breaker", Reason::CircuitOpen, "open");
        Ok::<_, BoxError>(rejection.into_response::<TestBody>(crate::CallKind::HTTP))
    });
    let layer = generous().build().unwrap();
    let answered = layer.layer(refusing).oneshot(get()).await.unwrap();
    assert!(answered.extensions().get::<Rejection>().is_some());
    let stats = layer.handle().stats();
    assert_eq!((stats.retries, stats.gave_up), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_dropped_and_made_again() {
    let layer = generous().attempt_timeout(100 * MS).build().unwrap();
    let rig = Rig::new(&layer, Probe::sequence([Answer::never(), Answer::ok()]));
    let (answered, took) = timed(rig.call(get())).await;
    assert_eq!(answered.unwrap().status(), 200);
    assert!((100 * MS..150 * MS).contains(&took), "{took:?}");
    assert_eq!((rig.probe.given_up(), rig.probe.in_flight()), (1, 0));

    // Teeth: without it the call hangs.
    let rig = Rig::answering([Answer::never(), Answer::ok()]);
    let hangs = tokio::time::timeout(3_600_000 * MS, rig.call(get())).await;
    assert!(hangs.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_the_last_attempt_is_the_answer() {
    let layer = generous().attempt_timeout(100 * MS).build().unwrap();
    let rig = Rig::new(&layer, Probe::always(Answer::never()));
    let answered = rig.call(get()).await.unwrap();
    assert_eq!((answered.status().as_u16(), rig.probe.calls()), (504, 3));
    let rejection = answered.extensions().get::<Rejection>().unwrap();
    assert_eq!(
        (rejection.layer(), rejection.reason()),
        ("retry", Reason::DeadlineExceeded)
    );

    // A call that must not be repeated has its time as well.
    let (answered, took) = timed(rig.call(grpc())).await;
    assert_eq!(answered.unwrap().headers()["grpc-status"], "4");
    assert!(took < 110 * MS);
    assert_eq!(rig.probe.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_its_number_its_time_and_what_was_tried() {
    let ids = [(); 3].map(|()| EndpointId::new());
    let start = Instant::now();
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let record = seen.clone();
    let peer = tower::service_fn(move |request: Request<RequestBody>| {
        let mut seen = record.lock();
        let nth = seen.len();
        let context = CallContext::get(request.extensions()).cloned();
        seen.push((context, request.headers().get("grpc-timeout").cloned()));
        // The second endpoint is picked only when the future is polled.
        if nth != 1 {
            picked::record(ids[nth]);
        }
        async move {
            if nth == 1 {
                picked::record(ids[nth]);
            }
            tokio::time::sleep(10 * MS).await;
            let answer = Response::builder().status(503).body(TestBody::empty());
            Ok::<_, BoxError>(answer.unwrap())
        }
    });
    let layer = generous().attempt_timeout(1_000 * MS).build().unwrap();
    let mut call = get();
    let context = CallContext::get_or_insert(call.extensions_mut());
    let deadline = start + 1_005 * MS;
    context.deadline = Some(deadline);
    call.headers_mut()
        .insert("grpc-timeout", "1005m".parse().unwrap());
    _ = layer.layer(peer).oneshot(call).await;

    let seen = std::mem::take(&mut *seen.lock());
    assert_eq!(seen.len(), 3);
    for (nth, (context, timeout)) in seen.into_iter().enumerate() {
        let context = context.unwrap();
        assert_eq!(context.attempt.number as usize, nth + 1);
        let tried = ids.map(|id| context.attempt.tried.contains(id));
        assert_eq!(tried, std::array::from_fn(|n| n < nth));
        let left = crate::grpc::parse_timeout(&timeout.unwrap()).unwrap();
        if nth == 0 {
            assert_eq!(context.deadline, Some(start + 1_000 * MS));
            assert_eq!(context.deadline_covers, Covers::Head);
        } else {
            // Less than a second is left of the call: its own deadline is the sooner one.
            assert_eq!(context.deadline, Some(deadline));
            assert_eq!(context.deadline_covers, Covers::Call);
            assert!(left <= 995 * MS, "{left:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_gets_no_context_of_ours() {
    let peer = tower::service_fn(|request: Request<RequestBody>| async move {
        assert!(CallContext::get(request.extensions()).is_none());
        Ok::<_, BoxError>(Response::new(TestBody::empty()))
    });
    let layer = generous().build().unwrap();
    assert!(layer.layer(peer).oneshot(get()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_readiness_no_longer_than_an_attempt_may_take() {
    let gate = crate::test_util::Gate::new();
    let layer = generous()
        .max_attempts(2)
        .attempt_timeout(100 * MS)
        .build()
        .unwrap();
    let rig = Rig::new(&layer, Probe::always(Answer::status(503).pending_times(1)));
    let mut service = rig.service.clone();
    let call = ready(&mut service).await.call(get());
    rig.probe.hold_ready(&gate);
    let (answered, took) = timed(call).await;
    assert_eq!(answered.unwrap().status(), 504);
    assert!((100 * MS..150 * MS).contains(&took), "{took:?}");
    assert_eq!(rig.probe.calls(), 1);

    // And is told when readiness fails.
    let layer = generous().max_attempts(2).build().unwrap();
    let rig = Rig::new(&layer, Probe::always(Answer::status(503).pending_times(1)));
    let mut service = rig.service.clone();
    let call = ready(&mut service).await.call(get());
    rig.probe.fail_ready(ProbeError::refused());
    assert!(ProbeError::find(&*call.await.unwrap_err()).is_some());
}
