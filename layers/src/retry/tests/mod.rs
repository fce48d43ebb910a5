mod commit;
mod effects;
mod heads;
mod hosts;
mod peek;
mod pushback;
mod rules;
mod storm;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::{
    BoxError, Live, Ratio, ResponseBody,
    test_util::{
        Answer, Probe, ProbeHandle, TestBody,
        contract::{Contract, RequestBody, pairs},
    },
};

const MS: Duration = Duration::from_millis(1);

type Answered = Result<Response<ResponseBody<PeekedBody<TestBody>>>, BoxError>;

/// A layer over a probe.
struct Rig {
    service: Retry<Probe>,
    probe: ProbeHandle,
    retries: RetryHandle,
}

impl Rig {
    fn new(layer: &RetryLayer, (probe, handle): (Probe, ProbeHandle)) -> Self {
        Self {
            service: layer.layer(probe),
            probe: handle,
            retries: layer.handle(),
        }
    }

    /// Three attempts at most, and no shortage of budget.
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::new(&generous().build().unwrap(), Probe::sequence(answers))
    }

    async fn call(&self, request: Request<RequestBody>) -> Answered {
        self.service.clone().oneshot(request).await
    }
}

fn generous() -> RetryBuilder {
    RetryLayer::builder().budget(Ratio::ONE, 1_000_000)
}

fn body(body: impl Into<TestBody>) -> RequestBody {
    body.into().boxed_unsync()
}

fn request(method: Method, content: impl Into<TestBody>) -> Request<RequestBody> {
    let mut request = Request::new(body(content));
    *request.method_mut() = method;
    request
}

fn get() -> Request<RequestBody> {
    request(Method::GET, TestBody::empty())
}

fn grpc() -> Request<RequestBody> {
    crate::test_util::bodies::grpc_request("/shop.Orders/Place", TestBody::stream().data("ask"))
        .map(body)
}

fn contract() -> Contract<RetryLayer> {
    Contract::new(|| generous().build().unwrap())
        .clones_per_call(0)
        .held_at_rest(|layer| layer.handle().stats().kept_bytes)
        .script(|call| match call {
            0 => Answer::status(503).pending_times(1),
            _ => Answer::ok().pending_times(1),
        })
        .script(|call| match call {
            0 => Answer::grpc_status("14").header("grpc-retry-pushback-ms", "50"),
            _ => Answer::grpc(TestBody::stream().data("abc").trailer("grpc-status", "0")),
        })
}

fn with_timeout() -> Contract<RetryLayer> {
    let layer = || generous().attempt_timeout(50 * MS).build().unwrap();
    Contract::new(layer)
        .named("RetryLayer with an attempt timeout")
        .clones_per_call(0)
        .held_at_rest(|layer| layer.handle().stats().kept_bytes)
        .script(|call| match call {
            0 => Answer::never(),
            _ => Answer::ok().pending_times(1),
        })
}

#[test]
fn the_layer_keeps_the_contract() {
    contract().check();
}

#[test]
fn the_layer_keeps_the_contract_over_itself() {
    pairs!(contract());
}

#[test]
fn the_layer_keeps_the_contract_with_an_attempt_timeout() {
    with_timeout().check();
}

#[tokio::test]
async fn a_call_that_succeeds_at_once_clones_nothing() {
    let rig = Rig::answering([Answer::ok()]);
    let mut service = rig.service.clone();
    let before = rig.probe.clones();
    for _ in 0..10 {
        let called = ready(&mut service).await.call(get()).await.unwrap();
        assert_eq!(called.status(), 200);
    }
    assert_eq!(rig.probe.clones(), before);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_gets_the_whole_request() {
    #[derive(Clone, PartialEq, Debug)]
    struct Mark(u32);

    let rig = Rig::answering([Answer::status(503), Answer::status(503), Answer::ok()]);
    let body = TestBody::stream()
        .data("ab")
        .data("c")
        .trailer("x-sum", "7");
    let mut call = request(Method::PUT, body);
    *call.uri_mut() = "/orders/7?full".parse().unwrap();
    call.headers_mut().insert("x-tenant", "a".parse().unwrap());
    call.extensions_mut().insert(Mark(7));
    assert_eq!(rig.call(call).await.unwrap().status(), 200);

    let received = rig.probe.requests();
    assert_eq!(received.len(), 3);
    for one in received {
        assert_eq!(
            (one.method, one.uri.to_string()),
            (Method::PUT, "/orders/7?full".into())
        );
        assert_eq!(
            (&one.headers["x-tenant"], one.body),
            (&"a".parse().unwrap(), "abc".into())
        );
        assert_eq!(one.trailers.unwrap()["x-sum"], "7");
    }
    let stats = rig.retries.stats();
    assert_eq!((stats.calls, stats.retries, stats.recovered), (1, 2, 1));

    // The probe does not keep extensions.
    let seen = tower::service_fn(|call: Request<RequestBody>| async move {
        let mark = call.extensions().get::<Mark>().cloned();
        assert_eq!(mark, Some(Mark(7)));
        Ok::<_, BoxError>(
            Response::builder()
                .status(503)
                .body(TestBody::empty())
                .unwrap(),
        )
    });
    let mut call = get();
    call.extensions_mut().insert(Mark(7));
    let answered = generous().build().unwrap().layer(seen).oneshot(call).await;
    assert_eq!(answered.unwrap().status(), 503);
}

#[tokio::test(start_paused = true)]
async fn one_attempt_means_no_retry_and_nothing_is_kept() {
    let layer = generous().max_attempts(1).build().unwrap();
    let rig = Rig::new(&layer, Probe::always(Answer::status(503)));
    assert_eq!(rig.call(get()).await.unwrap().status(), 503);
    let stats = rig.retries.stats();
    assert_eq!((rig.probe.calls(), stats.retries, stats.gave_up), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn options_change_while_calls_run_and_what_was_spent_stays_spent() {
    let config = crate::Live::new(RetryConfig {
        budget: BudgetConfig::Ratio {
            ratio: Ratio::ZERO,
            reserve: 1,
        },
        ..RetryConfig::default()
    });
    let layer = RetryLayer::live(config.clone()).unwrap();
    let rig = Rig::new(&layer, Probe::always(Answer::status(503)));
    for _ in 0..5 {
        _ = rig.call(get()).await;
    }
    assert_eq!(rig.retries.stats().budget_remaining, 0);
    let mut wider = (*config.get()).clone();
    wider.budget = BudgetConfig::Ratio {
        ratio: Ratio::ZERO,
        reserve: 2,
    };
    wider.max_attempts = 100;
    assert!(config.set(wider.clone()).is_err());
    assert_eq!(rig.retries.stats().budget_remaining, 0);
    wider.max_attempts = 2;
    config.set(wider).unwrap();
    assert_eq!(
        rig.retries.stats().budget_remaining,
        10,
        "20 less the 10 spent"
    );
    let before = rig.probe.calls();
    _ = rig.call(get()).await;
    assert_eq!(rig.probe.calls() - before, 2);
}

#[tokio::test(start_paused = true)]
async fn metrics_say_what_was_retried_and_why_not() {
    let name = "metrics_say_what_was_retried";
    let layer = RetryLayer::builder()
        .name(name)
        .budget(Ratio::ZERO, 1)
        .build()
        .unwrap();
    let rig = Rig::new(&layer, Probe::always(Answer::status(503)));
    for _ in 0..6 {
        _ = rig.call(get()).await;
    }
    let seen = crate::metrics::snapshot();
    let count = |metric, reason: &str| {
        let labels = [("policy", name), ("reason", reason)];
        seen.counter(
            metric,
            if reason.is_empty() {
                &labels[..1]
            } else {
                &labels
            },
        )
    };
    assert_eq!(count("mesh_retry_calls_total", ""), Some(6));
    assert_eq!(count("mesh_retry_retries_total", "status"), Some(10));
    assert_eq!(count("mesh_retry_gave_up_total", "attempts"), Some(5));
    assert_eq!(count("mesh_retry_gave_up_total", "budget"), Some(1));
    let gauge = |metric| seen.gauge(metric, &[("policy", name)]);
    assert_eq!(gauge("mesh_retry_budget_remaining"), Some(0.0));
    assert_eq!(gauge("mesh_retry_kept_bytes"), Some(0.0));
}

async fn ready(service: &mut Retry<Probe>) -> &mut Retry<Probe> {
    let ready = ServiceExt::<Request<RequestBody>>::ready(service).await;
    ready.expect("the probe is ready")
}

/// How long the paused clock ran.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    let output = work.await;
    (output, start.elapsed())
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| n as u8).collect::<Vec<_>>().into()
}

#[tokio::test(start_paused = true)]
async fn retries_come_and_go_with_their_options() {
    let live = Live::new(None);
    let layer = RetryLayer::optional(live.clone()).unwrap();
    let rig = Rig::new(&layer, Probe::always(Answer::status(503)));
    for (options, attempts) in [(None, 1), (Some(RetryConfig::default()), 3), (None, 1)] {
        live.set(options).unwrap();
        let before = rig.probe.calls();
        assert_eq!(rig.call(get()).await.unwrap().status(), 503);
        assert_eq!(rig.probe.calls() - before, attempts);
    }
    let calls = rig.retries.stats().calls;
    assert_eq!(calls, 1, "what passes untouched is not counted");
}

#[tokio::test(start_paused = true)]
async fn a_call_keeps_the_options_it_began_with_over_a_change() {
    let options = |attempts| {
        Some(RetryConfig {
            max_attempts: attempts,
            ..RetryConfig::default()
        })
    };
    let live = Live::new(options(4));
    let layer = RetryLayer::optional(live.clone()).unwrap();
    for (change, attempts) in [(options(2), 4), (None, 2)] {
        let (probe, handle) = Probe::always(Answer::status(503));
        let mut call = tokio_test::task::spawn(layer.layer(probe).oneshot(get()));
        tokio_test::assert_pending!(call.poll());
        assert_eq!(handle.calls(), 1, "it waits for its second attempt");
        live.set(change).unwrap();
        assert_eq!(call.into_inner().await.unwrap().status(), 503);
        assert_eq!(handle.calls(), attempts);
    }
}
