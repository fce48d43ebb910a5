mod hosts;
mod load;
mod model;
mod sent;
mod wins;

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
    > + Clone
    + use<> {
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
