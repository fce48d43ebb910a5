//! Which answers are kept, and what of them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_call_that_was_not_answered_gives_its_key_back() {
    for (what, unanswered) in [
        ("an error", Answer::fail(ProbeError::reset())),
        ("a panic in call", Answer::panic_in_call()),
        ("a panic in poll", Answer::panic_in_poll()),
        ("a drop", Answer::never()),
        (
            "a drop at the body",
            Answer::ok().body(TestBody::stream().data("x").gate(&Gate::new())),
        ),
        (
            "a panic of the body",
            Answer::ok().body(TestBody::stream().data("x").panic()),
        ),
    ] {
        let answers = [unanswered, Answer::ok()];
        let (probe, handle) = Probe::sequence(answers);
        let layer = IdempotencyLayer::default();
        let first = layer.layer(probe.clone()).oneshot(post("a", "x"));
        let first = std::panic::AssertUnwindSafe(first).catch_unwind();
        let _ = tokio::time::timeout(Duration::from_secs(1), first).await;
        let stats = layer.handle().stats();
        assert_eq!((stats.entries, stats.bytes), (0, 0), "{what}");
        let second = call(&layer, &probe, post("a", "x")).await;
        assert!(second.status == 200 && !second.is_replay(), "{what}");
        assert_eq!(handle.calls(), 2, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_does_so_for_its_caller_and_is_not_kept() {
    let broken = TestBody::stream().data("half").fail(ProbeError::reset());
    let (probe, handle) = Probe::always(Answer::ok().body(broken));
    let layer = IdempotencyLayer::default();
    let response = layer
        .layer(probe.clone())
        .oneshot(post("a", "x"))
        .await
        .unwrap();
    let mut body = response.into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "half");
    assert_eq!(body.size_hint().exact(), None);
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(error.downcast_ref::<ProbeError>().is_some());
    assert!(body.frame().await.is_none());
    assert!(call(&layer, &probe, post("a", "x")).await.body.is_err());
    assert_eq!(handle.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn errors_are_kept_and_what_means_not_now_is_not() {
    for (status, is_kept) in [
        (400, true),
        (404, true),
        (500, true),
        (204, true),
        (429, false),
        (503, false),
    ] {
        let (probe, handle) = Probe::always(Answer::status(status));
        let layer = IdempotencyLayer::default();
        for _ in 0..2 {
            assert_eq!(call(&layer, &probe, post("a", "x")).await.status, status);
        }
        assert_eq!(handle.calls(), if is_kept { 1 } else { 2 }, "{status}");
    }
    // What a layer inside has refused was not done, whatever its status.
    let made = Arc::new(Counter::new());
    let refuses = service_fn({
        let made = made.clone();
        move |_: Request<Full<Bytes>>| {
            made.add(1);
            let rejection = Rejection::new("authz", Reason::PermissionDenied, "no");
            let response = rejection.into_response::<Full<Bytes>>(crate::CallKind::HTTP);
            async { Ok::<_, Infallible>(response) }
        }
    });
    let layer = IdempotencyLayer::default();
    for _ in 0..2 {
        let got = layer.layer(refuses.clone()).oneshot(post("a", "x")).await;
        assert_eq!(got.unwrap().status(), 403);
    }
    assert_eq!(made.sum(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_kept_without_what_is_of_its_connection_or_its_browser() {
    let response = Response::builder()
        .status(201)
        .header("location", "/orders/7")
        .header("set-cookie", "session=1")
        .header("connection", "x-hop, close")
        .header("x-hop", "1")
        .header("keep-alive", "timeout=5")
        .header("x-two", "a")
        .header("x-two", "b")
        .body(TestBody::chunks(["a", "b"]).trailer("x-sum", "7"));
    let answer = Answer::response(response.unwrap());
    let (probe, _) = Probe::always(answer);
    let layer = IdempotencyLayer::default();
    let first = call(&layer, &probe, post("a", "x")).await;
    assert!(first.headers.contains_key("set-cookie") && first.headers.contains_key("x-hop"));
    assert_eq!(
        (first.text(), &first.trailers.as_ref().unwrap()["x-sum"]),
        ("ab", &"7".parse().unwrap())
    );
    let again = call(&layer, &probe, post("a", "x")).await;
    let mut names: Vec<_> = again.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["idempotency-replayed", "location", "x-two"]);
    assert_eq!(again.headers.get_all("x-two").iter().count(), 2);
    assert_eq!((again.status.as_u16(), again.text()), (201, "ab"));
    assert_eq!(again.trailers, first.trailers);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_large_streams_and_its_call_is_not_made_again() {
    let body = || TestBody::chunks(vec!["x".repeat(200); 3]);
    for (what, answer) in [
        (
            "announced",
            Answer::ok().body(TestBody::full("x".repeat(600))),
        ),
        ("streamed", Answer::ok().body(body())),
        (
            "with trailers",
            Answer::ok().body(body().trailer("x-a", "b")),
        ),
    ] {
        let (probe, handle) = Probe::always(answer);
        let layer = IdempotencyLayer::builder().max_answer(ByteSize::new(500));
        let layer = layer.build().unwrap();
        let first = call(&layer, &probe, post("a", "x")).await;
        assert_eq!(
            (first.status.as_u16(), first.text().len()),
            (200, 600),
            "{what}"
        );
        assert_eq!(first.trailers.is_some(), what == "with trailers");
        let again = call(&layer, &probe, post("a", "x")).await;
        assert_eq!(
            (again.status.as_u16(), again.reason()),
            (409, Some(Reason::AnswerNotKept))
        );
        assert_eq!(again.rejection.unwrap().pushback(), Some(Pushback::Never));
        assert_eq!(call(&layer, &probe, post("a", "y")).await.status, 422);
        assert_eq!(
            (handle.calls(), layer.handle().stats().bytes),
            (1, 0),
            "{what}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_not_held_back() {
    let (probe, handle) = Probe::always(
        Answer::ok()
            .header("content-type", "text/event-stream; charset=utf-8")
            .body(TestBody::stream().data("data: 1\n\n").gate(&Gate::new())),
    );
    let layer = IdempotencyLayer::default();
    let response = layer
        .layer(probe.clone())
        .oneshot(post("a", "x"))
        .await
        .unwrap();
    let frame = response.into_body().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
    assert_eq!(call(&layer, &probe, post("a", "x")).await.status, 409);
    assert_eq!(handle.calls(), 1);
}

fn grpc_call(key: &str, payload: &str) -> Request<TestBody> {
    let request = Request::post("/shop.Orders/Place")
        .header("content-type", "application/grpc")
        .header("idempotency-key", key);
    request
        .body(TestBody::full(grpc::message(payload)))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn unary_grpc_calls_are_kept_with_their_trailers_where_they_are_meant() {
    let (probe, handle) = Probe::always(grpc::unary("hello"));
    let off = IdempotencyLayer::default();
    for _ in 0..2 {
        assert!(!call(&off, &probe, grpc_call("a", "x")).await.is_replay());
    }
    let layer = IdempotencyLayer::builder().grpc().build().unwrap();
    let first = call(&layer, &probe, grpc_call("a", "x")).await;
    let again = call(&layer, &probe, grpc_call("a", "x")).await;
    assert!(again.is_replay());
    assert_eq!(again.body.unwrap(), first.body.unwrap());
    assert_eq!(again.trailers.unwrap()["grpc-status"], "0");
    let reused = call(&layer, &probe, grpc_call("a", "y")).await;
    assert_eq!(reused.status, 200);
    assert_eq!(
        Code::from_headers(&reused.headers),
        Some(Code::INVALID_ARGUMENT)
    );
    assert_eq!(reused.headers["grpc-retry-pushback-ms"], "-1");
    assert_eq!(handle.calls(), 3);

    let gate = Gate::new();
    let (probe, _) = Probe::always(grpc::unary("hello").gated(&gate));
    let mut first = Box::pin(call(&layer, &probe, grpc_call("b", "x")));
    assert!(first.as_mut().now_or_never().is_none());
    let second = call(&layer, &probe, grpc_call("b", "x")).await;
    assert_eq!(Code::from_headers(&second.headers), Some(Code::ABORTED));
    assert_eq!(second.headers["grpc-retry-pushback-ms"], "1000");
}

#[tokio::test(start_paused = true)]
async fn a_grpc_status_decides_wherever_it_is() {
    let layer = IdempotencyLayer::builder().grpc().build().unwrap();
    for (at, (answer, calls)) in [
        (grpc::failed("5"), 1),
        (grpc::failed("14"), 2),
        (grpc::failed("8"), 2),
        (grpc::stream("x", 1, "13"), 1),
        (grpc::stream("x", 1, "14"), 2),
        (grpc::without_status("x", 1), 2),
    ]
    .into_iter()
    .enumerate()
    {
        let (probe, handle) = Probe::always(answer);
        for _ in 0..2 {
            call(&layer, &probe, grpc_call(&at.to_string(), "x")).await;
        }
        assert_eq!(handle.calls(), calls, "{at}");
    }
    // Too large to be kept, so it passes before its status is known.
    let layer = IdempotencyLayer::builder()
        .grpc()
        .max_answer(ByteSize::new(300))
        .build()
        .unwrap();
    let (probe, handle) = Probe::always(grpc::stream("x".repeat(100), 5, "0"));
    call(&layer, &probe, grpc_call("a", "x")).await;
    let again = call(&layer, &probe, grpc_call("a", "x")).await;
    assert_eq!(
        Code::from_headers(&again.headers),
        Some(Code::ALREADY_EXISTS)
    );
    assert_eq!(handle.calls(), 1);
}
