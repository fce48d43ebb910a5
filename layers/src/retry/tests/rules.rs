//! What counts for which requests, how many attempts an endpoint gets, and gRPC's tokens.

use parking_lot::Mutex;
use std::sync::Arc;

use super::*;
use crate::{CallContext, EndpointId, RequestMatch, context::picked, test_util::ProbeError};

fn at(method: Method, path: &str) -> Request<RequestBody> {
    let mut request = request(method, "x");
    *request.uri_mut() = path.parse().unwrap();
    request
}

fn under(prefix: &str) -> RetryRule {
    RetryRule::new([RequestMatch::path_prefix(prefix)])
}

#[tokio::test(start_paused = true)]
async fn the_first_rule_that_matches_counts_and_says_only_what_it_says() {
    let layer = generous()
        .rule(under("/orders/status").max_attempts(5))
        .rule(under("/orders").max_attempts(1))
        .rule(under("/search").idempotent(true))
        .rule(under("/counter").idempotent(false))
        .rule(under("/flaky").retry_on(["500".parse().unwrap(), "timeout".parse().unwrap()]))
        .rule(RetryRule::new([]).max_attempts(2));
    let layer = layer.build().unwrap();
    for (method, path, status, attempts) in [
        (Method::GET, "/orders/status/7", 503, 5),
        (Method::GET, "/orders/7", 503, 1),
        (Method::POST, "/search", 503, 3),
        (Method::POST, "/elsewhere", 503, 1),
        (Method::PUT, "/counter", 503, 1),
        (Method::GET, "/flaky", 500, 3),
        (Method::GET, "/flaky", 503, 1),
        (Method::GET, "/elsewhere", 503, 2),
    ] {
        let rig = Rig::new(&layer, Probe::always(Answer::status(status)));
        _ = rig.call(at(method.clone(), path)).await;
        assert_eq!(rig.probe.calls(), attempts, "{method} {path} {status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_has_its_own_time_for_an_attempt() {
    let slow = under("/reports")
        .attempt_timeout(5_000 * MS)
        .max_attempts(1);
    let layer = generous()
        .attempt_timeout(100 * MS)
        .max_attempts(2)
        .rule(slow);
    let rig = Rig::new(&layer.build().unwrap(), Probe::always(Answer::never()));
    for (path, least) in [("/reports/7", 5_000), ("/orders/7", 200)] {
        let (answered, took) = timed(rig.call(at(Method::GET, path))).await;
        assert_eq!(answered.unwrap().status(), 504);
        let expected = least * MS..(least + 60) * MS;
        assert!(expected.contains(&took), "{path}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rules_change_while_calls_run() {
    let options = |attempts| RetryConfig {
        rules: vec![under("/").max_attempts(attempts)],
        ..RetryConfig::default()
    };
    let live = Live::new(options(4));
    let layer = RetryLayer::live(live.clone()).unwrap();
    let bad = RetryConfig {
        rules: vec![under("/"), under("/a//b")],
        ..RetryConfig::default()
    };
    let refused = live.set(bad).unwrap_err();
    assert!(
        refused.path().starts_with("rules[1].matches[0].path"),
        "{refused}"
    );

    for attempts in [4, 2, 1] {
        live.set(options(attempts)).unwrap();
        let rig = Rig::new(&layer, Probe::always(Answer::status(503)));
        _ = rig.call(get()).await;
        assert_eq!(rig.probe.calls(), u64::from(attempts));
    }

    // One that has begun goes on with the rules it began with.
    live.set(options(3)).unwrap();
    let (probe, handle) = Probe::always(Answer::status(503));
    let mut call = tokio_test::task::spawn(layer.layer(probe).oneshot(get()));
    tokio_test::assert_pending!(call.poll());
    live.set(RetryConfig::default()).unwrap();
    _ = call.into_inner().await;
    assert_eq!(handle.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn ranges_of_statuses_are_retried() {
    let layer = generous().retry_on(["501-509".parse().unwrap()]);
    let layer = layer.build().unwrap();
    for (status, attempts) in [(500, 1), (501, 3), (509, 3), (510, 1)] {
        let rig = Rig::new(&layer, Probe::always(Answer::status(status)));
        _ = rig.call(get()).await;
        assert_eq!(rig.probe.calls(), attempts, "{status}");
    }
}

/// Endpoints of a balancer that goes round, unless it is told to stay.
async fn endpoints_of(layer: &RetryLayer) -> Vec<usize> {
    let ids = [(); 4].map(|()| EndpointId::new());
    let seen: Arc<Mutex<Vec<usize>>> = Arc::default();
    let record = seen.clone();
    let balance = tower::service_fn(move |request: Request<RequestBody>| {
        let tried = CallContext::get(request.extensions()).map(|context| context.attempt.tried);
        let tried = tried.unwrap_or_default();
        let next = match tried.again() {
            Some(again) => ids.iter().position(|id| *id == again).unwrap(),
            None => ids.iter().position(|id| !tried.contains(*id)).unwrap(),
        };
        picked::record(ids[next]);
        record.lock().push(next);
        let answer = Response::builder().status(503).body(TestBody::empty());
        std::future::ready(Ok::<_, BoxError>(answer.unwrap()))
    });
    layer.layer(balance).oneshot(get()).await.unwrap();
    std::mem::take(&mut seen.lock())
}

/// go-chassis: all attempts at one endpoint first, then the next one.
#[tokio::test(start_paused = true)]
async fn an_endpoint_gets_its_attempts_before_the_next_one() {
    for (on_same, on_next, expected) in [
        (2, 1, &[0, 0, 0, 1, 1, 1][..]),
        (3, 0, &[0, 0, 0, 0]),
        (0, 2, &[0, 1, 2]),
        (0, 0, &[0]),
    ] {
        let layer = generous().same_then_next(on_same, on_next).build().unwrap();
        assert_eq!(endpoints_of(&layer).await, expected);
    }
    let too_many = generous().same_then_next(4, 4).build().unwrap_err();
    assert_eq!(too_many.path(), "maxAttempts");
}

/// gRFC A6: the pauses begin anew after the peer has said when to come back.
#[tokio::test(start_paused = true)]
async fn pauses_begin_anew_after_a_pushback() {
    let longest = |answers: [Answer; 4]| async move {
        let layer = generous().max_attempts(5).backoff(100 * MS, 60_000 * MS);
        let layer = layer.seed(7).build().unwrap();
        let mut most = Duration::ZERO;
        for _ in 0..200 {
            let rig = Rig::new(&layer, Probe::sequence(answers.clone()));
            most = most.max(timed(rig.call(get())).await.1);
        }
        most
    };
    let failed = || Answer::status(503);
    let pushed = || Answer::status(503).header("retry-after", "0");
    let anew = longest([failed(), failed(), pushed(), failed()]).await;
    let doubled = longest([failed(), failed(), failed(), failed()]).await;
    // Nothing above 100 + 200 + 0 + 100, where without the pushback it is up to 1,500.
    assert!((300 * MS..=400 * MS).contains(&anew), "{anew:?}");
    assert!(doubled > 800 * MS, "{doubled:?}");
}

#[tokio::test(start_paused = true)]
async fn with_tokens_retries_stop_while_half_of_them_are_gone_and_come_back_with_successes() {
    let layer = RetryLayer::builder().throttling(10, Ratio::percent(50));
    let layer = layer.build().unwrap();
    let attempts = |answer: Answer| {
        let rig = Rig::new(&layer, Probe::always(answer));
        async move {
            _ = rig.call(get()).await;
            rig.probe.calls()
        }
    };
    // Three attempts cost three tokens; the next call has two attempts left until half are gone.
    assert_eq!(attempts(Answer::status(503)).await, 3);
    assert_eq!(layer.handle().stats().budget_remaining, 2);
    assert_eq!(attempts(Answer::status(503)).await, 2);
    for _ in 0..3 {
        assert_eq!(attempts(Answer::status(503)).await, 1);
    }
    assert_eq!(layer.handle().gave_up(GaveUp::Budget), 4);
    // 8 of 10 are gone. What fails otherwise says nothing, unless the peer says no.
    _ = attempts(Answer::status(404)).await;
    for _ in 0..7 {
        _ = attempts(Answer::ok()).await;
    }
    assert_eq!(layer.handle().stats().budget_remaining, 1, "4.5 are gone");
    _ = attempts(Answer::status(404).header("x-mesh-retry", "never")).await;
    assert_eq!(layer.handle().stats().budget_remaining, 0);
}

#[tokio::test(start_paused = true)]
async fn errors_cost_tokens_too() {
    let layer = RetryLayer::builder().throttling(4, Ratio::ONE).build();
    let rig = Rig::new(
        &layer.unwrap(),
        Probe::always(Answer::fail(ProbeError::refused())),
    );
    assert!(rig.call(get()).await.is_err());
    assert_eq!(rig.probe.calls(), 2);
}

/// A hedge around a retry: its attempts are not calls, and what it tried is not tried again.
#[tokio::test(start_paused = true)]
async fn a_second_attempt_of_an_outer_layer_goes_on_counting() {
    let [first, second] = [(); 2].map(|()| EndpointId::new());
    let seen: Arc<Mutex<Vec<_>>> = Arc::default();
    let record = seen.clone();
    let peer = tower::service_fn(move |request: Request<RequestBody>| {
        picked::record(second);
        let attempt = CallContext::get(request.extensions()).unwrap().attempt;
        let previous = request.headers().get("grpc-previous-rpc-attempts").cloned();
        record.lock().push((attempt, previous));
        let answer = Response::builder().header("grpc-status", "14");
        std::future::ready(Ok::<_, BoxError>(answer.body(TestBody::empty()).unwrap()))
    });
    let layer = generous().max_attempts(2).build().unwrap();
    let mut call = grpc();
    let context = CallContext::get_or_insert(call.extensions_mut());
    context.attempt.number = 2;
    context.attempt.tried.push(first);
    let (_, endpoint) = picked_by(layer.layer(peer).oneshot(call)).await;
    assert_eq!(endpoint, Some(second), "who hedges is told as well");

    let seen = std::mem::take(&mut *seen.lock());
    let [(one, none), (two, previous)] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!((one.number, two.number), (2, 3));
    assert_eq!(
        (none, previous.as_ref().unwrap().as_bytes()),
        (&None, &b"2"[..])
    );
    assert!(two.tried.contains(first) && two.tried.contains(second));
    assert_eq!(layer.handle().stats().calls, 0);
}

async fn picked_by<F: Future>(future: F) -> (F::Output, Option<EndpointId>) {
    let mut future = std::pin::pin!(future);
    let mut endpoint = None;
    let output = futures_util::future::poll_fn(|cx| {
        let (polled, picked) = picked::scope(|| future.as_mut().poll(cx));
        endpoint = picked.or(endpoint);
        polled
    });
    (output.await, endpoint)
}

/// go-micro's and go-chassis' cases: a server error is an answer like any other until it is listed, and
/// with one retry there are two attempts.
#[tokio::test(start_paused = true)]
async fn what_is_listed_is_tried_once_more_and_anything_else_is_the_answer() {
    let once_more = || generous().max_attempts(2);
    let listed = || once_more().retry_on(["500".parse().unwrap(), "408".parse().unwrap()]);
    for (builder, status, attempts) in [
        (once_more(), 500, 1),
        (listed(), 500, 2),
        (listed(), 408, 2),
        (listed(), 404, 1),
    ] {
        let layer = builder.build().unwrap();
        let rig = Rig::new(
            &layer,
            Probe::sequence([Answer::status(status), Answer::ok()]),
        );
        let answered = rig.call(get()).await.unwrap().status().as_u16();
        let expected = if attempts == 1 { status } else { 200 };
        assert_eq!((answered, rig.probe.calls()), (expected, attempts));
    }
}

/// go-micro's case: a caller has 200 ms, and ten attempts are allowed.
#[tokio::test(start_paused = true)]
async fn however_many_attempts_are_left_a_call_is_over_by_its_deadline() {
    let layer = generous().max_attempts(10).backoff(100 * MS, 100 * MS);
    let rig = Rig::new(&layer.build().unwrap(), Probe::always(Answer::status(503)));
    for _ in 0..20 {
        let mut request = get();
        let context = CallContext::get_or_insert(request.extensions_mut());
        context.deadline = Some(Instant::now() + 200 * MS);
        let (answered, took) = timed(rig.call(request)).await;
        assert_eq!(answered.unwrap().status(), 503);
        assert!(took <= 200 * MS, "{took:?}");
    }
    assert!(rig.probe.calls() > 20);
}
