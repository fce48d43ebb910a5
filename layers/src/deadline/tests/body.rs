use super::*;

async fn cut(
    scope: Scope,
    request: Request<TestBody>,
    body: TestBody,
) -> (Exchange, Duration, DeadlineStats, ProbeHandle) {
    let layer = DeadlineLayer::builder()
        .timeout(SECOND)
        .scope(scope)
        .build()
        .unwrap();
    let (mut service, probe) = probe(&layer, Answer::ok().body(body));
    let start = Instant::now();
    let exchange = exchange(&mut service, request, Read::Frames(1_000))
        .await
        .unwrap();
    assert!(is_idle(&layer));
    (exchange, start.elapsed(), layer.stats(), probe)
}

#[tokio::test(start_paused = true)]
async fn a_grpc_stream_ends_in_trailers_at_the_deadline() {
    let body = TestBody::stream()
        .data("abc")
        .gate(&Gate::new())
        .data("never");
    let (exchange, took, stats, probe) = cut(Scope::Auto, grpc_get(), body).await;
    assert_eq!(exchange.data(), b"abc");
    let trailers = exchange.trailers.as_ref().unwrap();
    assert_eq!(Code::from_headers(trailers), Some(Code::DEADLINE_EXCEEDED));
    assert!(exchange.end.is_complete());
    assert!(took >= SECOND && took <= SECOND + Wheel::PRECISION);
    assert_eq!(
        (stats.in_body, probe.in_flight(), probe.bodies_cut()),
        (1, 0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_cut_http_body_does_not_look_complete() {
    let body = TestBody::stream()
        .data("abc")
        .gate(&Gate::new())
        .data("never");
    let (exchange, took, stats, probe) = cut(Scope::Call, get("/"), body).await;
    assert_eq!(exchange.data(), b"abc");
    let End::Failed(error) = exchange.end else {
        panic!("{:?}", exchange.end)
    };
    assert!(error.downcast_ref::<TransportError>().is_some());
    assert_eq!(diagnose(&error).kind, FailureKind::Timeout);
    assert!(took >= SECOND && took <= SECOND + Wheel::PRECISION);
    assert_eq!(
        (stats.in_body, probe.in_flight(), probe.bodies_cut()),
        (1, 0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_always_has_data_is_cut_as_well() {
    let layer = DeadlineLayer::builder()
        .timeout(SECOND)
        .scope(Scope::Call)
        .build()
        .unwrap();
    let (mut service, _) = probe(&layer, Answer::ok().body(TestBody::stream().endless("x")));
    let response = drive::call(&mut service, get("/")).await.unwrap();
    let mut body = response.into_body();
    let start = Instant::now();
    let error = loop {
        advance(10 * MILLI).await; // a slow reader
        match body.frame().await.unwrap() {
            Ok(_) => assert!(start.elapsed() <= 2 * SECOND, "goes on for ever"),
            Err(error) => break error,
        }
    };
    assert!(start.elapsed() > SECOND);
    assert_eq!(diagnose(&error).kind, FailureKind::Timeout);
    assert!(body.is_end_stream() && body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_for_the_head_lets_the_body_go_on() {
    for (request, scope) in [(get("/"), Scope::Auto), (grpc_get(), Scope::Head)] {
        let gate = Gate::new();
        let body = TestBody::stream().data("abc").gate(&gate).data("def");
        let opener = tokio::spawn(async move {
            sleep(60 * SECOND).await;
            gate.open();
        });
        let (exchange, took, stats, _) = cut(scope, request, body).await;
        opener.await.unwrap();
        assert_eq!((exchange.data(), took), (b"abcdef".to_vec(), 60 * SECOND));
        assert_eq!(stats, DeadlineStats::default());
    }
}

#[tokio::test(start_paused = true)]
async fn calls_made_in_the_handler_and_in_its_body_inherit_the_deadline() {
    fn current() -> Option<Instant> {
        CallContext::current_deadline()
    }
    for (scope, in_body) in [(Scope::Call, true), (Scope::Head, false)] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let layer = DeadlineLayer::builder()
            .timeout(SECOND)
            .scope(scope)
            .role(Role::Server);
        let handler = {
            let seen = seen.clone();
            service_fn(move |_: Request<TestBody>| {
                seen.lock().push(current()); // in `call`
                let seen = seen.clone();
                async move {
                    sleep(MILLI).await;
                    seen.lock().push(current());
                    let frames = futures_util::stream::once(async move {
                        sleep(MILLI).await;
                        seen.lock().push(current());
                        Ok::<_, Infallible>(http_body::Frame::data(bytes::Bytes::new()))
                    });
                    Ok::<_, Infallible>(Response::new(StreamBody::new(Box::pin(frames))))
                }
            })
        };
        let deadline = Some(Instant::now() + SECOND);
        run(&mut layer.build().unwrap().layer(handler), get("/")).await;
        assert_eq!(
            *seen.lock(),
            [deadline, deadline, deadline.filter(|_| in_body)]
        );
        assert_eq!(current(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_makes_nothing_current() {
    let service = service_fn(|_: Request<TestBody>| async {
        assert!(CallContext::current().is_none());
        Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    });
    run(
        &mut within(SECOND).role(Role::Client).layer(service),
        get("/"),
    )
    .await;
}
