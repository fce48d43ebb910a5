//! What is sent twice, and what an attempt is sent with.

use super::*;

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_its_number_and_what_was_tried() {
    let ids = [(); 3].map(|()| EndpointId::new());
    let peer = Peer::default();
    let slow = vec![After(1_000 * MS, Ok(200))];
    let layer = generous()
        .max_attempts(3)
        .idempotent(RequestMatch::grpc_service("shop.Orders"))
        .build()
        .unwrap();
    pay(&layer).await;
    let mut call = grpc();
    call.headers_mut().insert("x-tenant", "a".parse().unwrap());
    let context = CallContext::get_or_insert(call.extensions_mut());
    context.deadline = Some(Instant::now() + 5_000 * MS);
    call.headers_mut()
        .insert("grpc-timeout", "5S".parse().unwrap());
    _ = layer
        .layer(peer.service(ids.to_vec(), slow))
        .oneshot(call)
        .await;

    let seen = std::mem::take(&mut *peer.seen.lock());
    assert_eq!(seen.len(), 3);
    for (nth, (at, attempt, headers)) in seen.into_iter().enumerate() {
        let due = nth as u32 * DELAY;
        assert!((due..=due + 12 * MS).contains(&at), "{at:?}");
        assert_eq!(attempt.number as usize, nth + 1);
        let tried = ids.map(|id| attempt.tried.contains(id));
        assert_eq!(tried, std::array::from_fn(|n| n < nth));
        assert_eq!(headers["x-tenant"], "a");
        let previous = headers.get("grpc-previous-rpc-attempts");
        let previous = previous.map(|previous| previous.to_str().unwrap().to_owned());
        assert_eq!(previous, (nth > 0).then(|| nth.to_string()));
        let left = crate::grpc::parse_timeout(&headers["grpc-timeout"]).unwrap();
        assert!(left <= 5_000 * MS - due);
    }
}

/// R12, and its teeth.
#[tokio::test(start_paused = true)]
async fn only_what_may_be_sent_twice_is() {
    let with_key = |mut request: Request<RequestBody>| {
        let headers = request.headers_mut();
        headers.insert("idempotency-key", "7".parse().unwrap());
        request
    };
    let marked = |mut request: Request<RequestBody>| {
        request.extensions_mut().insert(Idempotent);
        request
    };
    let search = |mut request: Request<RequestBody>| {
        *request.uri_mut() = "/search/all".parse().unwrap();
        request
    };
    let post = || request(Method::POST, "order");
    let layer = generous()
        .idempotent(RequestMatch::path_prefix("/search"))
        .build()
        .unwrap();
    let plain = generous().build().unwrap();
    let only = generous()
        .only(RequestMatch::path_prefix("/search"))
        .build()
        .unwrap();
    for (layer, request, attempts) in [
        (&plain, get(), 2),
        (&plain, request(Method::HEAD, TestBody::empty()), 2),
        (&plain, post(), 1),
        (&plain, request(Method::PUT, "order"), 1),
        (&plain, request(Method::DELETE, TestBody::empty()), 1),
        (&plain, grpc(), 1),
        (&plain, with_key(post()), 2),
        (&plain, marked(grpc()), 2),
        (&layer, search(post()), 2),
        (&layer, post(), 1),
        (&layer, get(), 2),
        (&only, get(), 1),
        (&only, search(get()), 2),
        (&only, search(post()), 1),
    ] {
        let name = format!("{} {}", request.method(), request.uri());
        let (probe, handle) = Probe::always(Answer::never());
        let call = layer.layer(probe).oneshot(request);
        assert!(tokio::time::timeout(1_000 * MS, call).await.is_err());
        assert_eq!(handle.calls(), attempts, "{name}");
        assert_eq!(handle.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_sent_whole_by_every_attempt() {
    let rig = Rig::new(
        &generous()
            .idempotent(RequestMatch::path_prefix("/"))
            .build()
            .unwrap(),
        Probe::sequence([Answer::never(), Answer::ok()]),
    );
    let body = TestBody::stream()
        .data("ab")
        .data("c")
        .trailer("x-sum", "7");
    assert_eq!(
        rig.call(request(Method::POST, body))
            .await
            .unwrap()
            .status(),
        200
    );
    let received = rig.probe.requests();
    assert_eq!(received.len(), 2);
    for one in received {
        assert_eq!(one.body, "abc");
        assert_eq!(one.trailers.unwrap()["x-sum"], "7");
    }
    assert_eq!(rig.hedges.stats().kept_bytes, 0);

    // One that is still being sent cannot be sent twice; one that is too long neither.
    let gate = Gate::new();
    let stuck = TestBody::stream().data("ab").gate(&gate).data("c");
    let long = TestBody::stream().data(vec![0; 65 << 10]);
    for body in [stuck, long] {
        let (probe, handle) = Probe::always(Answer::never());
        let layer = generous().idempotent(RequestMatch::path_prefix("/"));
        let layer = layer.build().unwrap();
        let call = layer.layer(probe).oneshot(request(Method::POST, body));
        assert!(tokio::time::timeout(1_000 * MS, call).await.is_err());
        assert_eq!(handle.calls(), 1);
        assert_eq!(layer.handle().held_back(HeldBack::Body), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_after_the_deadline() {
    let rig = Rig::answering([Answer::never()]);
    let mut call = get();
    let context = CallContext::get_or_insert(call.extensions_mut());
    context.deadline = Some(Instant::now() + 50 * MS);
    assert!(
        tokio::time::timeout(1_000 * MS, rig.call(call))
            .await
            .is_err()
    );
    assert_eq!(rig.probe.calls(), 1);
    assert_eq!(rig.hedges.held_back(HeldBack::Deadline), 1);
}

/// The clone of a hedge waits for its readiness while the first attempt goes on.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_does_not_become_ready_harms_nobody() {
    let slow = Gate::new();
    let (probe, handle) = Probe::always(Answer::ok().gated(&slow));
    let layer = generous().build().unwrap();
    let mut service = layer.layer(probe);
    let called = ServiceExt::<Request<RequestBody>>::ready(&mut service);
    let call = called.await.unwrap().call(get());
    let never = Gate::new();
    handle.hold_ready(&never);
    let (answered, ()) = tokio::join!(call, async {
        tokio::time::sleep(500 * MS).await;
        slow.open();
    });
    assert_eq!(answered.unwrap().status(), 200);
    assert_eq!((handle.calls(), layer.handle().stats().hedges), (1, 1));

    // And one whose readiness fails is a failed attempt.
    let slow = Gate::new();
    let (probe, handle) = Probe::always(Answer::ok().gated(&slow));
    let mut service = layer.layer(probe);
    let called = ServiceExt::<Request<RequestBody>>::ready(&mut service);
    let call = called.await.unwrap().call(get());
    handle.fail_ready(ProbeError::refused());
    let (answered, ()) = tokio::join!(call, async {
        tokio::time::sleep(500 * MS).await;
        slow.open();
    });
    assert_eq!(answered.unwrap().status(), 200);
}
