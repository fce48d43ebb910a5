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
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `rate` | none, must be set | calls per period in the long run: `100/s`, `5/m`, `1/10s` |
//! | `burst` | the calls that `rate` names | calls that may come at once after a pause |
//! | `key` | one limit for all | one limit per caller, header, operation, ... |
//! | `maxKeys` | 100000, or 1000 where callers do not make the keys | further keys share one limit |
//! | `headers` | `refused` | which responses carry `RateLimit` headers: `off`, `refused`, `always` |
//! | `name` | `default` | the policy in headers and metrics |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_rate_limit_calls_total` | `policy`, `decision` | calls `admitted` and `refused` |
//! | `mesh_rate_limit_keys` | `policy` | keys that have a limit |
//! | `mesh_rate_limit_overflowed_total` | `policy` | calls whose key found no room |
//!
//! # Algorithm
//!
//! GCRA (ITU-T I.371), by the governor crate: exact, one atomic per limit, no queue, no background
//! task. Keys are 64-bit hashes under a random seed in a bounded map; a key whose bucket is full again
//! is forgotten when others need room, one that is limited never is.

mod config;
mod future;
mod handle;
mod headers;
mod layer;
mod limiter;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    config::{Rate, RateLimitConfig, RateLimitHeaders},
    future::ResponseFuture,
    handle::{RateLimitHandle, RateLimitStats},
    layer::{RateLimitBuilder, RateLimitLayer},
    service::RateLimit,
};
