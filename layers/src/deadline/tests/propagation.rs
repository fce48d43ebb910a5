use super::*;

/// Notes the headers and the context of the requests that come by.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<SeenRequest>>>);

type SeenRequest = (HeaderMap, Option<CallContext>);

impl Seen {
    fn service(
        &self,
    ) -> impl Service<
        Request<TestBody>,
        Response = Response<Empty<bytes::Bytes>>,
        Error = Infallible,
        Future: Send,
    > + Clone
    + use<> {
        let seen = self.clone();
        service_fn(move |request: Request<TestBody>| {
            let context = CallContext::get(request.extensions()).cloned();
            seen.0.lock().push((request.headers().clone(), context));
            ready(Ok(Response::new(Empty::new())))
        })
    }

    fn only(&self) -> (HeaderMap, Option<CallContext>) {
        let mut seen = self.0.lock();
        assert_eq!(seen.len(), 1);
        seen.pop().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn each_role_tells_whom_it_should() {
    for (role, header) in [
        (Role::Both, true),
        (Role::Client, true),
        (Role::Server, false),
    ] {
        let layer = within(1500 * MILLI).role(role);
        for request in [get("/"), grpc_get()] {
            let (seen, start) = (Seen::default(), Instant::now());
            let mut service = layer.layer(seen.service());
            run(&mut service, request).await;
            let (headers, context) = seen.only();
            assert_eq!(context.unwrap().deadline, Some(start + 1500 * MILLI));
            let told = headers
                .get("grpc-timeout")
                .map(|value| grpc::parse_timeout(value).unwrap());
            assert_eq!(told, header.then_some(1500 * MILLI));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_the_request_passes_untouched() {
    let seen = Seen::default();
    run(
        &mut DeadlineLayer::default().layer(seen.service()),
        get("/"),
    )
    .await;
    let (headers, context) = seen.only();
    assert!(headers.is_empty() && context.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_scope_is_written_into_the_context() {
    for (request, scope, covers) in [
        (get("/"), Scope::Auto, Covers::Head),
        (grpc_get(), Scope::Auto, Covers::Call),
        (get("/"), Scope::Call, Covers::Call),
        (grpc_get(), Scope::Head, Covers::Head),
    ] {
        let layer = DeadlineLayer::builder()
            .timeout(SECOND)
            .scope(scope)
            .build()
            .unwrap();
        let seen = Seen::default();
        run(&mut layer.layer(seen.service()), request).await;
        assert_eq!(seen.only().1.unwrap().deadline_covers, covers);
    }
}

#[tokio::test(start_paused = true)]
async fn three_hops_share_one_deadline() {
    let (seen, start) = (Seen::default(), Instant::now());
    let leaf = DeadlineLayer::server().layer(seen.service());
    let leaf = DeadlineLayer::client().layer(leaf);
    let middle = DeadlineLayer::server().layer(service_fn(move |_: Request<TestBody>| {
        let leaf = leaf.clone();
        async move {
            sleep(100 * MILLI).await;
            // A new request: nothing is passed on by hand.
            Ok::<_, Infallible>(leaf.oneshot(get("/leaf")).await.unwrap())
        }
    }));
    let edge = within(300 * MILLI).role(Role::Client).layer(middle);
    let answer = edge.oneshot(get("/")).await.unwrap();
    assert_eq!(answer.status(), 200);

    let (headers, context) = seen.only();
    assert_eq!(context.unwrap().deadline, Some(start + 300 * MILLI));
    let told = grpc::parse_timeout(&headers["grpc-timeout"]).unwrap();
    assert!(told <= 200 * MILLI && told >= 199 * MILLI, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_is_too_slow_ends_everywhere_at_once() {
    let (leaf, probe) = Probe::always(Answer::never());
    let leaf = DeadlineLayer::client().layer(leaf);
    let server = DeadlineLayer::server().layer(service_fn(move |_: Request<TestBody>| {
        let leaf = leaf.clone();
        async move {
            sleep(100 * MILLI).await;
            Ok::<_, Infallible>(leaf.oneshot(get("/leaf")).await.unwrap())
        }
    }));
    let start = Instant::now();
    let answer = server.oneshot(asking(get("/"), "300m")).await.unwrap();
    assert_eq!(answer.status(), 504);
    assert!(start.elapsed() <= 300 * MILLI + Wheel::PRECISION);
    assert_eq!((probe.calls(), probe.in_flight()), (1, 0));
}
