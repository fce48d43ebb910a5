//! tower's contract: who is polled ready is called, nobody else, and waiting for it holds nothing up.

use std::{
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tower::{Layer, Service, ServiceExt, util::BoxCloneService};
use tower_mesh::{
    client::{ClientConfig, ClientLayer},
    layers::{
        BoxError, Ratio,
        concurrency_limit::{ConcurrencyLimitConfig, ConcurrencyLimitLayer},
        hedge::{HedgeConfig, HedgeDelay, HedgeLayer},
        rate_limit::{RateLimitConfig, RateLimitLayer},
        retry::{RetryConfig, RetryLayer},
        test_util::{Answer, Gate, Probe, ProbeFuture, TestBody, contract::RequestBody},
    },
};

use crate::harness::{Measured, Protection, paused};

const MS: Duration = Duration::from_millis(1);
const CALLS: u64 = 30;
const PLACES: u32 = 4;

/// A service whose responses have no body: it ends with the head.
type Boxed = BoxCloneService<Request<RequestBody>, StatusCode, BoxError>;
/// Puts layers around a peer.
type Around = Box<dyn Fn(Probe) -> Boxed>;

/// How many calls may pass at once, and how many may wait for that.
#[derive(Clone, Copy)]
struct Limits {
    places: u32,
    queue: u32,
    rate: &'static str,
    burst: u32,
}

fn request() -> Request<RequestBody> {
    Request::new(TestBody::empty().boxed_unsync())
}

fn boxed<S>(service: S) -> Boxed
where
    S: Service<Request<RequestBody>, Error = BoxError> + Clone + Send + 'static,
    S: Service<Request<RequestBody>, Response: Status, Future: Send>,
{
    BoxCloneService::new(service.map_response(|response| response.status()))
}

trait Status: 'static {
    fn status(&self) -> StatusCode;
}

impl<B: 'static> Status for Response<B> {
    fn status(&self) -> StatusCode {
        self.status()
    }
}

/// What is put around the peer: each of ours that calls later or limits, and the whole preset. Without the
/// protection, what breaks the contract in the three ways that are common.
fn subjects(p: Protection, limits: Limits) -> Vec<(&'static str, Around)> {
    if !p.is_on() {
        let places = limits.places as usize;
        let naive = move |peer| boxed(Naive::new(peer, places));
        return vec![("naive", Box::new(naive))];
    }
    let concurrency = ConcurrencyLimitConfig {
        queue: limits.queue,
        queue_timeout: 60_000 * MS,
        ..ConcurrencyLimitConfig::new(limits.places)
    };
    let rate = RateLimitConfig {
        burst: Some(limits.burst),
        queue: limits.queue,
        queue_timeout: 60_000 * MS,
        ..RateLimitConfig::new(limits.rate.parse().expect("a rate"))
    };
    let retry = RetryConfig {
        attempt_timeout: Some(500 * MS),
        ..RetryConfig::default()
    };
    let hedge = HedgeConfig {
        delay: HedgeDelay::Fixed(100 * MS),
        extra_load: Ratio::ONE,
        ..HedgeConfig::default()
    };
    let preset = ClientConfig {
        concurrency_limit: Some(concurrency.clone()),
        rate_limit: Some(rate.clone()),
        retry: Some(retry.clone()),
        hedge: Some(hedge.clone()),
        ..ClientConfig::default()
    };
    let concurrency = ConcurrencyLimitLayer::new(concurrency).expect("valid options");
    let rate = RateLimitLayer::new(rate).expect("valid options");
    let retry = RetryLayer::new(retry).expect("valid options");
    let hedge = HedgeLayer::new(hedge).expect("valid options");
    let preset = ClientLayer::new("orders", &preset).expect("valid options");
    vec![
        (
            "concurrency limit",
            Box::new(move |peer| boxed(concurrency.layer(peer))),
        ),
        ("rate limit", Box::new(move |peer| boxed(rate.layer(peer)))),
        ("retry", Box::new(move |peer| boxed(retry.layer(peer)))),
        ("hedge", Box::new(move |peer| boxed(hedge.layer(peer)))),
        ("preset", Box::new(move |peer| boxed(preset.layer(peer)))),
    ]
}

/// R11: the peer counts who calls it without being polled ready, takes its time to be ready, and fails.
pub(crate) fn r11_readiness(p: Protection) -> Measured {
    Measured::new()
        .exactly("unready", 0, paused(unready_calls(p)))
        .exactly("places kept", 0, paused(places_kept(p)))
        .exactly("ready errors", 0, paused(errors(p)))
}

/// Calls that reached an instance which was not ready, among attempts that fail or take long, and calls
/// that wait in queues. One instance in two is ready only at the second look.
async fn unready_calls(p: Protection) -> f64 {
    let limits = Limits {
        // The naive one has no queue.
        places: p.pick(2, CALLS as u32),
        queue: 1_000,
        rate: "100/s",
        burst: 2,
    };
    let mut unready = 0;
    for (name, around) in subjects(p, limits) {
        let (peer, handle) = Probe::answering(|call, _| match call % 5 {
            0 => Answer::status(503),
            1 => after(300 * MS),
            _ => Answer::ok(),
        });
        handle.stutter();
        let service = around(peer);
        join_all((0..CALLS).map(|_| {
            let call = service.clone().oneshot(request());
            // The probe panics where it is called unready.
            AssertUnwindSafe(call).catch_unwind()
        }))
        .await;
        assert!(handle.calls() >= CALLS, "{name}: {handle:?}");
        drop(service);
        assert_eq!((handle.reserved(), handle.in_flight()), (0, 0), "{name}");
        unready += handle.violations().len();
    }
    unready as f64
}

/// An answer that takes its time.
fn after(time: Duration) -> Answer {
    let gate = Gate::new();
    let opens = gate.clone();
    tokio::spawn(async move {
        sleep(time).await;
        opens.open();
    });
    Answer::ok().gated(&gate)
}

/// Places that are taken by callers who are not calling: who asked whether the peer is ready, were told to
/// wait, and do something else now.
async fn places_kept(p: Protection) -> f64 {
    let limits = Limits {
        places: PLACES,
        queue: 0,
        rate: "1/h",
        burst: PLACES,
    };
    let mut kept = 0;
    for (name, around) in subjects(p, limits) {
        let (peer, handle) = Probe::always(Answer::ok().gated(&Gate::new()));
        let (service, gate) = (around(peer), Gate::new());
        handle.hold_ready(&gate);
        let mut waiting = vec![service.clone(); PLACES as usize];
        for service in &mut waiting {
            assert!(service.ready().now_or_never().is_none(), "{name}");
        }
        gate.open();
        let mut calls = Vec::new();
        for _ in 0..PLACES {
            let mut call = Box::pin(service.clone().oneshot(request()));
            // To its end in the peer, which does not answer; or to the place that is not there.
            let _ = call.as_mut().now_or_never();
            calls.push(call);
        }
        kept += u64::from(PLACES) - handle.calls();
        drop((calls, waiting, service));
        assert_eq!((handle.reserved(), handle.in_flight()), (0, 0), "{name}");
    }
    kept as f64
}

/// Callers who are told by an error of `poll_ready` that there is no room: it says that the service is
/// broken for good, and has who holds it throw it away.
async fn errors(p: Protection) -> f64 {
    let limits = Limits {
        places: 1,
        queue: 0,
        rate: "1/h",
        burst: 1,
    };
    let mut errors = 0;
    for (_, around) in subjects(p, limits) {
        let (peer, _) = Probe::always(Answer::ok().gated(&Gate::new()));
        let service = around(peer);
        let mut first = Box::pin(service.clone().oneshot(request()));
        assert!(first.as_mut().now_or_never().is_none(), "the peer is busy");
        for _ in 0..CALLS {
            let mut service = service.clone();
            let ready = poll_fn(|cx| service.poll_ready(cx)).now_or_never();
            errors += u32::from(matches!(ready, Some(Err(_))));
        }
    }
    errors.into()
}

// ===== without the protection =====

/// A limit and one retry, as they are often written: the place is taken and kept while the service below
/// is not ready, who finds none gets an error, and the second attempt goes to a clone as it is.
struct Naive {
    peer: Probe,
    places: Arc<Semaphore>,
    place: Option<OwnedSemaphorePermit>,
}

impl Naive {
    fn new(peer: Probe, places: usize) -> Self {
        Self {
            peer,
            places: Arc::new(Semaphore::new(places)),
            place: None,
        }
    }
}

impl Clone for Naive {
    fn clone(&self) -> Self {
        Self {
            peer: self.peer.clone(),
            places: self.places.clone(),
            place: None,
        }
    }
}

impl Service<Request<RequestBody>> for Naive {
    type Response = Response<TestBody>;
    type Error = BoxError;
    type Future = ProbeFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.place.is_none() {
            let place = self.places.clone().try_acquire_owned();
            self.place = Some(place.map_err(|_| "overloaded")?);
        }
        Service::<Request<RequestBody>>::poll_ready(&mut self.peer, cx)
    }

    fn call(&mut self, first: Request<RequestBody>) -> ProbeFuture {
        let place = self.place.take();
        let (attempt, mut clone) = (self.peer.call(first), self.peer.clone());
        Box::pin(async move {
            let _place = place;
            let response = attempt.await?;
            if response.status().is_server_error() {
                return clone.call(request()).await;
            }
            Ok(response)
        })
    }
}
