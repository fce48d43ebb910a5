//! The circuit breaker.

use std::{
    convert::Infallible,
    future::{Pending, pending},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::Either};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::{runtime::Handle, time::advance};
use tower::{Layer, Service};
use tower_mesh::layers::circuit_breaker::{
    BreakerConfig, BreakerState, CircuitBreaker, CircuitBreakerBuilder, CircuitBreakerLayer,
};

use crate::harness::{Measured, Protection, paused};

/// The open time of these tests, before jitter.
const OPEN: Duration = Duration::from_secs(1);

type Body = Full<Bytes>;
type Answer = Result<Response<Body>, Infallible>;

/// A peer that fails at once while it is down; up, it takes for ever.
#[derive(Clone, Default)]
struct Peer {
    up: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
}

// ===== impl Peer =====

impl Peer {
    fn calls(&self) -> u32 {
        self.calls.load(SeqCst)
    }
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Pending<Answer>, std::future::Ready<Answer>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, SeqCst);
        if self.up.load(SeqCst) {
            return Either::Left(pending());
        }
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Either::Right(std::future::ready(Ok(response)))
    }
}

fn builder() -> CircuitBreakerBuilder {
    CircuitBreakerLayer::builder()
        .consecutive_failures(1)
        .open_time(OPEN, 30 * OPEN)
}

/// A call that is answered at once.
fn answered(service: &mut CircuitBreaker<Peer>) -> StatusCode {
    let response = service.call(Request::default()).now_or_never();
    let response = response.expect("a peer that answers at once");
    response.unwrap_or_else(|never| match never {}).status()
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
        let (layer, peer) = (layer.expect("a valid breaker"), Peer::default());
        answered(&mut layer.layer(peer.clone()));
        paused(async {
            advance(2 * OPEN).await;
            let (clock, start) = (Handle::current(), Barrier::new(THREADS as usize));
            peer.up.store(true, SeqCst);
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        let _clock = clock.enter();
                        let mut service = layer.layer(peer.clone());
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
        peer.calls() - 1
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
