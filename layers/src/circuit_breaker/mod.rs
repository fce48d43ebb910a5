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
//! On either of two signals: too many failures in a row, or too high a failure rate over an exact
//! sliding window. What a failure is says the [classifier](crate::classify): bodies that break off and
//! gRPC streams that fail in their trailers included, cancelled calls and refusals of our own layers
//! not. Any policy of the failsafe crate can decide instead
//! ([`CircuitBreakerBuilder::policy`]).
//!
//! # When it closes
//!
//! After the open time the next calls are let through as probes, exactly as many as configured, and
//! all must succeed. Over plain HTTP a probe is decided at the response head. A probe that is
//! cancelled gives its slot back. Where probes are without an answer after the probation time, the
//! breaker closes if each of them is a stream that is alive, and opens again if one was silent. Results
//! of calls from before a change of state change nothing.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `failureRate` | `50%` | opens at this share of failed calls; `0%` turns the signal off |
//! | `minimumCalls` | `20` | no rate is taken over fewer calls |
//! | `window` | `{time: 10s}` | or `{calls: 100}` |
//! | `consecutiveFailures` | off | opens after this many failures without a success |
//! | `openTime` | `5s` | first open time; up to half as much is added at random |
//! | `maxOpenTime` | `60s` | the open time doubles up to this |
//! | `stableTime` | `60s` | closed for this long, the next open time is the first again |
//! | `probes` | `1` | calls in half-open, which must all succeed |
//! | `probation` | `10s` | decides without the probes after this |
//! | `key` | one for all | one breaker per operation, authority, header, ... |
//! | `maxKeys` | `1000` | further keys share one breaker |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_breaker_calls_total` | `policy`, `outcome` | calls by [`Outcome`](crate::Outcome), and `rejected` |
//! | `mesh_breaker_transitions_total` | `policy`, `to` | how often one opened (`open`) and closed (`closed`) |
//! | `mesh_breakers` | `policy`, `state` | breakers in each state now |
//!
//! # Cost
//!
//! A closed breaker costs a call two loads, two clock-free counts on the thread's own shard and one
//! clock read at its end. An open one answers without a lock.

mod breaker;
mod config;
mod gate;
mod handle;
mod layer;
mod service;
mod signals;
mod stats;
#[cfg(test)]
mod tests;

pub use self::{
    breaker::Guard,
    config::{BreakerConfig, Window},
    gate::BreakerState,
    handle::{BreakerHandle, BreakerRef},
    layer::{CircuitBreakerBuilder, CircuitBreakerLayer},
    service::CircuitBreaker,
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
