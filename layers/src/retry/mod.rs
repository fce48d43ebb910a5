//! Tries a call again where another attempt can be expected to succeed and cannot do harm.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_mesh_layers::retry::RetryLayer;
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//!
//! async fn flaky(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
//!     let status = if CALLS.fetch_add(1, SeqCst) < 2 { 503 } else { 200 };
//!     Ok(Response::builder().status(status).body(Full::default()).unwrap())
//! }
//!
//! let layer = RetryLayer::default();
//! let retries = layer.handle();
//! let mut service = ServiceBuilder::new().layer(layer).service(service_fn(flaky));
//!
//! let request = Request::put("/orders/7").body(Full::from("a book"))?;
//! let response = service.ready().await?.call(request).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!((retries.stats().retries, retries.stats().recovered), (2, 1));
//! # Ok(())
//! # }
//! ```
//!
//! Around a channel of tonic, straight into the generated client:
//!
//! ```no_run
//! # #[cfg(feature = "tonic")]
//! # async fn call() -> Result<(), Box<dyn std::error::Error>> {
//! use tonic::transport::Channel;
//! use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
//! use tower::ServiceBuilder;
//! use tower_mesh_layers::retry::{Idempotent, RetryLayer};
//!
//! let channel = Channel::from_static("http://[::1]:50051").connect_lazy();
//! let service = ServiceBuilder::new().layer(RetryLayer::default()).service(channel);
//!
//! let mut request = tonic::Request::new(HealthCheckRequest::default());
//! request.extensions_mut().insert(Idempotent); // also when the connection breaks in the middle
//! HealthClient::new(service).check(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Make one layer for each peer: the budget belongs to the layer, and one peer's failing must not use
//! up another's retries.
//!
//! # What is retried
//!
//! | the attempt | is retried if |
//! |---|---|
//! | was never sent (no connection; an HTTP/2 stream that the peer refused unseen) | always |
//! | failed with a gRPC status and without a message before it | `retryOn` has the status |
//! | failed with an HTTP status | `retryOn` has the status, and it is idempotent |
//! | broke or took too long before the response head | `retryOn` has `reset`, `timeout` or `other`, and it is idempotent |
//! | found the peer too busy (429, RESOURCE_EXHAUSTED) | as its status, and the peer said when to come back |
//! | was refused by a layer of this process ([`Rejection`](crate::Rejection)) | never |
//!
//! A request is idempotent when its method is (GET, HEAD, OPTIONS, TRACE, PUT, DELETE), or it has an
//! `Idempotency-Key` header or the extension [`Idempotent`], or a match in `idempotent` or the option
//! `nonIdempotent` says so.
//!
//! A response head that is no failure commits the call: a body that breaks off, or a gRPC stream that
//! fails in its trailers, is passed up. Where a gRPC server sends head and status one right after the
//! other and no message between them, the status counts as if it were in the head: the response body is
//! polled once, and never waited for, since a stream may send its head long before anything else. (This
//! asks for a response body that is `Unpin`, as those of hyper, axum and tonic are; any other goes into a
//! box first.)
//!
//! # Not the same for all
//!
//! `rules` say what counts for some requests instead. The first that matches does; what it does not say
//! counts as for all others:
//!
//! ```
//! use tower_mesh_layers::retry::{RetryConfig, RetryLayer};
//!
//! # let json = r#"
//! { "retryOn": ["connect", "reset", "5xx", "UNAVAILABLE"],
//!   "rules": [
//!     { "matches": [{ "path": { "pathPrefix": "/search" } }], "idempotent": true, "attemptTimeout": "200ms" },
//!     { "matches": [{ "grpc": { "service": "shop.Payments" } }], "maxAttempts": 1 }
//!   ] }
//! # "#;
//! # let config: RetryConfig = serde_json::from_str(json)?;
//! let layer = RetryLayer::new(config)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where
//!
//! A balancer below is told which endpoints were tried, and avoids them. With `retryOnSame: 2` it is told
//! to stay with an endpoint for two more attempts before it goes on: go-chassis' `retryOnSame` and
//! `retryOnNext` of 2 and 1 are `retryOnSame: 2` and `maxAttempts: 6`
//! ([`same_then_next`](RetryBuilder::same_then_next)).
//!
//! # When
//!
//! After a random pause between nothing and an upper bound, which doubles (full jitter). Or exactly
//! when the peer said: `Retry-After` and `grpc-retry-pushback-ms` are obeyed to the millisecond; a
//! negative or unreadable pushback and `x-mesh-retry: never` mean not at all. An attempt that could only
//! begin after the call's deadline is not waited for. After a pause that the peer asked for, the upper
//! bound begins anew.
//!
//! # How much
//!
//! Every call pays a fifth of a retry into a budget, and what is not used within ten seconds is gone. So
//! a peer that fails altogether gets 20% more calls, not three times as many. When the budget is spent,
//! or the peer is too busy and does not say until when, its last answer is passed up, marked
//! (`x-mesh-retry: never`, `grpc-retry-pushback-ms: -1`) so that the hops above do not multiply what this
//! one held back. A stream that the peer refused unseen is
//! retried once per call without charge.
//!
//! The other kind of budget is gRPC's throttling: with `budget: { maxTokens: 10, tokenRatio: 10% }` an
//! attempt that fails costs a token, one that succeeds gives a tenth of one back, and while half of them or
//! fewer are there nothing is retried. It minds how well the peer does, and not how many calls there
//! are. A `HedgeLayer` around this one [shares](RetryLayer::budget) the budget.
//!
//! # Bodies
//!
//! The frames of a request body are kept as they pass, up to 64 KiB per call and 64 MiB altogether.
//! Nothing is read ahead and nothing is cut: a longer body streams on, byte for byte, and its call is
//! not retried. Trailers are sent again too. See [`Replay`](crate::Replay) for the body types that fit.
//!
//! What a server of hyper received (`hyper::body::Incoming`) is no such type: it cannot be
//! made of frames that were kept. Whoever passes it on puts it into a box first:
//!
//! ```no_run
//! # use http::Request;
//! # use hyper::body::Incoming;
//! # use hyper_util::client::legacy::{Client, connect::HttpConnector};
//! # use tower::{BoxError, ServiceBuilder, ServiceExt};
//! # use tower_mesh_layers::retry::RetryLayer;
//! # #[cfg(feature = "axum")]
//! # async fn forward(request: Request<Incoming>, client: Client<HttpConnector, axum::body::Body>)
//! # -> Result<(), BoxError> {
//! let client = ServiceBuilder::new().layer(RetryLayer::default()).service(client);
//! let response = client.oneshot(request.map(axum::body::Body::new)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! and is otherwise told to, as this does not compile:
//!
//! ```compile_fail,E0277
//! # use http::Request;
//! # use hyper::body::Incoming;
//! # use hyper_util::client::legacy::{Client, connect::HttpConnector};
//! # use tower::{BoxError, ServiceBuilder, ServiceExt};
//! # use tower_mesh_layers::retry::RetryLayer;
//! # async fn forward(request: Request<Incoming>, client: Client<HttpConnector, Incoming>)
//! # -> Result<(), BoxError> {
//! let client = ServiceBuilder::new().layer(RetryLayer::default()).service(client);
//! let response = client.oneshot(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What an attempt is told
//!
//! From the second on the request has a [`CallContext`](crate::CallContext) with the number of the
//! attempt and the endpoints that were tried, which a balancer then avoids, and over gRPC
//! `grpc-previous-rpc-attempts`. With an `attemptTimeout` every attempt has its deadline in the context,
//! so that layers below count it as a timeout when it is dropped; a `grpc-timeout` header is brought up
//! to date. A call whose last attempt took too long is answered with 504 or DEADLINE_EXCEEDED.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `maxAttempts` | `3` | the first one included; `1` turns retries off |
//! | `attemptTimeout` | unlimited | from the start of an attempt to its response head |
//! | `retryOn` | `[connect, reset, timeout, 429, 502, 503, 504, RESOURCE_EXHAUSTED, UNAVAILABLE]` | also `other`, any status from 400, a range of them (`501-509`, `5xx`), any gRPC status |
//! | `idempotent` | none | [matches](crate::request_match) of requests that are safe to repeat |
//! | `nonIdempotent` | `false` | repeats every request |
//! | `retryOnSame` | `0` | attempts more that an endpoint gets before another is tried |
//! | `rules` | none | `matches`, and any of `maxAttempts`, `attemptTimeout`, `retryOn`, `idempotent` |
//! | `backoff.base` | `25ms` | upper bound of the first pause |
//! | `backoff.max` | `250ms` | upper bound of all pauses |
//! | `maxPushback` | `30s` | a peer that asks for a longer pause is not called again |
//! | `budget.ratio` | `20%` | retries for each call of the last ten seconds |
//! | `budget.reserve` | `10` | retries per second that need no calls |
//! | `budget.maxTokens` | `10` | instead of these two: tokens, of which an attempt that fails costs one |
//! | `budget.tokenRatio` | `10%` | how much of a token an attempt that succeeds gives back |
//! | `replay.perCall` | `65536` | bytes of one body that are kept |
//! | `replay.total` | `67108864` | bytes of all bodies that are kept |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_retry_calls_total` | `policy` | calls, however often each was tried |
//! | `mesh_retry_retries_total` | `policy`, `reason` | attempts after the first: `connect`, `reset`, `timeout`, `other`, `status`, `grpc`, `refused` |
//! | `mesh_retry_recovered_total` | `policy` | calls that failed at first and were answered well later |
//! | `mesh_retry_gave_up_total` | `policy`, `reason` | calls whose last attempt failed: `attempts`, `budget`, `deadline`, `pushback`, `body`, `not_idempotent` |
//! | `mesh_retry_budget_remaining` | `policy` | retries that the budget would allow now |
//! | `mesh_retry_kept_bytes` | `policy` | bytes of request bodies that are kept now |
//!
//! # Cost
//!
//! A call that succeeds at once goes to the instance that was polled ready; no service is cloned. It
//! allocates nothing but for a body that has to be wrapped (not an empty one, and not `Full`): what is
//! kept of its head is in storage that the thread uses again, up to 64 calls of up to 64 headers, and
//! is dropped with the call. It pays for the copies of its headers, one by one, two counts on the
//! thread's own shard, and a clock read where no outer layer has stamped the call.
//!
//! Extensions are kept by value where they are this crate's, axum's `MatchedPath` and `ConnectInfo`, or
//! tonic's `GrpcMethod` and `TcpConnectInfo`. With any other in the request (axum's path parameters and
//! `OriginalUri` among them) all are cloned, at two allocations and one more for each.
//!
//! # Sources
//!
//! Commit rules, pushback, transparent retry, throttling: [gRFC A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
//! Budget: Finagle's `RetryBudget`. Full jitter: "Exponential Backoff And Jitter", AWS Architecture
//! Blog. Idempotent methods: RFC 9110 §9.2.2. Moving the body on drop: linkerd2-proxy.

mod attempts;
mod condition;
mod config;
mod future;
mod handle;
mod layer;
mod peek;
mod policy;
mod rules;
mod service;
mod stats;
#[cfg(test)]
mod tests;

pub use self::{
    condition::{Condition, StatusRange},
    config::{BackoffConfig, BudgetConfig, RetryConfig, RetryRule},
    future::ResponseFuture,
    handle::RetryHandle,
    layer::{RetryBuilder, RetryLayer},
    peek::PeekedBody,
    policy::GaveUp,
    service::Retry,
    stats::RetryStats,
};
pub use crate::vocab::{body::ReplayConfig, idempotent::Idempotent};
