//! Bounds the calls in flight, so that a service under load stays as fast as it is, and says no to the
//! rest at once or soon.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_mesh_layers::{Rejection, concurrency_limit::ConcurrencyLimitLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! async fn handler(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
//!     Ok(Response::new(Full::from("an order")))
//! }
//!
//! let mut service = ServiceBuilder::new()
//!     .layer(ConcurrencyLimitLayer::builder(1).build()?)
//!     .service(service_fn(handler));
//!
//! let first = service.ready().await?.call(Request::default()).await?;
//! assert_eq!(first.status(), 200);
//!
//! // The first is in flight until its body has been read, or dropped.
//! let second = service.ready().await?.call(Request::default()).await?;
//! assert_eq!(second.status(), 503);
//! assert!(second.extensions().get::<Rejection>().is_some());
//!
//! drop(first);
//! let third = service.ready().await?.call(Request::default()).await?;
//! assert_eq!(third.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # On axum
//!
//! A hundred at once, a hundred more for up to 50 ms; the operations apart, so that a slow one does not
//! take the places of all:
//!
//! ```no_run
//! # #[cfg(feature = "axum")]
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use axum::{Router, routing::get};
//! use tower_mesh_layers::{Key, concurrency_limit::ConcurrencyLimitLayer};
//!
//! let limit = ConcurrencyLimitLayer::builder(100)
//!     .queue(100)
//!     .queue_timeout(Duration::from_millis(50))
//!     .key(Key::operation())
//!     .build()?;
//! let app: Router = Router::new()
//!     .route("/orders/{id}", get(|| async { "an order" }))
//!     .layer(limit);
//! # Ok(())
//! # }
//! ```
//!
//! # Who waits, and for how long
//!
//! A call that finds no room is refused, or waits where there is a `queue`: first come, first served,
//! and nobody overtakes. It waits in the future that `call` gives, together with the instance of the
//! inner service that was polled ready; `poll_ready` asks only that service. A call is in flight until
//! its response body ends, so an event stream holds its place for as long as it lasts.
//!
//! It waits for `queueTimeout` at most, and never past its own deadline
//! ([`CallContext`](crate::CallContext)). A queue takes up bursts; one that is never empty only makes
//! every call late by its length. With `targetDelay`, calls wait no longer than that once the queue has
//! not been empty for as long as `queueTimeout`, and as long as before when it has been: the controlled
//! delay of [Fail at Scale](https://queue.acm.org/detail.cfm?id=2839461), whose figures are a
//! `queueTimeout` of `100ms` and a `targetDelay` of `5ms`. Times are kept to 5 ms, and never fall short
//! ([`Wheel`](crate::Wheel)).
//!
//! A refused call gets 503 or UNAVAILABLE with `retryAfter`, and 504 or DEADLINE_EXCEEDED where it was its
//! deadline that came.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `limit` | none, must be set | calls in flight at once |
//! | `queue` | `0` | calls that may wait; with 0 all others are refused at once |
//! | `queueTimeout` | `1s` | how long a call may wait |
//! | `targetDelay` | off | how long it may wait in a queue that has not been empty for `queueTimeout` |
//! | `retryAfter` | `1s` | when refused callers are told to come back; `0` tells them nothing |
//! | `key` | one limit for all | one limit (and queue) per operation, caller, header, ... |
//! | `maxKeys` | 100000, or 1000 where callers do not make the keys | further keys share one limit |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! A first guess for `limit` is Little's law: the calls per second that the service can do, times the
//! seconds that one takes.
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_concurrency_limit_in_flight` | `policy` | calls in flight |
//! | `mesh_concurrency_limit_waiting` | `policy` | calls that wait |
//! | `mesh_concurrency_limit_max_in_flight` | `policy` | the `limit` |
//! | `mesh_concurrency_limit_rejected_total` | `policy`, `reason` | calls refused: `full`, `timeout`, `deadline` |
//! | `mesh_concurrency_limit_wait_seconds` | `policy` | how long those waited that had to and were admitted |
//! | `mesh_concurrency_limit_keys` | `policy` | keys that have a limit |
//! | `mesh_concurrency_limit_overflowed_total` | `policy` | calls whose key found no room |
//!
//! # Cost
//!
//! A call that finds room takes its place by one compare-and-swap and gives it back by one subtraction,
//! without a lock and without an allocation; so does one that is refused because the queue is full. Only
//! waiting allocates and locks. The limit is exact, so all threads share these words.

mod config;
mod future;
mod gate;
mod gates;
mod handle;
mod layer;
mod queue;
mod service;
mod stats;
#[cfg(test)]
mod tests;
mod waiter;

/// What the gate is made of; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    pub(super) use parking_lot::Mutex;
}

pub use self::{
    config::ConcurrencyLimitConfig,
    future::ResponseFuture,
    handle::{ConcurrencyLimitHandle, ConcurrencyLimitStats},
    layer::{ConcurrencyLimitBuilder, ConcurrencyLimitLayer},
    service::ConcurrencyLimit,
    waiter::Permit,
};
use crate::vocab::tracked::{self, Tracked};

/// The body of [`ConcurrencyLimit`]'s responses.
pub type ResponseBody<B> = tracked::ResponseBody<Tracked<B, std::convert::Infallible, Permit>>;
