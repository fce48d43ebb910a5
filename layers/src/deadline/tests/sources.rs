use super::*;

#[tokio::test(start_paused = true)]
async fn the_earliest_of_all_sources_counts() {
    // Own timeout, header, context of the request, context of the task; and the least of them.
    for (own, header, context, current, expected) in [
        (None, None, None, None, None),
        (Some(400), None, None, None, Some(400)),
        (None, Some(300), None, None, Some(300)),
        (None, None, Some(200), None, Some(200)),
        (None, None, None, Some(100), Some(100)),
        (Some(400), Some(300), Some(200), Some(100), Some(100)),
        (Some(100), Some(200), Some(300), Some(400), Some(100)),
        (Some(400), Some(100), Some(300), Some(200), Some(100)),
        (Some(200), Some(99_999), None, Some(300), Some(200)),
    ] {
        let mut builder = DeadlineLayer::builder();
        if let Some(own) = own {
            builder = builder.timeout(own * MILLI);
        }
        let layer = builder.build().unwrap();
        let (mut service, _) = probe(&layer, Answer::ok().gated(&Gate::new()));
        let mut request = get("/");
        if let Some(header) = header {
            request = asking(request, &format!("{header}m"));
        }
        let now = Instant::now();
        if let Some(context) = context {
            CallContext::get_or_insert(request.extensions_mut()).deadline =
                Some(now + context * MILLI);
        }
        let mut around = CallContext::new();
        around.deadline = current.map(|current| now + current * MILLI);

        let future = around.ambient().enter(|| {
            let service: &mut dyn Service<Request<TestBody>, Future = _, Error = _, Response = _> =
                &mut service;
            std::task::ready!(service.poll_ready(&mut noop())).unwrap();
            std::task::Poll::Ready(service.call(request))
        });
        let std::task::Poll::Ready(future) = future else {
            panic!("the probe is ready")
        };
        let limit = expected.map_or(10 * SECOND, |expected| expected * MILLI);
        let answer = tokio::time::timeout(limit + Wheel::PRECISION, future).await;
        assert_eq!(answer.is_ok(), expected.is_some());
        assert!(now.elapsed() >= limit);
    }
}

fn noop() -> std::task::Context<'static> {
    std::task::Context::from_waker(std::task::Waker::noop())
}

#[tokio::test(start_paused = true)]
async fn an_old_context_does_not_use_up_the_timeout() {
    let (mut service, _) = probe(&within(SECOND), Answer::ok());
    let mut request = get("/");
    CallContext::get_or_insert(request.extensions_mut());
    advance(60 * SECOND).await; // as in the handler of a proxy, or in a retry
    assert_eq!(run(&mut service, request).await.head.status, 200);
}

#[tokio::test(start_paused = true)]
async fn absurd_timeouts_are_as_good_as_none() {
    let (mut service, probe) = probe(&DeadlineLayer::default(), Answer::ok().pending_times(1));
    for timeout in ["99999999H", "99999999S"] {
        assert_eq!(
            run(&mut service, asking(grpc_get(), timeout))
                .await
                .head
                .status,
            200
        );
    }
    assert_eq!(probe.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_timeout_is_refused_over_grpc_and_ignored_over_http() {
    let layer = within(SECOND);
    for value in ["", "5", "m", "-1m", "123456789m", "1.5S", "1x"] {
        let (mut service, probe) = probe(&layer, Answer::ok());
        let answer = run(&mut service, asking(grpc_get(), value)).await;
        assert_eq!(
            Code::from_headers(&answer.head.headers),
            Some(Code::INVALID_ARGUMENT),
            "{value}"
        );
        assert_eq!(probe.calls(), 0);

        let answer = run(&mut service, asking(get("/"), value)).await;
        assert_eq!(
            (answer.head.status.as_u16(), probe.calls()),
            (200, 1),
            "{value}"
        );
    }
    assert_eq!(layer.stats().malformed, 14);
}

#[tokio::test(start_paused = true)]
async fn other_headers_count_only_where_they_are_listed() {
    let listed = DeadlineLayer::builder()
        .accept("x-envoy-expected-rq-timeout-ms", TimeoutUnit::Milliseconds)
        .build()
        .unwrap();
    for (layer, status) in [(listed.clone(), 504), (DeadlineLayer::default(), 200)] {
        let (mut service, _) = probe(&layer, Answer::ok());
        let mut request = get("/");
        request
            .headers_mut()
            .insert("x-envoy-expected-rq-timeout-ms", "0".parse().unwrap());
        assert_eq!(run(&mut service, request).await.head.status, status);
    }
    let (mut service, _) = probe(&listed, Answer::ok());
    let mut request = grpc_get();
    request
        .headers_mut()
        .insert("x-envoy-expected-rq-timeout-ms", "soon".parse().unwrap());
    assert!(
        run(&mut service, request)
            .await
            .head
            .extensions
            .get::<Rejection>()
            .is_none()
    );
    assert_eq!(listed.stats().malformed, 1);
}
