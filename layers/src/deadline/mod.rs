//! Gives a call one deadline for its whole way, and stops everything below at it.
//!
//! A timeout for each hop adds up: the caller has left after one second, and three hops down somebody
//! still works for it. A deadline does not: each hop takes the earliest of what its caller says, what
//! it inherits and what it is configured with, refuses what is late already, drops its work when time
//! is up, and tells the next hop how much is left.
//!
//! ```text
//!   caller ── grpc-timeout: 1S ──► server layer ──► handler ──► client layer ── grpc-timeout: 0.8 s ──►
//!                                  min(own, 1 s)    200 ms      min(own, left)
//! ```
//!
//! # Around a handler
//!
//! ```
//! # #[cfg(feature = "axum")]
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use axum::{Router, body::Body, http::Request, routing::get};
//! use tower::ServiceExt;
//! use tower_mesh_layers::deadline::{DeadlineLayer, Role};
//!
//! async fn report() -> &'static str {
//!     tokio::time::sleep(Duration::from_secs(60)).await;
//!     "done"
//! }
//!
//! let app = Router::new().route("/report", get(report)).layer(
//!     DeadlineLayer::builder().timeout(Duration::from_secs(15)).role(Role::Server).build()?,
//! );
//!
//! // The caller waits for two seconds, so the handler is dropped after two.
//! let request = Request::get("/report").header("grpc-timeout", "2S").body(Body::empty())?;
//! assert_eq!(app.oneshot(request).await?.status(), 504);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "axum"))]
//! # fn main() {}
//! ```
//!
//! # Around a client
//!
//! A client call made in a handler inherits the handler's deadline; nothing is passed by hand. It must
//! be polled within the handler's task: a spawned task is on its own, unless it takes the context along
//! ([`InContext`](crate::context::InContext)).
//!
//! ```
//! # #[cfg(feature = "tonic")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use tonic::transport::Channel;
//! use tower::ServiceBuilder;
//! use tower_mesh_layers::deadline::{DeadlineLayer, Role};
//!
//! let channel = ServiceBuilder::new()
//!     .layer(DeadlineLayer::builder().timeout(Duration::from_secs(2)).role(Role::Client).build()?)
//!     .service(Channel::from_static("http://[::1]:50051").connect_lazy());
//! let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
//! # let _ = &mut health;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tonic"))]
//! # fn main() {}
//! ```
//!
//! # Roles
//!
//! | | `DeadlineLayer::server()` | `DeadlineLayer::client()` | `DeadlineLayer::default()` |
//! |---|---|---|---|
//! | reads `grpc-timeout` and `accept`, takes the earliest, refuses, drops | yes | yes | yes |
//! | makes the deadline current for client calls inside | yes | | yes |
//! | writes what is left into the request, as `grpc-timeout` | | yes | yes |
//!
//! # What callers see
//!
//! | | HTTP | gRPC | the handler |
//! |---|---|---|---|
//! | late on arrival (`grpc-timeout: 0m`) | 504, `x-mesh-retry: never` | DEADLINE_EXCEEDED | is not called |
//! | no answer by the deadline | 504 | DEADLINE_EXCEEDED | is dropped |
//! | the body goes on past it, scope `call` | the body fails | trailers, DEADLINE_EXCEEDED | its body is dropped |
//! | the body gives nothing for `idleTimeout` | the body fails | trailers, DEADLINE_EXCEEDED | its body is dropped |
//! | malformed `grpc-timeout` | ignored, counted | INVALID_ARGUMENT | is not called (gRPC) |
//! | malformed header of `accept` | ignored, counted | ignored, counted | |
//!
//! To outer layers of this process a call that ran out of time after it was made is a failure of the
//! peer (a timeout); one that was late on arrival is not. An answer that is there at the deadline wins.
//! A deadline is never early, and at most 5 ms late ([`Wheel`](crate::Wheel)).
//!
//! Nobody has to be trusted for this: a header can only make a deadline earlier.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `timeout` | none | how long a call may take, 1 ms to 24 h |
//! | `headTimeout` | none | how long the response head may take, where that is less, 1 ms to 24 h |
//! | `idleTimeout` | none | how long a reader of the response body may wait for the next frame, 1 ms to 24 h; a reader who does not ask waits for nothing |
//! | `scope` | `auto` | what must be over by then: `call`, `head`; `auto`: gRPC `call`, HTTP `head` |
//! | `accept` | none | other headers to read: `{header: x-envoy-expected-rq-timeout-ms, unit: ms}`; units `ns`, `us`, `ms`, `s`, `text` (`1.5s`) |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! There is no default timeout: whatever it was, it would end somebody's stream or report, and it is
//! the caller who knows how long an answer is worth waiting for.
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_deadline_exceeded_total` | `policy`, `at` = `arrival`, `head`, `body`, `idle` | calls that ran out of time |
//! | `mesh_deadline_malformed_total` | `policy` | requests with a header that cannot be read |
//!
//! # Cost
//!
//! No runtime timer: all calls share a coarse one, and only a call that is pending registers with it,
//! without an allocation. The timeout that is configured is written without an allocation too; any other
//! takes one for its header, and a `headTimeout` or `idleTimeout` one per call. A call without a deadline costs a look for `grpc-timeout` and for the context.

mod body;
mod config;
mod future;
mod header;
mod layer;
mod limit;
mod service;
mod stats;
#[cfg(test)]
mod tests;

pub use self::{
    body::DeadlineBody,
    config::{DeadlineConfig, Scope, TimeoutHeader},
    future::ResponseFuture,
    header::TimeoutUnit,
    layer::{DeadlineBuilder, DeadlineLayer},
    service::Deadline,
    stats::DeadlineStats,
};
pub use crate::vocab::role::Role;
use crate::vocab::tracked;

/// The body of [`Deadline`]'s responses.
pub type ResponseBody<B> = tracked::ResponseBody<DeadlineBody<B>>;
