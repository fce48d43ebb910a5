//! What passes and what does not, on both sides.

use std::{future::ready, io, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use parking_lot::Mutex;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::{
    BoxError, Live, Reason, Rejection,
    circuit_breaker::CircuitBreakerLayer,
    classify::pushback,
    grpc::Code,
    metrics,
    outcome::Pushback,
    test_util::{
        Answer, End, Probe, Read, TestBody,
        bodies::{get, grpc_request},
        exchange::exchange,
    },
};

type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

fn requests(limit: u64) -> BodyLimitLayer {
    let limit = ByteSize::new(limit);
    BodyLimitLayer::builder().request(limit).build().unwrap()
}

fn responses(limit: u64) -> BodyLimitLayer {
    let limit = ByteSize::new(limit);
    BodyLimitLayer::builder().response(limit).build().unwrap()
}

fn post(body: TestBody) -> Request<RequestBody> {
    let mut request = get("/").map(|_| body.boxed_unsync());
    *request.method_mut() = Method::POST;
    request
}

fn grpc_post(body: TestBody) -> Request<RequestBody> {
    grpc_request("/kit.Test/Unary", body).map(|body| body.boxed_unsync())
}

/// What a handler saw of a body: how many bytes, how it failed, and the trailers.
type Seen = (usize, Option<BoxError>, Option<HeaderMap>);

async fn read_all(mut body: RequestBody) -> Seen {
    let (mut bytes, mut trailers) = (0, None);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes += data.len(),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => return (bytes, Some(error), trailers),
        }
    }
    (bytes, None, trailers)
}

/// Calls a handler that reads all and answers 200 whatever it saw; gives both.
async fn read_by_handler(
    layer: &BodyLimitLayer,
    request: Request<RequestBody>,
) -> (Option<Seen>, Response<ResponseBody<Full<Bytes>>>) {
    let seen = Arc::new(Mutex::new(None));
    let sees = seen.clone();
    let handler = service_fn(move |request: Request<RequestBody>| {
        let sees = sees.clone();
        async move {
            let read = read_all(request.into_body()).await;
            *sees.lock() = Some(read);
            Ok::<_, io::Error>(Response::new(Full::from("read")))
        }
    });
    let response = layer.layer(handler).oneshot(request).await.unwrap();
    let seen = seen.lock().take();
    (seen, response)
}

fn assert_refused<B>(response: &Response<B>, is_grpc: bool) {
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.reason(), Reason::BodyTooLarge);
    if is_grpc {
        let code = Code::from_headers(response.headers());
        assert_eq!(code, Some(Code::RESOURCE_EXHAUSTED));
    } else {
        assert_eq!(response.status(), 413);
    }
    assert_eq!(pushback(response.headers()), Some(Pushback::Never));
}

// ===== requests =====

#[tokio::test]
async fn a_request_that_says_it_is_too_large_is_refused_before_it_is_read() {
    let layer = requests(4);
    let full = || TestBody::full("12345");
    // Only the header says so.
    let mut header = post(TestBody::stream().data("1"));
    header.headers_mut().insert("content-length", 5.into());
    for (request, is_grpc) in [
        (post(full()), false),
        (grpc_post(full()), true),
        (header, false),
    ] {
        let (seen, response) = read_by_handler(&layer, request).await;
        assert!(seen.is_none(), "the handler is not called");
        assert_refused(&response, is_grpc);
    }
    assert_eq!(layer.handle().stats().requests, 3);
}

#[tokio::test]
async fn a_streamed_request_fails_at_the_frame_that_is_too_much() {
    let layer = requests(4);
    for (chunks, passes) in [
        (vec!["1234"], 4),
        (vec!["12", "34"], 4),
        (vec!["", "1234", ""], 4),
    ] {
        let body = TestBody::chunks(chunks).trailer("x-sum", "7");
        let (seen, response) = read_by_handler(&layer, post(body)).await;
        let (bytes, error, trailers) = seen.unwrap();
        assert_eq!((bytes, response.status().as_u16()), (passes, 200));
        assert!(error.is_none() && trailers.is_some());
    }
    for (chunks, passes) in [
        (vec!["12345"], 0),
        (vec!["12", "345"], 2),
        (vec!["1234", "5"], 4),
    ] {
        for is_grpc in [false, true] {
            let body = TestBody::chunks(chunks.clone());
            let request = if is_grpc { grpc_post(body) } else { post(body) };
            let (seen, response) = read_by_handler(&layer, request).await;
            let (bytes, error, _) = seen.unwrap();
            assert_eq!(bytes, passes);
            let limit = ByteSize::new(4);
            assert_eq!(error.unwrap().downcast_ref(), Some(&BodyTooLarge { limit }));
            // The handler has said 200.
            assert_refused(&response, is_grpc);
        }
    }
    assert_eq!(layer.handle().stats().requests, 6);
}

#[tokio::test]
async fn a_service_that_fails_over_such_a_body_is_a_refusal_too() {
    let handler = service_fn(async |request: Request<RequestBody>| {
        let (_, error, _) = read_all(request.into_body()).await;
        match error {
            Some(error) => Err(error),
            None => Ok(Response::new(Full::<Bytes>::default())),
        }
    });
    let service = requests(4).layer(handler);
    let response = service
        .oneshot(post(TestBody::chunks(["12345"])))
        .await
        .unwrap();
    assert_refused(&response, false);
}

#[tokio::test]
async fn an_answer_that_is_out_stands() {
    // Answers first and reads then, as an echo does.
    let handler = service_fn(|request: Request<RequestBody>| {
        ready(Ok::<_, io::Error>(Response::new(request.into_body())))
    });
    let layer = requests(4);
    let request = post(TestBody::chunks(["12", "345"]));
    let response = layer.layer(handler).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let error = response.into_body().collect().await.unwrap_err();
    assert!(error.is::<BodyTooLarge>(), "{error}");
}

#[tokio::test]
async fn the_sender_of_a_body_that_is_too_large_hears_of_it_at_once() {
    let (sender, frames) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BoxError>>(4);
    let stream = futures_util::stream::unfold(frames, async |mut frames| {
        frames.recv().await.map(|frame| (frame, frames))
    });
    let request = post(TestBody::empty()).map(|_| StreamBody::new(stream).boxed_unsync());
    sender.send(Ok(Frame::data("12345".into()))).await.unwrap();
    let (_, response) = read_by_handler(&requests(4), request).await;
    assert!(sender.is_closed());
    drop(response);
}

// ===== responses =====

/// An answer under a limit of four bytes, and how many were too large.
async fn limited(
    answer: Answer,
    request: Request<RequestBody>,
) -> (crate::test_util::Exchange, u64) {
    let layer = responses(4);
    let (probe, handle) = Probe::always(answer);
    let seen = exchange(&mut layer.layer(probe), request, Read::LikeHyper)
        .await
        .unwrap();
    assert_eq!(handle.in_flight(), 0);
    (seen, layer.handle().stats().responses)
}

#[tokio::test]
async fn a_response_that_is_too_large_fails_and_does_not_look_complete() {
    for (body, passes) in [
        (TestBody::full("12345"), ""),
        (TestBody::chunks(["12345"]), ""),
        (TestBody::chunks(["12", "345"]), "12"),
        (TestBody::chunks(["1234", "5"]), "1234"),
    ] {
        let (seen, counted) =
            limited(Answer::ok().body(body.clone()), post(TestBody::empty())).await;
        assert_eq!((seen.head.status.as_u16(), counted), (200, 1));
        assert_eq!(seen.data(), passes.as_bytes());
        assert_eq!(
            seen.size_hint.exact(),
            None,
            "nobody stops before the error"
        );
        match seen.end {
            End::Failed(error) => assert!(error.is::<BodyTooLarge>(), "{error}"),
            end => panic!("{end:?}"),
        }

        let (seen, _) = limited(Answer::grpc(body), grpc_post(TestBody::empty())).await;
        assert_eq!(seen.data(), passes.as_bytes());
        let code = Code::from_headers(&seen.trailers.unwrap());
        assert_eq!(code, Some(Code::RESOURCE_EXHAUSTED));
    }
}

#[tokio::test]
async fn a_response_within_the_limit_passes_with_its_length_and_its_trailers() {
    let (seen, counted) = limited(
        Answer::ok().body(TestBody::full("1234")),
        post(TestBody::empty()),
    )
    .await;
    assert_eq!((seen.size_hint.exact(), counted), (Some(4), 0));
    assert!(seen.end.is_complete());
    let body = TestBody::chunks(["12", "34"]).trailer("x-sum", "7");
    let (seen, counted) = limited(Answer::ok().body(body), post(TestBody::empty())).await;
    assert_eq!((seen.size_hint.upper(), counted), (Some(4), 0));
    assert!(seen.end.is_complete() && seen.trailers.is_some());
}

#[tokio::test]
async fn the_length_of_an_answer_to_head_is_not_that_of_its_body() {
    let mut request = post(TestBody::empty());
    *request.method_mut() = Method::HEAD;
    let (seen, counted) = limited(Answer::ok().body(TestBody::full("12345")), request).await;
    assert_eq!((seen.size_hint.exact(), counted), (Some(5), 0));
}

#[tokio::test]
async fn what_is_too_large_is_no_success_to_a_breaker_outside() {
    let breaker = CircuitBreakerLayer::builder()
        .consecutive_failures(2)
        .build()
        .unwrap();
    let (probe, reached) = Probe::always(Answer::ok().body(TestBody::chunks(["12345"])));
    let mut service = ServiceBuilder::new()
        .layer(breaker)
        .layer(responses(4))
        .service(probe);
    for _ in 0..5 {
        let request = post(TestBody::empty());
        exchange(&mut service, request, Read::LikeHyper)
            .await
            .unwrap();
    }
    assert_eq!(reached.calls(), 2);
}

// ===== on and off =====

#[tokio::test]
async fn limits_come_and_go_with_their_options() {
    let live = Live::new(None);
    let layer = BodyLimitLayer::optional(live.clone()).unwrap();
    let status = async || {
        let (_, response) = read_by_handler(&layer, post(TestBody::full("12345"))).await;
        response.status().as_u16()
    };
    assert_eq!(status().await, 200);
    let config = |limit| BodyLimitConfig {
        request: Some(ByteSize::new(limit)),
        name: "comes-and-goes".to_owned(),
        ..BodyLimitConfig::default()
    };
    live.set(Some(config(4))).unwrap();
    assert_eq!(status().await, 413);
    let labels = [("policy", "comes-and-goes"), ("body", "request")];
    let counted = metrics::snapshot().counter("mesh_body_limit_exceeded_total", &labels);
    assert_eq!(counted, Some(1));
    assert!(live.set(Some(BodyLimitConfig::default())).is_err());
    assert_eq!(status().await, 413, "the last good one stays");
    live.set(Some(config(5))).unwrap();
    assert_eq!(status().await, 200);
    live.set(None).unwrap();
    assert_eq!(status().await, 200);
}

/// Frames of a body are counted by what they have, and not by how they lie in memory.
#[tokio::test]
async fn a_frame_that_is_a_slice_counts_as_what_it_is() {
    let data = Bytes::from("0123456789").slice(3..7);
    let body = Full::new(data)
        .map_err(|never| match never {})
        .boxed_unsync();
    assert_eq!(body.size_hint().exact(), Some(4));
    let (seen, _) = read_by_handler(&requests(4), post(TestBody::empty()).map(|_| body)).await;
    assert_eq!(seen.unwrap().0, 4);
}
