//! Refuses calls to a peer that keeps failing, so that it can recover and callers need not wait.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_mesh_layers::{
//!     Rejection,
//!     circuit_breaker::{BreakerState, CircuitBreakerLayer},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! async fn broken(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
//!     Ok(Response::builder().status(500).body(Full::default()).unwrap())
//! }
//!
//! let layer = CircuitBreakerLayer::builder().consecutive_failures(3).build()?;
//! let breakers = layer.handle();
//! let mut service = ServiceBuilder::new().layer(layer).service(service_fn(broken));
//!
//! for _ in 0..3 {
//!     let response = service.ready().await?.call(Request::default()).await?;
//!     assert_eq!(response.status(), 500); // the peer's own answer
//! }
//! assert_eq!(breakers.breaker("").unwrap().state(), BreakerState::Open);
//!
//! let response = service.ready().await?.call(Request::default()).await?;
//! assert_eq!(response.status(), 503); // ours: nothing was sent
//! assert!(response.extensions().get::<Rejection>().is_some());
//! assert!(response.headers().contains_key("retry-after"));
//! # Ok(())
//! # }
//! ```
//!
//! # When it opens
//!
//! On the first of three signals: too many failures in a row, too high a failure rate over an exact
//! sliding window, or too high a rate of slow calls over another. What a failure is says the
//! [classifier](crate::classify): bodies that break off and gRPC streams that fail in their trailers
//! included, cancelled calls and refusals of our own layers not. A call is as slow as its response head
//! (over gRPC its first message) is late, so streams and slow readers are not slow; one that is given up
//! later than that is.
//!
//! Any policy of the failsafe crate can decide instead ([`CircuitBreakerBuilder::policy`]).
//!
//! # When it closes
//!
//! After the open time the next calls are let through as probes, exactly as many as configured, of
//! which `successThreshold` must succeed: all, unless it is set. A slow probe has failed. Over plain HTTP
//! a probe is decided at the response head. A probe that is cancelled gives its slot back. Where probes
//! are without an answer after the probation time, the breaker closes if enough of them are good or are
//! streams that are alive, and opens again otherwise. Results of calls from before a change of state
//! change nothing.
//!
//! Each time in a row the open time is twice as long, until the breaker was closed for `stableTime`.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `failureRate` | `50%` | opens at this share of failed calls; `0%` turns the signal off |
//! | `minimumCalls` | `20` | no rate is taken over fewer calls |
//! | `window` | `{time: 10s}` | or `{calls: 100}` |
//! | `consecutiveFailures` | off | opens after this many failures without a success |
//! | `slowCall` | off | `{duration: 2s, rate: 80%}`: opens when this share of the calls took this long; `rate` is `100%` unless set |
//! | `openTime` | `5s` | first open time |
//! | `maxOpenTime` | `60s` | the open time doubles up to this |
//! | `jitter` | `50%` | up to this share of the open time is added at random |
//! | `stableTime` | `60s` | closed for this long, the next open time is the first again |
//! | `probes` | `1` | calls in half-open |
//! | `successThreshold` | all | how many of the probes must succeed |
//! | `probation` | `10s` | decides without the probes after this |
//! | `force` | neither | `open` or `closed`, whatever the breakers know; what a [handle](BreakerHandle) forces stands above it |
//! | `adaptive` | off | [another way](#adaptive-throttling), in the place of all options above but `force` |
//! | `hystrix` | off | Hystrix' and go-chassis' [names](hystrix), in the place of all options above |
//! | `key` | one for all | one breaker per operation, authority, header, ... |
//! | `maxKeys` | `1000` | further keys share one breaker |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! # Adaptive throttling
//!
//! With `adaptive` a breaker does not open and close: it refuses a share of the calls, which grows with
//! that of the failures. This is the client-side throttling of Google's SRE book (chapter 21), which
//! kratos has as its breaker: over a rolling window a call is refused with the probability
//! `max(0, (total - K * accepts) / (total + 1))`. There are no probes; what passes is the probe.
//!
//! | option | default | |
//! |---|---|---|
//! | `successRatio` | `60%` | nothing is refused while this share succeeds; `K` is one over it. kratos v3: `50%` |
//! | `minimumCalls` | `100` | nothing is refused over fewer calls; kratos' `request`, in its v3 20 |
//! | `window` | `3s` | |
//! | `buckets` | `10` | steps in which the window moves |
//! | `countLocalRejects` | `false` | whether a refused call counts as one that failed |
//!
//! The last one is true in the book and in kratos. Then fewer calls reach a peer that is down, and it takes
//! much longer until all pass once it is up. After 20 s of it (simulated, median of 11 seeds):
//!
//! | calls | counted: reached the peer, all pass after | not counted |
//! |---|---|---|
//! | 50/s | 106, 13 s | 690, 3 s |
//! | 200/s | 408, 19 s | 963, 2 s |
//! | 1,000/s | 2,004, 22 s | 2,585, 2 s |
//!
//! What differs from kratos: cancelled calls and refusals of our own layers count nowhere, and 429 is no
//! success. [`BreakerRef::drop_ratio`] shows the share that is refused; the state is `open` while there is
//! one.
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_breaker_calls_total` | `policy`, `outcome` | calls by [`Outcome`](crate::Outcome), and `rejected` |
//! | `mesh_breaker_slow_calls_total` | `policy` | calls that were slow, whatever came of them |
//! | `mesh_breaker_transitions_total` | `policy`, `to` | how often one went `open`, `half_open` and `closed` |
//! | `mesh_breakers` | `policy`, `state` | breakers in each state now |
//! | `mesh_breaker_state` | `policy`, `key`, `state` | 1 while the breaker of a key is `open` or `half_open`, else 0; where `key` is the operation, since other keys are of the callers' making |
//!
//! # Cost
//!
//! A closed breaker costs a call two loads, two clock-free counts on the thread's own shard and, over a
//! window of time, one clock read at its end. An open one answers without a lock. `slowCall` reads the
//! clock twice more. `adaptive` adds a sum over its buckets to each call.

mod adaptive;
mod breaker;
mod builder;
mod calls;
mod config;
mod count;
mod gate;
mod handle;
pub mod hystrix;
mod layer;
mod service;
mod signals;
mod state;
mod stats;
#[cfg(test)]
mod tests;
mod window;

/// What the gate and the counts are made of; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) use parking_lot::Mutex;
}

pub use self::{
    adaptive::AdaptiveConfig,
    breaker::Guard,
    builder::CircuitBreakerBuilder,
    config::{BreakerConfig, Force, SlowCall, Window},
    handle::{BreakerHandle, BreakerRef},
    hystrix::HystrixConfig,
    layer::CircuitBreakerLayer,
    service::CircuitBreaker,
    state::BreakerState,
    stats::BreakerStats,
};
use crate::vocab::{
    classify::Classify,
    tracked::{self, Tracked, TrackedFuture},
};

/// The future of [`CircuitBreaker`].
pub type ResponseFuture<F, C> = TrackedFuture<F, C, Guard>;

/// The body of [`CircuitBreaker`]'s responses.
pub type ResponseBody<B, C> = tracked::ResponseBody<Tracked<B, <C as Classify>::End, Guard>>;
