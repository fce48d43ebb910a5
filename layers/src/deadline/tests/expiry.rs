use super::*;

#[tokio::test(start_paused = true)]
async fn without_an_answer_the_caller_gets_one_at_the_deadline() {
    for (request, call) in [(get("/"), CallKind::HTTP), (grpc_get(), CallKind::GRPC)] {
        let layer = within(SECOND);
        let (mut service, probe) = probe(&layer, Answer::never());
        let start = Instant::now();
        let answer = run(&mut service, request).await;

        let took = start.elapsed();
        assert!(
            took >= SECOND && took <= SECOND + Wheel::PRECISION,
            "{took:?}"
        );
        if call.is_grpc() {
            assert_eq!(answer.head.status, 200);
            let code = Code::from_headers(&answer.head.headers);
            assert_eq!(code, Some(Code::DEADLINE_EXCEEDED));
        } else {
            assert_eq!(answer.head.status, 504);
        }
        let rejection = answer.head.extensions.get::<Rejection>().unwrap();
        assert_eq!(rejection.reason(), Reason::DeadlineExceeded);
        assert_eq!(
            judged(call, &answer),
            Outcome::Failure(FailureKind::Timeout)
        );
        assert_eq!(
            (probe.calls(), probe.given_up(), probe.in_flight()),
            (1, 1, 0)
        );
        assert_eq!(
            layer.stats(),
            DeadlineStats {
                before_head: 1,
                ..DeadlineStats::default()
            }
        );
        assert!(is_idle(&layer));
    }
}

#[tokio::test(start_paused = true)]
async fn the_inner_future_is_dropped_before_the_caller_has_the_answer() {
    let gate = Gate::new();
    let (service, probe) = Probe::always(Answer::ok().gated(&gate));
    let mut future = Box::pin(within(SECOND).layer(service).oneshot(get("/")));
    let answer = future.as_mut().await.unwrap();
    assert_eq!(answer.status(), 504);
    assert_eq!(probe.in_flight(), 0, "and the future still lives");
    drop(future);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_takes_the_leaf_with_it() {
    let layer = within(SECOND);
    let (service, probe) = Probe::always(Answer::never());
    let service = layer.layer(layer.layer(layer.layer(service)));
    let call = tokio::time::timeout(100 * MILLI, service.oneshot(get("/")));
    assert!(call.await.is_err());
    assert_eq!((probe.calls(), probe.in_flight()), (1, 0));
    assert!(is_idle(&layer));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_at_the_deadline_counts() {
    let layer = within(SECOND);
    let gate = Gate::new();
    let (service, _) = Probe::always(Answer::ok().gated(&gate));
    let mut call = tokio_test::task::spawn(layer.layer(service).oneshot(get("/")));
    assert!(call.poll().is_pending());
    // Both are ready when the task gets its turn.
    advance(2 * SECOND).await;
    gate.open();
    match call.poll() {
        std::task::Poll::Ready(answer) => assert_eq!(answer.unwrap().status(), 200),
        std::task::Poll::Pending => panic!("the answer was there"),
    }
    assert_eq!(layer.stats(), DeadlineStats::default());
}

#[tokio::test(start_paused = true)]
async fn expired_work_reaches_no_handler() {
    let layer = within(SECOND);
    for (request, call) in [(get("/"), CallKind::HTTP), (grpc_get(), CallKind::GRPC)] {
        let (mut service, probe) = probe(&layer, Answer::ok());
        let answer = run(&mut service, asking(request, "0m")).await;
        let rejection = answer.head.extensions.get::<Rejection>().unwrap();
        assert_eq!(rejection.reason(), Reason::DeadlineExceeded);
        assert_eq!(rejection.pushback(), Some(Pushback::Never));
        assert_eq!(judged(call, &answer), Outcome::Ignored);
        assert_eq!(probe.calls(), 0);
    }
    assert_eq!(layer.stats().refused, 2);
}
