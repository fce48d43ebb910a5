//! Which calls are made, refused, or wait.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_same_call_is_made_once_and_answered_the_same_each_time() {
    let (probe, handle) = numbered();
    let layer = IdempotencyLayer::default();
    let first = call(&layer, &probe, post("\"a\"", "x")).await;
    assert_eq!((first.status.as_u16(), first.text()), (200, "answer 0"));
    assert!(!first.is_replay());
    for key in ["\"a\"", "a", "\"a\";v=1"] {
        let again = call(&layer, &probe, post(key, "x")).await;
        assert_eq!((again.status.as_u16(), again.text()), (200, "answer 0"));
        assert!(again.is_replay(), "{key}");
    }
    assert_eq!(handle.calls(), 1);
    assert_eq!(
        call(&layer, &probe, post("b", "x")).await.text(),
        "answer 1"
    );
    let stats = layer.handle().stats();
    assert_eq!((stats.executed, stats.replayed, stats.entries), (2, 3, 2));
    assert!((16..1_000).contains(&stats.bytes), "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn the_handler_gets_the_request_as_it_was_sent() {
    let (probe, _) = Probe::always(Answer::ok().body(TestBody::echo()));
    let layer = IdempotencyLayer::default();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    let body = TestBody::chunks(["he", "ll", "o"])
        .pending_once()
        .trailers(trailers);
    let request = post("a", "").map(|_| body);
    let got = call(&layer, &probe, request).await;
    assert_eq!(got.text(), "hello");
    // However it is cut.
    let again = call(&layer, &probe, post("a", "hello")).await;
    assert!(again.is_replay() && again.text() == "hello");
}

#[tokio::test(start_paused = true)]
async fn a_key_with_another_request_is_refused_for_good() {
    let (probe, handle) = numbered();
    let layer = IdempotencyLayer::default();
    call(&layer, &probe, post("a", "x")).await;
    let mut others = vec![post("a", "y"), post("a", "")];
    for uri in ["/orders/7", "/orders?a=1", "/orders?"] {
        let mut other = post("a", "x");
        *other.uri_mut() = uri.parse().unwrap();
        others.push(other);
    }
    for other in others {
        let uri = other.uri().clone();
        let got = call(&layer, &probe, other).await;
        assert_eq!(
            (got.status.as_u16(), got.reason()),
            (422, Some(Reason::KeyReused)),
            "{uri}"
        );
        assert_eq!(got.headers["x-mesh-retry"], "never");
    }
    assert_eq!(handle.calls(), 1);
    assert_eq!(layer.handle().stats().reused, 5);
}

#[tokio::test(start_paused = true)]
async fn while_the_first_call_is_in_flight_others_are_refused_for_now() {
    let gate = Gate::new();
    let (probe, handle) = Probe::always(Answer::ok().gated(&gate));
    let layer = IdempotencyLayer::default();
    let first = call(&layer, &probe, post("a", "x"));
    tokio::pin!(first);
    assert!(first.as_mut().now_or_never().is_none());
    let got = call(&layer, &probe, post("a", "x")).await;
    assert_eq!(
        (got.status.as_u16(), got.reason()),
        (409, Some(Reason::KeyInFlight))
    );
    assert_eq!(got.headers["retry-after"], "1");
    assert_eq!(call(&layer, &probe, post("a", "y")).await.status, 422);
    assert_eq!(layer.handle().stats().in_flight, 1);
    gate.open();
    assert_eq!(first.await.status, 200);
    assert!(call(&layer, &probe, post("a", "x")).await.is_replay());
    assert_eq!(handle.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_get_the_answer_of_the_first() {
    let (probe, handle) = numbered();
    let slow = tower::ServiceBuilder::new()
        .layer(waiting(IdempotencyLayer::builder()))
        .map_future(|future| async {
            sleep(Duration::from_secs(3)).await;
            future.await
        })
        .service(probe);
    let calls = (0..100).map(|_| slow.clone().oneshot(post("a", "x")));
    let mut replays = 0;
    for response in join_all(calls).await {
        let response = response.unwrap();
        replays += u32::from(response.headers().contains_key("idempotency-replayed"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "answer 0");
    }
    assert_eq!((handle.calls(), replays), (1, 99));
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_refused_and_who_waits_for_nothing_goes_first() {
    let gate = Gate::new();
    let (probe, handle) = Probe::answering({
        let gate = gate.clone();
        move |call, _| match call {
            0 => Answer::never(),
            _ => Answer::ok().gated(&gate),
        }
    });
    let layer = waiting(IdempotencyLayer::builder());
    let mut first = Box::pin(call(&layer, &probe, post("a", "x")));
    assert!(first.as_mut().now_or_never().is_none());
    let start = tokio::time::Instant::now();
    assert_eq!(call(&layer, &probe, post("a", "x")).await.status, 409);
    assert_eq!(start.elapsed(), Duration::from_secs(10));

    let mut second = Box::pin(call(&layer, &probe, post("a", "x")));
    let mut third = Box::pin(call(&layer, &probe, post("a", "x")));
    assert!(second.as_mut().now_or_never().is_none());
    assert!(third.as_mut().now_or_never().is_none());
    drop(first);
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(handle.calls(), 2);
    // Its patience is that of its whole wait.
    advance(Duration::from_secs(6)).await;
    assert!(third.as_mut().now_or_never().is_none());
    gate.open();
    assert!(!second.await.is_replay());
    assert!(third.await.is_replay());
    assert_eq!(handle.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_known_for_its_time() {
    let (probe, _) = numbered();
    let layer = IdempotencyLayer::builder().ttl(Duration::from_secs(60));
    let layer = layer.build().unwrap();
    call(&layer, &probe, post("a", "x")).await;
    advance(Duration::from_secs(59)).await;
    assert!(call(&layer, &probe, post("a", "x")).await.is_replay());
    // An answer that is given again is no younger for it.
    advance(Duration::from_secs(1)).await;
    assert_eq!(
        call(&layer, &probe, post("a", "y")).await.text(),
        "answer 1"
    );
    assert_eq!(layer.handle().stats().entries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_is_refused_and_not_made_without_protection() {
    let (probe, handle) = numbered();
    let layer = IdempotencyLayer::builder().max_request(ByteSize::new(4));
    let layer = layer.build().unwrap();
    let streamed = |text: &'static str| {
        let frames = text
            .as_bytes()
            .chunks(2)
            .map(|chunk| Ok(Frame::data(Bytes::from_static(chunk))));
        let body = StreamBody::new(futures_util::stream::iter(
            frames.collect::<Vec<Result<_, Infallible>>>(),
        ));
        post("a", "").map(|_| body)
    };
    let got = call(&layer, &probe, post("a", "12345")).await;
    assert_eq!(
        (got.status.as_u16(), got.reason()),
        (413, Some(Reason::BodyTooLarge))
    );
    assert!(got.rejection.unwrap().detail().contains("at most 4B"));
    assert_eq!(call(&layer, &probe, streamed("12345")).await.status, 413);
    assert_eq!(call(&layer, &probe, streamed("1234")).await.status, 200);
    assert!(call(&layer, &probe, post("a", "1234")).await.is_replay());
    assert_eq!(handle.calls(), 1);
    // Without a key there is no limit.
    let mut plain = post("a", "12345");
    plain.headers_mut().clear();
    assert_eq!(call(&layer, &probe, plain).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_breaks_off_is_not_made() {
    let (probe, handle) = numbered();
    let layer = IdempotencyLayer::default();
    let body = TestBody::stream().data("half").fail(ProbeError::reset());
    let got = call(&layer, &probe, post("a", "").map(|_| body)).await;
    assert_eq!((got.status.as_u16(), handle.calls()), (400, 0));
    assert_eq!(layer.handle().stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_or_missing_key_is_refused_where_it_matters() {
    let (probe, handle) = numbered();
    let layer = IdempotencyLayer::default();
    for key in ["\"a", "a, b", "\"\"", "a b"] {
        let got = call(&layer, &probe, post(key, "x")).await;
        assert_eq!(
            (got.status.as_u16(), got.reason()),
            (400, Some(Reason::InvalidRequest)),
            "{key}"
        );
        assert!(got.text().contains("idempotency-key"), "{key}");
    }
    let mut twice = post("a", "x");
    twice
        .headers_mut()
        .append("idempotency-key", "a".parse().unwrap());
    assert_eq!(call(&layer, &probe, twice).await.status, 400);
    assert_eq!(handle.calls(), 0);

    let without = || {
        let mut request = post("a", "x");
        request.headers_mut().clear();
        request
    };
    for _ in 0..2 {
        assert_eq!(call(&layer, &probe, without()).await.status, 200);
    }
    assert_eq!((handle.calls(), layer.handle().stats().executed), (2, 0));
    let strict = IdempotencyLayer::builder().required().build().unwrap();
    let got = call(&strict, &probe, without()).await;
    assert_eq!(got.status, 400);
    assert!(got.rejection.unwrap().detail().contains("is missing"));
    // A GET needs none, and one that it has means nothing.
    for key in ["a", "a", "a b"] {
        let mut get = post(key, "");
        *get.method_mut() = http::Method::GET;
        assert!(!call(&strict, &probe, get).await.is_replay());
    }
    assert_eq!(handle.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn nobody_gets_the_answer_of_another_caller() {
    let (probe, handle) = numbered();
    let layer = IdempotencyLayer::default();
    let mut callers = Vec::new();
    for token in ["Bearer a", "Bearer b"] {
        let mut request = post("k", "x");
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, token.parse().unwrap());
        callers.push(request);
    }
    for subject in ["spiffe://mesh/a", "spiffe://mesh/b"] {
        let mut request = post("k", "x");
        let context = CallContext::get_or_insert(request.extensions_mut());
        context.identity = Some(Identity::new(subject, AuthMethod::Mtls).into());
        callers.push(request);
    }
    callers.push(post("k", "x"));
    let mut operation = post("k", "x");
    operation
        .extensions_mut()
        .insert(crate::Operation::from_static("another"));
    callers.push(operation);
    for caller in &callers {
        assert!(
            !call(&layer, &probe, caller.clone()).await.is_replay(),
            "{caller:?}"
        );
    }
    for caller in &callers {
        assert!(
            call(&layer, &probe, caller.clone()).await.is_replay(),
            "{caller:?}"
        );
    }
    assert_eq!(handle.calls(), callers.len() as u64);

    // Whose token is another one each time.
    let by_tenant = Key::operation().and(Key::header("x-tenant").unwrap());
    let layer = IdempotencyLayer::builder().key(by_tenant).build().unwrap();
    for (caller, is_replay) in callers.into_iter().take(2).zip([false, true]) {
        assert_eq!(call(&layer, &probe, caller).await.is_replay(), is_replay);
    }
}

#[tokio::test(start_paused = true)]
async fn matches_say_which_calls() {
    let (probe, _) = numbered();
    let layer =
        IdempotencyLayer::builder().matching(RequestMatch::path_prefix("/orders").method("PUT"));
    let layer = layer.build().unwrap();
    for (method, is_meant) in [("PUT", true), ("POST", false)] {
        let mut request = post("k", "x");
        *request.method_mut() = method.parse().unwrap();
        call(&layer, &probe, request.clone()).await;
        assert_eq!(
            call(&layer, &probe, request).await.is_replay(),
            is_meant,
            "{method}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_keys_in_flight_stay() {
    let (probe, handle) = Probe::answering(|call, _| match call {
        0 => Answer::never(),
        _ => Answer::ok().body(TestBody::full("x".repeat(400))),
    });
    let layer = IdempotencyLayer::builder()
        .max_entries(1_000)
        .max_answer(ByteSize::new(1_000))
        .max_bytes(ByteSize::new(100_000));
    let layer = layer.build().unwrap();
    let mut first = Box::pin(call(&layer, &probe, post("first", "x")));
    assert!(first.as_mut().now_or_never().is_none());
    for key in 0..3_000 {
        assert_eq!(
            call(&layer, &probe, post(&format!("k{key}"), "x"))
                .await
                .status,
            200
        );
        let stats = layer.handle().stats();
        assert!(
            stats.entries <= 1_000 && stats.bytes <= 100_000,
            "{stats:?}"
        );
    }
    let stats = layer.handle().stats();
    assert!(stats.bytes > 90_000 && stats.evicted > 2_500, "{stats:?}");
    assert_eq!(call(&layer, &probe, post("first", "x")).await.status, 409);
    assert!(call(&layer, &probe, post("k2999", "x")).await.is_replay());
    assert!(!call(&layer, &probe, post("k0", "x")).await.is_replay());
    assert_eq!(handle.calls(), 3_002);
}

#[tokio::test(start_paused = true)]
async fn where_all_keys_are_in_flight_a_further_one_is_refused_for_now() {
    let (probe, _) = Probe::always(Answer::never());
    let layer = IdempotencyLayer::builder()
        .max_entries(1_000)
        .build()
        .unwrap();
    let mut calls = Vec::new();
    let refused = loop {
        let key = format!("k{}", calls.len());
        let mut call = Box::pin(layer.layer(probe.clone()).oneshot(post(&key, "x")));
        match call.as_mut().now_or_never() {
            None => calls.push(call),
            Some(refused) => break refused.unwrap(),
        }
    };
    assert!((500..=1_000).contains(&calls.len()), "{}", calls.len());
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["retry-after"]),
        (503, &"1".parse().unwrap())
    );
    calls.clear();
    assert_eq!(layer.handle().stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn options_may_change_come_and_go_and_keys_stay() {
    let (probe, handle) = numbered();
    let config = Live::new(Some(IdempotencyConfig::default()));
    let layer = IdempotencyLayer::optional(config.clone()).unwrap();
    call(&layer, &probe, post("a", "x")).await;
    let narrow = IdempotencyConfig {
        ttl: Duration::from_secs(3_600),
        required: true,
        ..IdempotencyConfig::default()
    };
    config.set(Some(narrow)).unwrap();
    assert!(call(&layer, &probe, post("a", "x")).await.is_replay());
    config.set(None).unwrap();
    assert!(!call(&layer, &probe, post("a", "x")).await.is_replay());
    config.set(Some(IdempotencyConfig::default())).unwrap();
    assert!(call(&layer, &probe, post("a", "x")).await.is_replay());
    assert_eq!(handle.calls(), 2);
    let wrong = IdempotencyConfig {
        max_entries: 1,
        ..IdempotencyConfig::default()
    };
    let error = config.set(Some(wrong)).unwrap_err();
    assert_eq!(error.path(), "maxEntries");
}

#[tokio::test(start_paused = true)]
async fn what_became_of_calls_is_in_the_metrics() {
    let (probe, _) = numbered();
    let layer = IdempotencyLayer::builder()
        .name("idempotency-metrics")
        .build()
        .unwrap();
    for (key, body) in [("a", "x"), ("a", "x"), ("a", "y"), ("\"", "x"), ("b", "x")] {
        call(&layer, &probe, post(key, body)).await;
    }
    let seen = crate::metrics::snapshot();
    for (result, calls) in [
        ("executed", 2),
        ("replayed", 1),
        ("reused", 1),
        ("invalid", 1),
        ("in_flight", 0),
    ] {
        let labels = [("policy", "idempotency-metrics"), ("result", result)];
        assert_eq!(
            seen.counter("mesh_idempotency_calls_total", &labels),
            Some(calls),
            "{result}"
        );
    }
}
