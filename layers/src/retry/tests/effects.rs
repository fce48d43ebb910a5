//! What may be sent twice, and what must not: methods, marks, bodies.

use super::*;
use crate::{
    RequestMatch, TransportError,
    test_util::{ProbeError, drive::Steps},
};

async fn attempts_for(rig: &Rig, request: Request<RequestBody>) -> u64 {
    let before = rig.probe.calls();
    _ = rig.call(request).await;
    rig.probe.calls() - before
}

/// R12, and its teeth: the same calls, declared safe to repeat.
#[tokio::test(start_paused = true)]
async fn ten_thousand_posts_are_sent_ten_thousand_times() {
    for answer in [Answer::status(503), Answer::fail(ProbeError::reset())] {
        let rig = Rig::answering([answer.clone()]);
        for _ in 0..10_000 {
            _ = rig.call(request(Method::POST, "order")).await;
        }
        assert_eq!(rig.probe.calls(), 10_000);
        assert_eq!(rig.retries.gave_up(GaveUp::NotIdempotent), 10_000);

        let layer = generous().non_idempotent().build().unwrap();
        let rig = Rig::new(&layer, Probe::always(answer));
        assert_eq!(attempts_for(&rig, request(Method::POST, "order")).await, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn methods_follow_rfc_9110() {
    let rig = Rig::answering([Answer::status(503)]);
    for (method, attempts) in [
        (Method::GET, 3),
        (Method::HEAD, 3),
        (Method::OPTIONS, 3),
        (Method::TRACE, 3),
        (Method::PUT, 3),
        (Method::DELETE, 3),
        (Method::POST, 1),
        (Method::PATCH, 1),
        (Method::CONNECT, 1),
    ] {
        let call = request(method.clone(), TestBody::empty());
        assert_eq!(attempts_for(&rig, call).await, attempts, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_post_may_be_declared_safe_to_repeat() {
    let layer = generous()
        .idempotent(RequestMatch::path_prefix("/search"))
        .build()
        .unwrap();
    let rig = Rig::new(&layer, Probe::always(Answer::status(503)));

    let mut with_key = request(Method::POST, "a");
    with_key
        .headers_mut()
        .insert("idempotency-key", "7".parse().unwrap());
    assert_eq!(attempts_for(&rig, with_key).await, 3);

    let mut marked = request(Method::POST, "a");
    marked.extensions_mut().insert(Idempotent);
    assert_eq!(attempts_for(&rig, marked).await, 3);

    let mut matched = request(Method::POST, "a");
    *matched.uri_mut() = "/search/all".parse().unwrap();
    assert_eq!(attempts_for(&rig, matched).await, 3);
    assert_eq!(attempts_for(&rig, request(Method::POST, "a")).await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_is_sent_again_whatever_its_method() {
    let refused = Answer::fail(ProbeError::refused());
    let rig = Rig::answering([refused.clone(), refused, Answer::ok()]);
    assert_eq!(attempts_for(&rig, request(Method::POST, "order")).await, 3);
    assert_eq!(rig.retries.stats().recovered, 1);
}

/// R15: the peer refused the stream unseen. Once that is free, then it costs.
#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_retried_once_outside_of_the_budget() {
    let peer = |refusals: u32| {
        let left = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(refusals));
        tower::service_fn(move |_: Request<RequestBody>| {
            use std::sync::atomic::Ordering::SeqCst;
            let refused = left
                .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
                .is_ok();
            std::future::ready(if refused {
                Err(BoxError::from(
                    TransportError::reset("refused stream").unsent(),
                ))
            } else {
                Ok(Response::new(TestBody::empty()))
            })
        })
    };
    let layer = RetryLayer::builder()
        .budget(Ratio::ZERO, 0)
        .build()
        .unwrap();
    for (refusals, succeeds) in [(1, true), (2, false)] {
        let call = layer
            .layer(peer(refusals))
            .oneshot(request(Method::POST, "a"));
        let (answered, took) = timed(call).await;
        assert_eq!(answered.is_ok(), succeeds, "{refusals} refusals");
        assert_eq!(took, Duration::ZERO);
    }
    assert_eq!(layer.handle().stats().retries, 2);
    assert_eq!(layer.handle().gave_up(GaveUp::Budget), 1);
}

/// R14
#[tokio::test(start_paused = true)]
async fn a_long_upload_streams_on_and_is_not_retried() {
    const FRAME: usize = 64 * 1024;
    let frame = bytes(FRAME);
    let rig = Rig::answering([Answer::status(503)]);
    let upload = TestBody::chunks((0..1_024).map(|_| frame.clone()));
    let answered = rig.call(request(Method::PUT, upload)).await.unwrap();
    assert_eq!(answered.status(), 503);

    let received = rig.probe.requests();
    assert_eq!((received.len(), received[0].body.len()), (1, 64 << 20));
    assert!(received[0].body.chunks(FRAME).all(|chunk| chunk == frame));
    assert_eq!(rig.retries.gave_up(GaveUp::Body), 1);
    assert_eq!(rig.retries.stats().kept_bytes, 0);
}

/// R14
#[tokio::test(start_paused = true)]
async fn sixty_kib_and_trailers_are_sent_again() {
    let rig = Rig::answering([Answer::status(503), Answer::ok()]);
    let upload = TestBody::chunks((0..60).map(|_| bytes(1_024))).trailer("x-sum", "7");
    assert_eq!(
        rig.call(request(Method::PUT, upload))
            .await
            .unwrap()
            .status(),
        200
    );
    let received = rig.probe.requests();
    assert_eq!(received.len(), 2);
    for one in received {
        assert_eq!(one.body, bytes(1_024).repeat(60));
        assert_eq!(one.trailers.unwrap()["x-sum"], "7");
    }
}

/// R14: 160 MB in flight, of which 64 MiB are kept.
#[tokio::test(start_paused = true)]
async fn all_calls_together_keep_no_more_than_the_total() {
    let rig = Rig::answering([Answer::never()]);
    let content = bytes(16 * 1_024);
    let mut calls = Vec::new();
    for _ in 0..10_000 {
        let upload = TestBody::stream().data(content.clone());
        let mut call = Steps::new(rig.service.clone().oneshot(request(Method::PUT, upload)));
        _ = call.poll();
        calls.push(call);
        assert!(rig.retries.stats().kept_bytes <= 64 << 20);
    }
    assert_eq!(rig.probe.in_flight(), 10_000);
    assert_eq!(rig.retries.stats().kept_bytes, 64 << 20);
    drop(calls);
    assert_eq!(rig.retries.stats().kept_bytes, 0);
}

/// An attempt may be answered while its body is still held by a task of the transport.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_free_yet_is_waited_for_as_long_as_the_pause() {
    for (freed_after, attempts, status) in [(Duration::ZERO, 2, 200), (3_600_000 * MS, 1, 503)] {
        let calls = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counted = calls.clone();
        let peer = tower::service_fn(move |request: Request<RequestBody>| {
            let first = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
            if first {
                tokio::spawn(async move {
                    tokio::time::sleep(freed_after).await;
                    drop(request);
                });
            }
            let status = if first { 503 } else { 200 };
            let answer = Response::builder().status(status).body(TestBody::empty());
            std::future::ready(Ok::<_, BoxError>(answer.unwrap()))
        });
        let layer = generous()
            .backoff(250 * MS, 250 * MS)
            .seed(3)
            .build()
            .unwrap();
        let answered = layer.layer(peer).oneshot(request(Method::PUT, "abc")).await;
        assert_eq!(answered.unwrap().status(), status);
        assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), attempts);
        assert_eq!(layer.handle().gave_up(GaveUp::Body), 2 - attempts);
    }
}
