mod hosts;
mod load;

use std::{sync::Arc, time::Duration};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::{
    BoxError, Budget, CallContext, EndpointId, Idempotent, Live, Ratio, Reason, Rejection,
    RequestMatch,
    context::picked,
    test_util::{
        Answer, Gate, Probe, ProbeError, ProbeHandle, TestBody, bodies,
        contract::{Contract, RequestBody, pairs},
    },
};

const MS: Duration = Duration::from_millis(1);
/// When another attempt is made here, and by when it surely is.
const DELAY: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_millis(106);

type Answered = Result<Response<TestBody>, BoxError>;

/// A layer over a probe.
struct Rig {
    service: Hedge<Probe>,
    probe: ProbeHandle,
    hedges: HedgeHandle,
}

impl Rig {
    fn new(layer: &HedgeLayer, (probe, handle): (Probe, ProbeHandle)) -> Self {
        Self {
            service: layer.layer(probe),
            probe: handle,
            hedges: layer.handle(),
        }
    }

    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::new(&generous().build().unwrap(), Probe::sequence(answers))
    }

    async fn call(&self, request: Request<RequestBody>) -> Answered {
        self.service.clone().oneshot(request).await
    }
}

/// A fixed delay, and no cap that binds.
fn generous() -> HedgeBuilder {
    HedgeLayer::builder().delay(DELAY).extra_load(Ratio::ONE)
}

fn request(method: Method, content: impl Into<TestBody>) -> Request<RequestBody> {
    let mut request = Request::new(content.into().boxed_unsync());
    *request.method_mut() = method;
    request
}

fn get() -> Request<RequestBody> {
    request(Method::GET, TestBody::empty())
}

fn grpc() -> Request<RequestBody> {
    let body = TestBody::stream().data("ask");
    bodies::grpc_request("/shop.Orders/Find", body).map(|body| body.boxed_unsync())
}

/// An answer that comes after a time.
#[derive(Clone)]
struct After(Duration, Result<u16, ProbeError>);

/// A peer whose attempts each take their time; it notes what they were told.
#[derive(Clone, Default)]
struct Peer {
    seen: Arc<Mutex<Vec<(Duration, crate::context::Attempt, http::HeaderMap)>>>,
    dropped: Arc<Mutex<Vec<usize>>>,
}

struct Noted(Arc<Mutex<Vec<usize>>>, usize);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.lock().push(self.1);
    }
}

impl Peer {
    fn service(
        &self,
        ids: Vec<EndpointId>,
        answers: Vec<After>,
    ) -> impl Service<
        Request<RequestBody>,
        Response = Response<TestBody>,
        Error = BoxError,
        Future: Send,
    > + Clone {
        let (peer, start) = (self.clone(), Instant::now());
        tower::service_fn(move |request: Request<RequestBody>| {
            let mut seen = peer.seen.lock();
            let nth = seen.len();
            let context = CallContext::get(request.extensions());
            let attempt = context.map_or_else(|| CallContext::new().attempt, |c| c.attempt);
            seen.push((start.elapsed(), attempt, request.headers().clone()));
            if let Some(id) = ids.get(nth) {
                picked::record(*id);
            }
            let After(time, answer) = answers[nth.min(answers.len() - 1)].clone();
            let noted = Noted(peer.dropped.clone(), nth);
            async move {
                let _noted = noted;
                tokio::time::sleep(time).await;
                let status = answer.map_err(BoxError::from)?;
                let answer = Response::builder().status(status).body(TestBody::empty());
                Ok(answer.unwrap())
            }
        })
    }
}

/// Calls that pay for several hedges of one.
async fn pay(layer: &HedgeLayer) {
    let service = layer.layer(Probe::always(Answer::ok()).0);
    for _ in 0..10 {
        assert!(service.clone().oneshot(get()).await.is_ok());
    }
}

/// How long the paused clock ran.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    let output = work.await;
    (output, start.elapsed())
}

fn contract() -> Contract<HedgeLayer> {
    let everything = RequestMatch::path_prefix("/");
    let builder = generous().idempotent(everything);
    Contract::new(move || builder.clone().build().unwrap())
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
fn the_layer_keeps_the_contract_with_a_percentile() {
    let layer = || HedgeLayer::builder().min_samples(10).build().unwrap();
    Contract::new(layer)
        .named("HedgeLayer with a percentile")
        .clones_per_call(0)
        .held_at_rest(|layer| layer.handle().stats().kept_bytes)
        .check();
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_sent_again_after_the_delay_and_not_before() {
    for (time, hedges, takes) in [
        (99, 0, 99 * MS..=99 * MS),
        (1_000, 1, 110 * MS..=LATE + 10 * MS),
    ] {
        let peer = Peer::default();
        let times = vec![After(time * MS, Ok(200)), After(10 * MS, Ok(201))];
        let layer = generous().build().unwrap();
        let (answered, took) = timed(layer.layer(peer.service(vec![], times)).oneshot(get())).await;
        assert_eq!(answered.unwrap().status().as_u16(), 200 + hedges as u16);
        assert!(takes.contains(&took), "{took:?}");
        let stats = layer.handle().stats();
        assert_eq!((stats.calls, stats.hedges, stats.won), (1, hedges, hedges));
        let seen = peer.seen.lock();
        assert!(seen[1..].iter().all(|(at, ..)| (DELAY..=LATE).contains(at)));
    }
}

/// R13: not when the caller drops the call, and not on a task of their own.
#[tokio::test(start_paused = true)]
async fn losers_are_dropped_in_the_poll_of_the_winner() {
    for (first, second, winner) in [(1_000, 10, 1), (150, 1_000, 0)] {
        let peer = Peer::default();
        let times = vec![After(first * MS, Ok(200)), After(second * MS, Ok(200))];
        let layer = generous().build().unwrap();
        let service = layer.layer(peer.service(vec![], times));
        let mut call = Box::pin(service.oneshot(get()));
        assert!(call.as_mut().await.is_ok());
        let dropped = peer.dropped.lock().clone();
        assert_eq!(dropped.len(), 2, "although the call itself is still there");
        assert!(dropped.contains(&winner));
        drop(call);
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_told_its_number_and_what_was_tried() {
    let ids = [(); 3].map(|()| EndpointId::new());
    let peer = Peer::default();
    let slow = vec![After(1_000 * MS, Ok(200))];
    let layer = generous()
        .max_attempts(3)
        .idempotent(RequestMatch::grpc_service("shop.Orders"))
        .build()
        .unwrap();
    pay(&layer).await;
    let mut call = grpc();
    call.headers_mut().insert("x-tenant", "a".parse().unwrap());
    let context = CallContext::get_or_insert(call.extensions_mut());
    context.deadline = Some(Instant::now() + 5_000 * MS);
    call.headers_mut()
        .insert("grpc-timeout", "5S".parse().unwrap());
    _ = layer
        .layer(peer.service(ids.to_vec(), slow))
        .oneshot(call)
        .await;

    let seen = std::mem::take(&mut *peer.seen.lock());
    assert_eq!(seen.len(), 3);
    for (nth, (at, attempt, headers)) in seen.into_iter().enumerate() {
        let due = nth as u32 * DELAY;
        assert!((due..=due + 12 * MS).contains(&at), "{at:?}");
        assert_eq!(attempt.number as usize, nth + 1);
        let tried = ids.map(|id| attempt.tried.contains(id));
        assert_eq!(tried, std::array::from_fn(|n| n < nth));
        assert_eq!(headers["x-tenant"], "a");
        let previous = headers.get("grpc-previous-rpc-attempts");
        let previous = previous.map(|previous| previous.to_str().unwrap().to_owned());
        assert_eq!(previous, (nth > 0).then(|| nth.to_string()));
        let left = crate::grpc::parse_timeout(&headers["grpc-timeout"]).unwrap();
        assert!(left <= 5_000 * MS - due);
    }
}

/// R12, and its teeth.
#[tokio::test(start_paused = true)]
async fn only_what_may_be_sent_twice_is() {
    let with_key = |mut request: Request<RequestBody>| {
        let headers = request.headers_mut();
        headers.insert("idempotency-key", "7".parse().unwrap());
        request
    };
    let marked = |mut request: Request<RequestBody>| {
        request.extensions_mut().insert(Idempotent);
        request
    };
    let search = |mut request: Request<RequestBody>| {
        *request.uri_mut() = "/search/all".parse().unwrap();
        request
    };
    let post = || request(Method::POST, "order");
    let layer = generous()
        .idempotent(RequestMatch::path_prefix("/search"))
        .build()
        .unwrap();
    let plain = generous().build().unwrap();
    let only = generous()
        .only(RequestMatch::path_prefix("/search"))
        .build()
        .unwrap();
    for (layer, request, attempts) in [
        (&plain, get(), 2),
        (&plain, request(Method::HEAD, TestBody::empty()), 2),
        (&plain, post(), 1),
        (&plain, request(Method::PUT, "order"), 1),
        (&plain, request(Method::DELETE, TestBody::empty()), 1),
        (&plain, grpc(), 1),
        (&plain, with_key(post()), 2),
        (&plain, marked(grpc()), 2),
        (&layer, search(post()), 2),
        (&layer, post(), 1),
        (&layer, get(), 2),
        (&only, get(), 1),
        (&only, search(get()), 2),
        (&only, search(post()), 1),
    ] {
        let name = format!("{} {}", request.method(), request.uri());
        let (probe, handle) = Probe::always(Answer::never());
        let call = layer.layer(probe).oneshot(request);
        assert!(tokio::time::timeout(1_000 * MS, call).await.is_err());
        assert_eq!(handle.calls(), attempts, "{name}");
        assert_eq!(handle.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_does_not_win_while_another_attempt_is_under_way() {
    let refused = || Err(ProbeError::refused());
    for (first, second, status, attempts) in [
        // The hedge fails fast: the first may still succeed.
        (
            After(500 * MS, Ok(200)),
            After(10 * MS, Ok(503)),
            Some(200),
            2,
        ),
        (
            After(500 * MS, Ok(200)),
            After(10 * MS, refused()),
            Some(200),
            2,
        ),
        // And the other way round.
        (
            After(120 * MS, Ok(503)),
            After(500 * MS, Ok(200)),
            Some(200),
            2,
        ),
        // With nobody else under way it is the answer; trying again is for others.
        (
            After(50 * MS, Ok(503)),
            After(0 * MS, Ok(200)),
            Some(503),
            1,
        ),
        (
            After(120 * MS, Ok(503)),
            After(100 * MS, Ok(502)),
            Some(502),
            2,
        ),
        (
            After(120 * MS, Ok(503)),
            After(100 * MS, refused()),
            None,
            2,
        ),
        // What is no failure of the peer's wins.
        (
            After(500 * MS, Ok(200)),
            After(10 * MS, Ok(404)),
            Some(404),
            2,
        ),
    ] {
        let peer = Peer::default();
        let layer = generous().build().unwrap();
        let service = layer.layer(peer.service(vec![], vec![first, second]));
        let answered = service.oneshot(get()).await;
        let seen = answered.ok().map(|answered| answered.status().as_u16());
        assert_eq!((seen, peer.seen.lock().len()), (status, attempts));
        assert_eq!(peer.dropped.lock().len(), attempts);
    }
}

/// A breaker or a limit below that refuses the hedge has no say in the call.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_this_process_does_not_win() {
    let refusing = tower::service_fn(|request: Request<RequestBody>| async move {
        if CallContext::get(request.extensions()).is_some() {
            let rejection = Rejection::new("circuit_breaker", Reason::CircuitOpen, "open");
            return Ok::<_, BoxError>(rejection.into_response(crate::CallKind::HTTP));
        }
        tokio::time::sleep(500 * MS).await;
        Ok(Response::new(crate::ResponseBody::inner(TestBody::empty())))
    });
    let layer = generous().build().unwrap();
    let answered = layer.layer(refusing).oneshot(get()).await.unwrap();
    assert_eq!(answered.status(), 200);
    assert_eq!(
        (layer.handle().stats().hedges, layer.handle().stats().won),
        (1, 0)
    );
}

/// R16, for hedges: gRFC A6.
#[tokio::test(start_paused = true)]
async fn a_pushback_holds_further_attempts_back() {
    for (answer, attempts, third_at) in [
        (Answer::status(503), 3, Some(200)),
        (
            Answer::status(503).header("retry-after", "1"),
            3,
            Some(1_100),
        ),
        (Answer::status(503).header("x-mesh-retry", "never"), 2, None),
        (Answer::status(429), 2, None),
    ] {
        // The first hangs, the second is refused at once.
        let times = Arc::new(Mutex::new(Vec::new()));
        let seen = times.clone();
        let start = Instant::now();
        let (probe, _) = Probe::answering(move |call, _| {
            seen.lock().push(start.elapsed());
            match call {
                1 => answer.clone(),
                _ => Answer::never(),
            }
        });
        let layer = generous().max_attempts(4).build().unwrap();
        pay(&layer).await;
        let call = layer.layer(probe).oneshot(get());
        let held = tokio::time::timeout(1_150 * MS, call).await;
        assert!(held.is_err());
        let times = times.lock();
        let third = times.get(2).map(|at| at.as_millis());
        match third_at {
            Some(due) => assert!((due..due + 13).contains(&third.unwrap()), "{third:?}"),
            None => assert_eq!(times.len(), attempts),
        }
        let stopped = layer.handle().held_back(HeldBack::Pushback);
        assert_eq!(stopped, u64::from(third_at.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_sent_whole_by_every_attempt() {
    let rig = Rig::new(
        &generous()
            .idempotent(RequestMatch::path_prefix("/"))
            .build()
            .unwrap(),
        Probe::sequence([Answer::never(), Answer::ok()]),
    );
    let body = TestBody::stream()
        .data("ab")
        .data("c")
        .trailer("x-sum", "7");
    assert_eq!(
        rig.call(request(Method::POST, body))
            .await
            .unwrap()
            .status(),
        200
    );
    let received = rig.probe.requests();
    assert_eq!(received.len(), 2);
    for one in received {
        assert_eq!(one.body, "abc");
        assert_eq!(one.trailers.unwrap()["x-sum"], "7");
    }
    assert_eq!(rig.hedges.stats().kept_bytes, 0);

    // One that is still being sent cannot be sent twice; one that is too long neither.
    let gate = Gate::new();
    let stuck = TestBody::stream().data("ab").gate(&gate).data("c");
    let long = TestBody::stream().data(vec![0; 65 << 10]);
    for body in [stuck, long] {
        let (probe, handle) = Probe::always(Answer::never());
        let layer = generous().idempotent(RequestMatch::path_prefix("/"));
        let layer = layer.build().unwrap();
        let call = layer.layer(probe).oneshot(request(Method::POST, body));
        assert!(tokio::time::timeout(1_000 * MS, call).await.is_err());
        assert_eq!(handle.calls(), 1);
        assert_eq!(layer.handle().held_back(HeldBack::Body), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_after_the_deadline() {
    let rig = Rig::answering([Answer::never()]);
    let mut call = get();
    let context = CallContext::get_or_insert(call.extensions_mut());
    context.deadline = Some(Instant::now() + 50 * MS);
    assert!(
        tokio::time::timeout(1_000 * MS, rig.call(call))
            .await
            .is_err()
    );
    assert_eq!(rig.probe.calls(), 1);
    assert_eq!(rig.hedges.held_back(HeldBack::Deadline), 1);
}

/// The clone of a hedge waits for its readiness while the first attempt goes on.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_does_not_become_ready_harms_nobody() {
    let slow = Gate::new();
    let (probe, handle) = Probe::always(Answer::ok().gated(&slow));
    let layer = generous().build().unwrap();
    let mut service = layer.layer(probe);
    let called = ServiceExt::<Request<RequestBody>>::ready(&mut service);
    let call = called.await.unwrap().call(get());
    let never = Gate::new();
    handle.hold_ready(&never);
    let (answered, ()) = tokio::join!(call, async {
        tokio::time::sleep(500 * MS).await;
        slow.open();
    });
    assert_eq!(answered.unwrap().status(), 200);
    assert_eq!((handle.calls(), layer.handle().stats().hedges), (1, 1));

    // And one whose readiness fails is a failed attempt.
    let slow = Gate::new();
    let (probe, handle) = Probe::always(Answer::ok().gated(&slow));
    let mut service = layer.layer(probe);
    let called = ServiceExt::<Request<RequestBody>>::ready(&mut service);
    let call = called.await.unwrap().call(get());
    handle.fail_ready(ProbeError::refused());
    let (answered, ()) = tokio::join!(call, async {
        tokio::time::sleep(500 * MS).await;
        slow.open();
    });
    assert_eq!(answered.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn hedging_comes_and_goes_with_its_options() {
    let live = Live::new(None);
    let layer = HedgeLayer::optional(live.clone()).unwrap();
    let config = |attempts| HedgeConfig {
        delay: DELAY.into(),
        max_attempts: attempts,
        extra_load: Ratio::ONE,
        ..HedgeConfig::default()
    };
    for (options, attempts) in [(None, 1), (Some(config(2)), 2), (None, 1)] {
        live.set(options).unwrap();
        let (probe, handle) = Probe::always(Answer::never());
        let call = layer.layer(probe).oneshot(get());
        assert!(tokio::time::timeout(1_000 * MS, call).await.is_err());
        assert_eq!(handle.calls(), attempts);
    }
    assert_eq!(
        layer.handle().stats().calls,
        1,
        "what passes untouched is not counted"
    );
    assert!(live.set(Some(config(1))).is_err());

    // A call keeps the options it began with.
    live.set(Some(config(3))).unwrap();
    let (probe, handle) = Probe::always(Answer::never());
    pay(&layer).await;
    let call = tokio::spawn(tokio::time::timeout(
        1_000 * MS,
        layer.layer(probe).oneshot(get()),
    ));
    tokio::task::yield_now().await;
    live.set(None).unwrap();
    assert!(call.await.unwrap().is_err());
    assert_eq!(handle.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn metrics_say_how_many_were_hedged_and_why_others_were_not() {
    let name = "metrics_say_how_many_were_hedged";
    let layer = generous()
        .extra_load(Ratio::percent(50))
        .name(name)
        .build()
        .unwrap();
    for _ in 0..4 {
        let peer = Peer::default();
        let times = vec![After(300 * MS, Ok(200)), After(10 * MS, Ok(200))];
        _ = layer
            .layer(peer.service(vec![], times))
            .oneshot(get())
            .await;
    }
    let seen = crate::metrics::snapshot();
    let count = |metric, reason: Option<&'static str>| {
        let mut labels = vec![("policy", name)];
        labels.extend(reason.map(|reason| ("reason", reason)));
        seen.counter(metric, &labels)
    };
    assert_eq!(count("mesh_hedge_calls_total", None), Some(4));
    assert_eq!(count("mesh_hedge_attempts_total", None), Some(2));
    assert_eq!(count("mesh_hedge_won_total", None), Some(2));
    assert_eq!(
        count("mesh_hedge_held_back_total", Some("extra_load")),
        Some(2)
    );
    let gauge = |metric| seen.gauge(metric, &[("policy", name)]);
    assert_eq!(gauge("mesh_hedge_delay_seconds"), Some(0.1));
    assert_eq!(gauge("mesh_hedge_kept_bytes"), Some(0.0));
}

#[tokio::test]
async fn a_call_that_is_answered_in_time_clones_nothing() {
    let rig = Rig::answering([Answer::ok()]);
    let mut service = rig.service.clone();
    let before = rig.probe.clones();
    for _ in 0..10 {
        let ready = ServiceExt::<Request<RequestBody>>::ready(&mut service);
        assert!(ready.await.unwrap().call(get()).await.is_ok());
    }
    assert_eq!(rig.probe.clones(), before);
}
