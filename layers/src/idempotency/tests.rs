use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    BoxError, CallContext, Counter, Key, Live, Pushback, Reason, Rejection, RequestMatch,
    context::{AuthMethod, Identity},
    grpc::Code,
    test_util::{Answer, Gate, Probe, ProbeError, ProbeHandle, TestBody, grpc},
};

type Boxed = UnsyncBoxBody<Bytes, BoxError>;

/// What a caller gets, read to its end.
#[derive(Debug)]
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    rejection: Option<Rejection>,
    body: Result<Bytes, BoxError>,
    trailers: Option<HeaderMap>,
}

impl Got {
    fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotency-replayed")
    }

    fn reason(&self) -> Option<Reason> {
        self.rejection.as_ref().map(Rejection::reason)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_ref().unwrap()).unwrap()
    }
}

async fn read<B>(response: Response<B>) -> Got
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    let (head, body) = response.into_parts();
    let collected = body.collect().await;
    let trailers = match &collected {
        Ok(collected) => collected.trailers().cloned(),
        Err(_) => None,
    };
    Got {
        status: head.status,
        headers: head.headers,
        rejection: head.extensions.get().cloned(),
        body: collected.map(|collected| collected.to_bytes()),
        trailers,
    }
}

fn post(key: &str, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("/orders").header("idempotency-key", key);
    request.body(Full::from(body)).unwrap()
}

/// A call over a service of its own, as axum makes one per connection.
async fn call<B>(layer: &IdempotencyLayer, probe: &Probe, request: Request<B>) -> Got
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let request: Request<Boxed> = request.map(|body| body.map_err(Into::into).boxed_unsync());
    let service = layer.layer(probe.clone());
    let response = service.oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    read(Response::from_parts(head, body.map_err(Into::into))).await
}

/// Answers that can be told apart.
fn numbered() -> (Probe, ProbeHandle) {
    Probe::answering(|call, _| Answer::ok().body(TestBody::full(format!("answer {call}"))))
}

fn waiting(layer: IdempotencyBuilder) -> IdempotencyLayer {
    layer.wait(Duration::from_secs(10)).build().unwrap()
}

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
