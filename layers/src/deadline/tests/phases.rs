use super::*;

/// A body with a frame each time `beat` has passed, `frames` of them, and one that never comes.
fn beating(frames: u32, beat: Duration) -> TestBody {
    let mut body = TestBody::stream();
    for number in 1..=frames {
        let gate = Gate::new();
        body = body.gate(&gate).data("x");
        tokio::spawn(async move {
            sleep(beat * number).await;
            gate.open();
        });
    }
    body.gate(&Gate::new()).data("never")
}

fn idle(timeout: Duration) -> DeadlineBuilder {
    DeadlineLayer::builder().idle_timeout(timeout)
}

async fn read(
    layer: &DeadlineLayer,
    request: Request<TestBody>,
    body: TestBody,
) -> (Exchange, Duration) {
    let (mut service, probe) = probe(layer, Answer::ok().body(body));
    let start = Instant::now();
    let exchange = exchange(&mut service, request, Read::Frames(1_000)).await;
    assert!(is_idle(layer));
    assert_eq!(probe.in_flight(), 0);
    (exchange.unwrap(), start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_head_may_have_less_time_than_its_call() {
    let layer = DeadlineLayer::builder()
        .timeout(60 * SECOND)
        .head_timeout(SECOND)
        .scope(Scope::Call)
        .build()
        .unwrap();
    let (mut service, probe) = probe(&layer, Answer::never());
    let start = Instant::now();
    let response = drive::call(&mut service, get("/")).await.unwrap();
    assert_eq!(response.status(), 504);
    assert!((SECOND..=SECOND + Wheel::PRECISION).contains(&start.elapsed()));
    assert_eq!((layer.stats().before_head, probe.in_flight()), (1, 0));

    // The body has all the time of the call, and no more.
    let (exchange, took) = read(&layer, get("/"), beating(5, 10 * SECOND)).await;
    assert_eq!(exchange.data(), b"xxxxx");
    assert!(matches!(exchange.end, End::Failed(_)));
    assert!(
        (60 * SECOND..=60 * SECOND + Wheel::PRECISION).contains(&took),
        "{took:?}"
    );
    assert_eq!((layer.stats().in_body, layer.stats().idle), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_gives_nothing_for_too_long_is_cut_off() {
    let layer = idle(SECOND).build().unwrap();
    let (exchange, took) = read(&layer, get("/"), beating(10, 900 * MILLI)).await;
    assert_eq!(exchange.data(), b"xxxxxxxxxx");
    let End::Failed(error) = exchange.end else {
        panic!("{:?}", exchange.end)
    };
    assert_eq!(diagnose(&error).kind, FailureKind::Timeout);
    assert!(
        (10 * SECOND..=10 * SECOND + Wheel::PRECISION).contains(&took),
        "{took:?}"
    );
    assert_eq!((layer.stats().in_body, layer.stats().idle), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_idle_grpc_stream_ends_in_trailers() {
    let layer = idle(SECOND).build().unwrap();
    let (exchange, _) = read(&layer, grpc_get(), beating(1, 900 * MILLI)).await;
    let trailers = exchange.trailers.as_ref().unwrap();
    assert_eq!(Code::from_headers(trailers), Some(Code::DEADLINE_EXCEEDED));
    assert!(exchange.end.is_complete());
    assert_eq!(layer.stats().idle, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_does_not_ask_waits_for_nothing() {
    let layer = idle(SECOND).build().unwrap();
    let body = TestBody::chunks(["a", "b", "c"]);
    let (mut service, _) = probe(&layer, Answer::ok().body(body));
    let mut body = drive::call(&mut service, get("/"))
        .await
        .unwrap()
        .into_body();
    for _ in 0..3 {
        advance(60 * SECOND).await;
        assert!(body.frame().await.unwrap().is_ok());
    }
    assert!(body.frame().await.is_none());
    assert_eq!(layer.stats(), DeadlineStats::default());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_pauses_ends_at_the_deadline_of_its_call() {
    let layer = idle(SECOND).timeout(5 * SECOND).build().unwrap();
    let (exchange, took) = read(&layer, grpc_get(), beating(100, 300 * MILLI)).await;
    assert_eq!(exchange.data().len(), 16);
    assert!(
        (5 * SECOND..=5 * SECOND + Wheel::PRECISION).contains(&took),
        "{took:?}"
    );
    assert_eq!((layer.stats().in_body, layer.stats().idle), (1, 0));
}
