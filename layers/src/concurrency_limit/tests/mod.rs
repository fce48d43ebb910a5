mod gate;
mod model;

use std::{convert::Infallible, future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::time::Instant;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    CallContext, Key, Live, Pushback, Reason, Rejection, Wheel,
    test_util::{
        Answer, Gate, Probe, ProbeHandle, TestBody,
        bodies::get,
        drive::{self, Step, Steps, advance},
    },
    vocab::{grpc, metrics},
};

/// A layer, a probe whose answers wait for the gate, and a service of the two.
struct Rig {
    layer: ConcurrencyLimitLayer,
    service: ConcurrencyLimit<Probe>,
    probe: ProbeHandle,
    gate: Gate,
}

/// A call under control of the test.
struct Call<F: Future> {
    steps: Steps<F>,
    /// Where it came with the first poll.
    answer: Option<F::Output>,
}

type Called = Response<ResponseBody<TestBody>>;

// ===== impl Rig =====

impl Rig {
    fn new(builder: ConcurrencyLimitBuilder) -> Self {
        Self::of(builder.build().unwrap())
    }

    fn of(layer: ConcurrencyLimitLayer) -> Self {
        let gate = Gate::new();
        let answered = gate.clone();
        let (probe, handle) =
            Probe::answering(move |_, _| Answer::ok().gated(&answered).body(TestBody::full("a")));
        Self {
            service: layer.layer(probe),
            layer,
            probe: handle,
            gate,
        }
    }

    /// A call that has been polled once.
    fn call(&self) -> Call<impl Future<Output = Called> + use<>> {
        self.call_with(get("/"))
    }

    fn call_with(&self, request: Request<TestBody>) -> Call<impl Future<Output = Called> + use<>> {
        let service = self.service.clone();
        let mut call = Call {
            steps: Steps::new(async move { service.oneshot(request).await.unwrap() }),
            answer: None,
        };
        call.poll();
        call
    }

    fn stats(&self) -> ConcurrencyLimitStats {
        self.layer.handle().stats()
    }

    #[track_caller]
    fn assert_held(&self, in_flight: usize, waiting: usize) {
        let stats = self.stats();
        assert_eq!((stats.in_flight, stats.waiting), (in_flight, waiting));
    }
}

// ===== impl Call =====

impl<F: Future<Output = Called>> Call<F> {
    fn poll(&mut self) {
        if self.answer.is_some() {
            return;
        }
        match self.steps.poll() {
            Step::Done(answer) => self.answer = Some(answer),
            Step::Pending => {}
            Step::Panicked(_) | Step::Stuck => panic!("a call panicked"),
        }
    }

    fn wakes(&self) -> u64 {
        self.steps.wakes()
    }

    async fn answer(&mut self) -> Called {
        if let Some(answer) = self.answer.take() {
            return answer;
        }
        match self.steps.run(10).await {
            Step::Done(answer) => answer,
            _ => panic!("a call does not end"),
        }
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A call over a service that answers at once.
async fn refused(layer: &ConcurrencyLimitLayer, request: Request<Empty<Bytes>>) -> http::HeaderMap {
    let handler = service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let response = layer.layer(handler).oneshot(request).await.unwrap();
    assert!(response.extensions().get::<Rejection>().is_some());
    response.headers().clone()
}

#[tokio::test(start_paused = true)]
async fn without_a_queue_the_second_of_two_calls_is_refused_at_once() {
    let rig = Rig::new(ConcurrencyLimitLayer::builder(1));
    let mut first = rig.call();
    let mut second = rig.call();
    let response = second.answer().await;
    assert_eq!(response.status(), 503);
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert_eq!(rejection.reason(), Reason::ConcurrencyLimit);
    let wait = Pushback::After(Duration::from_secs(1));
    assert_eq!(rejection.pushback(), Some(wait));
    assert_eq!(rig.probe.calls(), 1);

    // The head is not the end.
    rig.gate.open();
    let response = first.answer().await;
    rig.assert_held(1, 0);
    drop(response);
    rig.assert_held(0, 0);
    assert_eq!(rig.stats().full, 1);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_rendered_for_the_protocol_and_say_when_to_come_back() {
    for (retry_after, header, pushback) in [
        (millis(2_500), Some("3"), Some("2500")),
        (Duration::ZERO, None, None),
    ] {
        let layer = ConcurrencyLimitLayer::builder(1).retry_after(retry_after);
        let rig = Rig::new(layer);
        let _in_flight = rig.call();
        let headers = refused(&rig.layer, Request::default()).await;
        let value = |headers: &http::HeaderMap, name| {
            headers
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(value(&headers, "retry-after").as_deref(), header);

        let grpc = Request::post("/shop.Orders/Get")
            .header("content-type", "application/grpc")
            .body(Empty::new())
            .unwrap();
        let headers = refused(&rig.layer, grpc).await;
        let code = grpc::Code::from_headers(&headers);
        assert_eq!(code, Some(grpc::Code::UNAVAILABLE));
        assert_eq!(
            value(&headers, "grpc-retry-pushback-ms").as_deref(),
            pushback
        );
    }
}

#[tokio::test(start_paused = true)]
async fn calls_wait_in_the_order_they_came_and_nobody_overtakes() {
    let rig = Rig::new(ConcurrencyLimitLayer::builder(1).queue(3));
    rig.gate.open();
    let mut first = rig.call();
    let mut waiting: Vec<_> = (0..3).map(|_| rig.call()).collect();
    rig.assert_held(1, 3);
    let mut too_many = rig.call();
    assert_eq!(too_many.answer().await.status(), 503);

    let mut response = first.answer().await;
    for next in 0..4 {
        assert_eq!(waiting[next].wakes(), 0, "{next} is woken before its turn");
        drop(response);
        assert_eq!(waiting[next].wakes(), 1, "{next} is not woken");
        if next == 0 {
            // Its turn has come, it has not been polled, and a newcomer does not get in between.
            waiting.push(rig.call());
            rig.assert_held(1, 3);
        }
        response = waiting[next].answer().await;
        assert_eq!(response.status(), 200);
    }
    drop(response);
    rig.assert_held(0, 0);
    assert_eq!(rig.layer.handle().waits().count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_queue_timeout_and_no_longer() {
    let rig = Rig::new(
        ConcurrencyLimitLayer::builder(1)
            .queue(9)
            .queue_timeout(millis(200)),
    );
    let _in_flight = rig.call();
    let mut late = rig.call();
    let start = Instant::now();
    let response = late.answer().await;
    let waited = start.elapsed();
    assert!((millis(200)..=millis(200) + Wheel::PRECISION).contains(&waited));
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    rig.assert_held(1, 0);
    assert_eq!((rig.stats().timed_out, rig.probe.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_wait_past_its_deadline() {
    let rig = Rig::new(ConcurrencyLimitLayer::builder(1).queue(9));
    let _in_flight = rig.call();
    let start = Instant::now();
    for (deadline, waits) in [(millis(100), millis(100)), (Duration::ZERO, Duration::ZERO)] {
        let mut request = get("/");
        let start = Instant::now();
        let context = CallContext::get_or_insert(request.extensions_mut());
        context.deadline = Some(start + deadline);
        let response = rig.call_with(request).answer().await;
        assert_eq!(response.status(), 504);
        let waited = start.elapsed();
        assert!((waits..=waits + Wheel::PRECISION).contains(&waited));
    }
    assert_eq!((rig.stats().past_deadline, rig.stats().timed_out), (2, 0));
    // A later deadline leaves the queue's timeout as it is.
    let mut request = get("/");
    CallContext::get_or_insert(request.extensions_mut()).deadline =
        Some(start + 60 * millis(1_000));
    assert_eq!(rig.call_with(request).answer().await.status(), 503);
}

#[tokio::test(start_paused = true)]
async fn a_standing_queue_is_kept_short_and_one_that_empties_may_be_long() {
    let layer = ConcurrencyLimitLayer::builder(1).queue(9);
    let rig = Rig::new(layer.queue_timeout(millis(100)).target_delay(millis(10)));
    let _in_flight = rig.call();
    let assert_waits = async |mut call: Call<_>, time: Duration| {
        let start = Instant::now();
        assert_eq!(call.answer().await.status(), 503);
        let waited = start.elapsed();
        assert!(
            (time..=time + Wheel::PRECISION).contains(&waited),
            "{waited:?}"
        );
    };

    let first = rig.call();
    advance(millis(60)).await;
    let second = rig.call();
    assert_waits(first, millis(40)).await;
    // The queue has stood for 100 ms, and the second is in it still.
    assert_waits(rig.call(), millis(10)).await;
    assert_waits(rig.call(), millis(10)).await;
    drop(second);
    rig.assert_held(1, 0);
    // It was empty for a moment.
    assert_waits(rig.call(), millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_higher_limit_lets_in_who_waits_and_a_lower_one_is_reached_as_calls_end() {
    let config = |limit| ConcurrencyLimitConfig {
        queue: 9,
        ..ConcurrencyLimitConfig::new(limit)
    };
    let live = Live::new(config(1));
    let rig = Rig::of(ConcurrencyLimitLayer::live(live.clone()).unwrap());
    let mut calls: Vec<_> = (0..5).map(|_| rig.call()).collect();
    rig.assert_held(1, 4);

    // Nothing else happens: no call comes, and none ends.
    live.set(config(3)).unwrap();
    rig.assert_held(3, 2);
    assert!(calls[1].wakes() == 1 && calls[2].wakes() == 1 && calls[3].wakes() == 0);
    for call in &mut calls[1..3] {
        call.poll();
    }
    assert_eq!(rig.probe.calls(), 3);

    live.set(config(1)).unwrap();
    rig.assert_held(3, 2);
    rig.gate.open();
    for (call, left) in calls
        .iter_mut()
        .zip([(2, 2), (1, 2), (1, 1), (1, 0), (0, 0)])
    {
        drop(call.answer().await);
        rig.assert_held(left.0, left.1);
    }

    let refused = live.set(config(0)).unwrap_err();
    assert_eq!(refused.to_string(), "limit: got `0`, expected 1 to 1000000");
    assert_eq!(rig.stats().limit, Some(1));
}

#[tokio::test(start_paused = true)]
async fn without_options_nobody_waits_and_with_new_ones_all_begin_anew() {
    let some = ConcurrencyLimitConfig {
        queue: 9,
        ..ConcurrencyLimitConfig::new(1)
    };
    let live = Live::new(Some(some.clone()));
    let rig = Rig::of(ConcurrencyLimitLayer::optional(live.clone()).unwrap());
    let mut calls: Vec<_> = (0..3).map(|_| rig.call()).collect();

    live.set(None).unwrap();
    calls.extend((0..3).map(|_| rig.call()));
    for call in &mut calls {
        call.poll();
    }
    assert_eq!((rig.probe.calls(), rig.stats().limit), (6, None));

    // Old calls end without being missed.
    live.set(Some(some)).unwrap();
    let mut counted = rig.call();
    rig.assert_held(1, 0);
    rig.gate.open();
    for call in &mut calls {
        drop(call.answer().await);
    }
    rig.assert_held(1, 0);
    drop(counted.answer().await);
    rig.assert_held(0, 0);
}

#[tokio::test(start_paused = true)]
async fn under_another_key_those_who_wait_get_in_as_the_calls_before_them_end() {
    let config = |key| ConcurrencyLimitConfig {
        queue: 9,
        key,
        ..ConcurrencyLimitConfig::new(1)
    };
    let live = Live::new(config(Key::global()));
    let rig = Rig::of(ConcurrencyLimitLayer::live(live.clone()).unwrap());
    let (mut first, mut second) = (rig.call(), rig.call());
    live.set(config(Key::operation())).unwrap();
    let mut other = rig.call();
    rig.assert_held(1, 0);
    rig.gate.open();
    for call in [&mut first, &mut second, &mut other] {
        drop(call.answer().await);
    }
    assert_eq!(rig.probe.calls(), 3);
    rig.assert_held(0, 0);
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_limit_and_its_queue_up_to_the_cap() {
    let key = Key::header("x-tenant").unwrap();
    let layer = ConcurrencyLimitLayer::builder(1).queue(1).key(key);
    let rig = Rig::new(layer.max_keys(3));
    let tenant = |tenant: u32| {
        let mut request = get("/");
        request.headers_mut().insert("x-tenant", tenant.into());
        request
    };
    let mut calls: Vec<_> = (0..5)
        .flat_map(|number| [tenant(number), tenant(number)])
        .map(|request| rig.call_with(request))
        .collect();
    // Three limits, and the one that the last two tenants share.
    rig.assert_held(4, 4);
    assert_eq!(rig.stats().keys, 3);
    assert_eq!(rig.stats().full, 2);
    rig.gate.open();
    for call in &mut calls {
        drop(call.answer().await);
    }
    rig.assert_held(0, 0);
}

#[tokio::test(start_paused = true)]
async fn metrics_show_what_is_held_and_what_was_refused() {
    let layer = ConcurrencyLimitLayer::builder(1).queue(1);
    let rig = Rig::new(layer.name("metrics-of-concurrency"));
    let (mut first, mut second) = (rig.call(), rig.call());
    drop(rig.call());
    let labels = [("policy", "metrics-of-concurrency")];
    let seen = metrics::snapshot();
    for (gauge, value) in [("in_flight", 1.0), ("waiting", 1.0), ("max_in_flight", 1.0)] {
        let name = format!("mesh_concurrency_limit_{gauge}");
        assert_eq!(seen.gauge(&name, &labels), Some(value), "{name}");
    }
    let rejected = [labels[0], ("reason", "full")];
    let name = "mesh_concurrency_limit_rejected_total";
    assert_eq!(seen.counter(name, &rejected), Some(1));

    advance(millis(300)).await;
    rig.gate.open();
    drop(first.answer().await);
    drop(second.answer().await);
    let seen = metrics::snapshot();
    let name = "mesh_concurrency_limit_wait_seconds";
    let waits = seen.histogram(name, &labels).unwrap();
    assert_eq!(waits.count(), 1);
    let waited = waits.quantile(0.5).unwrap().as_secs_f64();
    assert!((waited / 0.3 - 1.0).abs() < 0.05, "{waited}");
}

#[test]
fn a_call_gives_its_place_back_wherever_it_is_dropped() {
    for limit in [1, 2] {
        let drops = drive::run_paused(async move {
            let rig = Rig::new(ConcurrencyLimitLayer::builder(limit).queue(2));
            rig.gate.open();
            let mut drops = 0;
            loop {
                let mut first = rig.call();
                let mut call = rig.call();
                let mut behind = rig.call();
                let response = first.answer().await;
                if drops == 0 {
                    drop(call); // waits
                    drop(response);
                } else {
                    drop(response); // its turn has come
                    for _ in 1..drops {
                        call.poll();
                    }
                    drop(call);
                }
                assert_eq!(behind.answer().await.status(), 200);
                drop(behind);
                drop(first);
                rig.assert_held(0, 0);
                drops += 1;
                if drops == 4 {
                    return drops;
                }
            }
        });
        assert_eq!(drops, 4);
    }
}
