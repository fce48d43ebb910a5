//! Refuses calls above a rate, for all callers together or for each.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_mesh_layers::{Key, rate_limit::RateLimitLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # async fn handler(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
//! #     Ok(Response::default())
//! # }
//! let mut service = ServiceBuilder::new()
//!     .layer(RateLimitLayer::per_second(100).burst(2).key(Key::header("x-api-key")?).build()?)
//!     .service(service_fn(handler));
//!
//! let call = || Request::builder().header("x-api-key", "7").body(Full::default()).unwrap();
//! for expected in [200, 200, 429] {
//!     let response = service.ready().await?.call(call()).await?;
//!     assert_eq!(response.status(), expected);
//! }
//! let other = Request::builder().header("x-api-key", "8").body(Full::default())?;
//! assert_eq!(service.ready().await?.call(other).await?.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! A refused call gets 429 with `Retry-After`, or RESOURCE_EXHAUSTED with `grpc-retry-pushback-ms`
//! and `RetryInfo` over gRPC, rounded up so that a caller who obeys is admitted.
//!
//! # On axum
//!
//! Put the layer on the router, and serve with the peer's address where the key needs it:
//!
//! ```no_run
//! # #[cfg(feature = "axum")]
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use std::net::SocketAddr;
//! use axum::{Router, routing::get};
//! use tower_mesh_layers::{Key, rate_limit::RateLimitLayer};
//!
//! let app = Router::new()
//!     .route("/orders/{id}", get(|| async { "an order" }))
//!     .layer(RateLimitLayer::per_second(100).burst(20).key(Key::client_ip(0)).build()?);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Several limits, and calls that differ
//!
//! A call may have to be within more than one limit. Then it is charged to all or to none: what one of
//! them refuses uses up nothing of the others. Calls may cost more than one, or nothing:
//!
//! ```
//! use tower_mesh_layers::{Key, RequestMatch, rate_limit::{RateLimitConfig, RateLimitLayer}};
//!
//! let each = RateLimitConfig {
//!     key: Key::header("x-api-key")?,
//!     name: "each".to_owned(),
//!     ..RateLimitConfig::new("1000/h".parse()?)
//! };
//! let layer = RateLimitLayer::per_second(100)
//!     .also(each)
//!     .cost(RequestMatch::path_prefix("/health"), 0)
//!     .cost(RequestMatch::path_prefix("/export"), 50)
//!     .build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Waiting instead of refusing
//!
//! With a `queue` a call that comes too early waits for its turn: calls go on at the rate, in the order
//! in which they came. One whose own deadline comes first is refused at once, and one that is dropped
//! while it waits gives its token back. On a client this keeps within a peer's quota; a server should
//! rather refuse.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `rate` | none, must be set | calls per period in the long run: `100/s`, `5/m`, `1/10s` |
//! | `algorithm` | `gcra` | how calls are counted, see [below](#algorithms): `gcra`, `slidingWindow`, `leased` |
//! | `burst` | the calls that `rate` names | calls that may come at once after a pause |
//! | `queue` | 0 | calls that may wait for their turn |
//! | `queueTimeout` | 1 s | how long a call may wait |
//! | `matches` | all calls | which calls the limit is for |
//! | `costs` | 1 each | as how many calls some of them count: the first rule that matches decides |
//! | `key` | one limit for all | one limit per caller, header, operation, ... |
//! | `maxKeys` | 100000, or 1000 where callers do not make the keys | further keys share one limit |
//! | `headers` | `refused` | which responses carry `RateLimit` headers: `off`, `refused`, `always` |
//! | `name` | `default` | the policy in headers and metrics |
//! | `also` | none | further limits, each with a `name` of its own |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_rate_limit_calls_total` | `policy`, `decision` | calls `admitted` and `refused` |
//! | `mesh_rate_limit_exceeded_total` | `policy` | which of several limits refused them |
//! | `mesh_rate_limit_waiting` | `policy` | calls that wait for their turn |
//! | `mesh_rate_limit_wait_seconds` | `policy` | how long those waited that got it |
//! | `mesh_rate_limit_keys` | `policy` | keys that have a limit |
//! | `mesh_rate_limit_overflowed_total` | `policy` | calls whose key found no room |
//!
//! # Algorithms
//!
//! | | lets pass | cost |
//! |---|---|---|
//! | `gcra` | `burst` at once, and `rate` in the long run; exact | one number per key, one atomic operation |
//! | `slidingWindow` | never more than `rate` names in any period; a call counts for between one period and 1.1 | 80 bytes and a lock per key |
//! | `leased` | as `gcra`, and in any time span at most half a `burst` more | threads share nothing while they have tokens |
//!
//! GCRA (ITU-T I.371) is governor's, over state of our own: no background task, tokens that can be given
//! back, quotas that change while calls are in flight. Keys are 64-bit hashes under a random seed in a
//! bounded map; a key whose bucket is full again is forgotten when others need room, one that is limited
//! never is.

mod config;
mod future;
mod gcra;
mod handle;
mod headers;
mod layer;
mod leases;
mod limit;
mod policy;
mod rate;
mod service;
#[cfg(test)]
mod tests;
mod window;

/// What the counting is made of; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    pub(super) use crate::vocab::shard::Sharded;
}

pub use self::{
    config::{CostRule, RateAlgorithm, RateLimitConfig, RateLimitHeaders},
    future::ResponseFuture,
    handle::{RateLimitHandle, RateLimitStats},
    layer::{RateLimitBuilder, RateLimitLayer},
    rate::Rate,
    service::RateLimit,
};
