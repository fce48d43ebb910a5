//! The circuit breaker.

use std::{
    any::Any,
    convert::Infallible,
    future::pending,
    mem,
    pin::pin,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::Poll,
    thread,
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use fastrand::Rng;
use futures_util::{FutureExt, poll, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::{
    net::TcpListener,
    runtime::{Handle, Runtime},
    sync::oneshot,
    time::advance,
};
use tower::{Layer, Service, service_fn};
use tower_mesh::layers::{
    circuit_breaker::{BreakerState, CircuitBreakerBuilder, CircuitBreakerLayer},
    rate_limit::{RateLimitConfig, RateLimitLayer},
};

use crate::harness::{Measured, Protection, paused};

/// The open time of these tests, before jitter.
const OPEN: Duration = Duration::from_secs(1);

type Body = Full<Bytes>;
type Answer = Result<Response<Body>, Infallible>;

fn builder() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .open_time(OPEN, 30 * OPEN)
}

fn answer(status: StatusCode) -> Answer {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    Ok(response)
}

/// A call that a peer answers at once, or the breaker.
fn call(layer: &CircuitBreakerLayer, status: StatusCode) -> StatusCode {
    let peer = service_fn(move |_: Request<Body>| std::future::ready(answer(status)));
    let answered = layer.layer(peer).call(Request::default()).now_or_never();
    let Ok(response) = answered.expect("a peer that answers at once");
    response.status()
}

fn fail(layer: &CircuitBreakerLayer) {
    call(layer, StatusCode::SERVICE_UNAVAILABLE);
}

fn state(layer: &CircuitBreakerLayer) -> BreakerState {
    layer.handle().breakers()[0].state()
}

/// R4: everybody comes at the instant at which the open time is over.
pub(crate) fn r4_half_open_stampede(p: Protection) -> Measured {
    const THREADS: u32 = 4;
    const TASKS: u32 = 1_000;
    const SEEDS: u64 = 100;

    /// How many of the tasks reach the peer.
    fn stampede(p: Protection, probes: u32, seed: u64) -> u32 {
        // Without the protection half-open admits everybody, as it does in most breakers.
        let layer = builder().probes(p.pick(probes, TASKS)).seed(seed).build();
        let layer = layer.expect("a valid breaker");
        let reached = Arc::new(AtomicU32::new(0));
        paused(async {
            fail(&layer);
            advance(2 * OPEN).await;
            let (clock, start) = (Handle::current(), Barrier::new(THREADS as usize));
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        let _clock = clock.enter();
                        let reached = reached.clone();
                        let mut service = layer.layer(service_fn(move |_: Request<Body>| {
                            reached.fetch_add(1, SeqCst);
                            pending::<Answer>()
                        }));
                        start.wait();
                        let calls = (0..TASKS / THREADS).map(|_| service.call(Request::default()));
                        // Held until all have come: a probe that is dropped gives its place back.
                        let calls: Vec<_> = calls.collect();
                        start.wait();
                        drop(calls);
                    });
                }
            });
        });
        reached.load(SeqCst)
    }

    let worst = |probes| {
        let reached = (0..SEEDS).map(|seed| stampede(p, probes, seed));
        // The one that is furthest from what was meant.
        reached
            .max_by_key(|calls| calls.abs_diff(probes))
            .unwrap_or_default()
            .into()
    };
    Measured::new()
        .exactly("probes, of 1", 1, worst(1))
        .exactly("of 5", 5, worst(5))
}

/// R5: callers give up while theirs is the probe.
pub(crate) fn r5_lost_probe(p: Protection) -> Measured {
    const PROBES: u32 = 3;
    const DROPS: u32 = 10_000;

    paused(async {
        let mut rng = Rng::with_seed(5);
        let layer = builder().probes(PROBES);
        // Without the protection nobody says that a call was given up, and nothing decides without.
        let layer = layer.probation(p.pick(10 * OPEN, Duration::from_secs(3600)));
        let (layer, reached) = (
            layer.build().expect("a valid breaker"),
            Arc::new(AtomicU32::new(0)),
        );
        fail(&layer);
        advance(2 * OPEN).await;

        let lose = p.pick::<fn(Box<dyn Any>)>(drop, mem::forget);
        let mut held: Vec<Box<dyn Any>> = Vec::new();
        let mut refused = 0;
        for _ in 0..DROPS {
            let (before, in_flight) = (reached.load(SeqCst), held.len());
            let call = give_up_later(&layer, reached.clone(), rng.u8(0..4)).await;
            if reached.load(SeqCst) > before {
                held.push(call);
            } else if in_flight == 0 {
                refused += 1;
            }
            if !held.is_empty() && rng.bool() {
                let call = held.swap_remove(rng.usize(..held.len()));
                lose(call);
            }
            advance(Duration::from_micros(50)).await;
        }
        held.into_iter().for_each(lose);

        let before = reached.load(SeqCst);
        let mut all = Vec::new();
        for _ in 0..10 * PROBES {
            all.push(give_up_later(&layer, reached.clone(), 0).await);
        }
        Measured::new()
            .exactly(
                "slots at the end",
                PROBES,
                (reached.load(SeqCst) - before).into(),
            )
            .exactly("refused with none out", 0, refused.into())
    })
}

/// A call over gRPC up to the point at which it is given up: before it was polled, before its head,
/// before its body was read, or in its body.
async fn give_up_later(
    layer: &CircuitBreakerLayer,
    reached: Arc<AtomicU32>,
    point: u8,
) -> Box<dyn Any> {
    let peer = service_fn(move |_: Request<Body>| {
        reached.fetch_add(1, SeqCst);
        async move {
            if point < 2 {
                pending::<()>().await;
            }
            let body = stream::pending::<Result<Frame<Bytes>, Infallible>>();
            Ok::<_, Infallible>(Response::new(StreamBody::new(body)))
        }
    });
    let request = Request::post("/").header("content-type", "application/grpc");
    let request = request.body(Body::default()).expect("a valid request");
    let mut call = Box::pin(layer.layer(peer).call(request));
    if point == 0 {
        return Box::new(call);
    }
    match poll!(&mut call) {
        Poll::Pending => Box::new(call),
        Poll::Ready(Ok(response)) => {
            let mut body = Box::pin(response.into_body());
            if point == 3 {
                let _ = poll!(pin!(body.frame()));
            }
            Box::new(body)
        }
    }
}

/// R6: a peer that is up for a second and down for one; and one with few calls.
pub(crate) fn r6_flapping(p: Protection) -> Measured {
    const EVERY: Duration = Duration::from_millis(10);

    let flapping = paused(async {
        // Without the protection each open time is the first.
        let layer = builder().open_time(OPEN, p.pick(30, 1) * OPEN);
        let layer = layer.stable_time(10 * OPEN).seed(6).build();
        let layer = layer.expect("a valid breaker");
        for at in 0..6_000 {
            let up = at / 100 % 2 == 0;
            call(
                &layer,
                if up {
                    StatusCode::OK
                } else {
                    StatusCode::BAD_GATEWAY
                },
            );
            advance(EVERY).await;
        }
        layer.handle().stats().opened
    });
    let seldom = paused(async {
        let layer = CircuitBreakerLayer::builder().minimum_calls(p.pick(10, 1));
        let layer = layer.build().expect("a valid breaker");
        // Three of four fail, two calls in each window.
        for at in 0..1_000 {
            call(
                &layer,
                if at % 4 == 0 {
                    StatusCode::OK
                } else {
                    StatusCode::BAD_GATEWAY
                },
            );
            advance(Duration::from_secs(5)).await;
        }
        layer.handle().stats().opened
    });
    Measured::new()
        .at_most("opens in 60 s", 7, flapping as f64)
        .exactly("at low traffic", 0, seldom as f64)
}

/// R7: results of calls from before the breaker opened, which come while it is open or half-open.
pub(crate) fn r7_late_result(p: Protection) -> Measured {
    const INTERLEAVINGS: u64 = 1_000;

    let changed = (0..INTERLEAVINGS).filter(|seed| paused(late_results(p, *seed)));
    Measured::new().exactly("states changed", 0, changed.count() as f64)
}

/// Whether results that come late change the state.
async fn late_results(p: Protection, seed: u64) -> bool {
    let mut rng = Rng::with_seed(seed);
    let layer = builder().seed(seed).build().expect("a valid breaker");
    let mut late = Vec::new();
    for _ in 0..rng.u32(1..5) {
        let (tell, told) = oneshot::channel();
        let mut told = Some(told);
        let peer = service_fn(move |_: Request<Body>| {
            let told = told.take().expect("one call");
            async move { answer(told.await.expect("an answer")) }
        });
        late.push((tell, layer.layer(peer).call(Request::default())));
    }
    fail(&layer);
    advance(rng.u32(0..300) * OPEN / 100).await;
    // A probe, if the open time is over, that is under way.
    let mut peer = layer.layer(service_fn(|_: Request<Body>| pending::<Answer>()));
    let _probe = rng.bool().then(|| peer.call(Request::default()));

    let before = state(&layer);
    for (tell, answers) in late {
        let status = rng.choice([StatusCode::OK, StatusCode::BAD_GATEWAY]);
        let status = status.expect("one of two");
        if p.is_on() {
            tell.send(status).expect("a call that waits");
            let Ok(_) = answers.now_or_never().expect("an answer");
        } else {
            // Without the protection a result counts when it comes, as if its call had come then.
            call(&layer, status);
        }
    }
    state(&layer) != before
}

/// R8: `axum::serve` asks a layer for a service on each connection.
pub(crate) fn r8_state_per_connection(p: Protection) -> Measured {
    const FAILURES: u32 = 10;
    const ADMITTED: u32 = 50;

    let breaker = || {
        let builder = CircuitBreakerLayer::builder().consecutive_failures(FAILURES);
        builder.build().expect("a valid breaker")
    };
    let limit = || {
        // So slow that none comes back during the test.
        let rate = format!("{ADMITTED}/h").parse().expect("a rate");
        RateLimitLayer::new(RateLimitConfig::new(rate)).expect("a valid limit")
    };
    let failed = runs(10, |router| match p {
        Protection::On => router.layer(breaker()),
        Protection::Off => router.layer(PerConnection(breaker)),
    });
    let admitted = runs(50, |router| match p {
        Protection::On => router.layer(limit()),
        Protection::Off => router.layer(PerConnection(limit)),
    });
    Measured::new()
        .at_most("failing calls", FAILURES, failed.into())
        .at_most("limited calls", ADMITTED, admitted.into())
}

/// A layer that is made anew by every `layer()`: what a layer must not be.
#[derive(Clone)]
struct PerConnection<F>(F);

impl<S, L: Layer<S>, F: Fn() -> L> Layer<S> for PerConnection<F> {
    type Service = L::Service;

    fn layer(&self, inner: S) -> L::Service {
        (self.0)().layer(inner)
    }
}

/// How often a handler that fails runs under a layer, for so many calls on each of 20 connections.
fn runs(calls: u32, layer: impl FnOnce(Router) -> Router) -> u32 {
    const CONNECTIONS: usize = 20;

    let reached = Arc::new(AtomicU32::new(0));
    let handler = {
        let reached = reached.clone();
        get(async move || {
            reached.fetch_add(1, SeqCst);
            StatusCode::INTERNAL_SERVER_ERROR
        })
    };
    let router = layer(Router::new().route("/", handler));
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("a port"));
        tokio::spawn(async { axum::serve(listener, router).await });
        // One connection each, as there is one call at a time.
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| reqwest::Client::new()).collect();
        for client in (0..calls).flat_map(|_| &clients) {
            let response = client.get(&url).send().await.expect("an answer");
            assert!(!response.status().is_success());
        }
    });
    reached.load(SeqCst)
}
