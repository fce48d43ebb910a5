//! Rate, errors and duration of calls, by operation, named as OpenTelemetry names them.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_mesh_layers::{Operation, metrics, request_metrics::MetricsLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # async fn orders(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
//! #     Ok(Response::new(Full::default()))
//! # }
//! let mut client = ServiceBuilder::new()
//!     .layer(MetricsLayer::client("orders"))
//!     .service(service_fn(orders));
//!
//! let mut request = Request::get("http://orders/7").body(Full::default())?;
//! request.extensions_mut().insert(Operation::from_static("get order"));
//! client.ready().await?.call(request).await?;
//!
//! let labels = [("server_address", "orders"), ("http_route", "get order")];
//! let seen = metrics::snapshot();
//! let calls = seen.histogram("http_client_request_duration_seconds", &labels).unwrap();
//! assert_eq!(calls.count(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Metrics
//!
//! | metric | of OpenTelemetry's | labels |
//! |---|---|---|
//! | `http_server_request_duration_seconds` | `http.server.request.duration` | `http_request_method`, `http_route`, `http_response_status_code`, `error_type` |
//! | `http_client_request_duration_seconds` | `http.client.request.duration` | the same, and `server_address` |
//! | `rpc_server_call_duration_seconds` | `rpc.server.call.duration` | `rpc_system`, `rpc_service`, `rpc_method`, `rpc_grpc_status_code`, `error_type` |
//! | `rpc_client_call_duration_seconds` | `rpc.client.call.duration` | the same, and `server_address` |
//! | `http_server_active_requests`, `http_client_active_requests` | the same | around a client `server_address` |
//!
//! The count of a histogram is the rate; its series with an `error_type` are the errors. Requests are active
//! until the end of their response body, gRPC calls included.
//!
//! | label | |
//! |---|---|
//! | `http_request_method` | `_OTHER` where it is not a standard one |
//! | `http_route` | the route that axum matched, or the name that an [`Operation`](crate::Operation) gives; else empty: never a path |
//! | `http_response_status_code` | empty where there was no answer |
//! | `rpc_grpc_status_code` | a number; empty where there was none |
//! | `error_type` | as in [`trace`](mod@crate::trace): a status, the reason of a refusal, `connect`, `reset`, `timeout`, `cancelled`, ...; empty for a success |
//! | `server_address` | the name of the service that is called, as in the metrics of the balancer |
//!
//! What a call takes is the time until its response head, over gRPC until its first message or its
//! trailers: streams, and callers who read slowly, say nothing of how fast a service is. It is recorded at the
//! end, when it is known how the call came out.
//!
//! # Bounds
//!
//! Whatever callers make up, there are at most 200 series of a metric
//! ([`set_series_limit`](crate::metrics::set_series_limit)). Routes are few by themselves. What is called by a
//! gRPC path is an operation of its own up to `maxOperations`; those after it share one that is named
//! `_overflow`, as do results of an operation beyond 15.
//!
//! # Options
//!
//! Those of a [`MetricsConfig`] may change while the layer runs ([`live`](MetricsLayer::live)), or be
//! absent ([`optional`](MetricsLayer::optional)).
//!
//! | option | default | |
//! |---|---|---|
//! | `maxOperations` | 100 | operations that are told apart; a lower number is for those to come |
//!
//! | of the layer alone | default | |
//! |---|---|---|
//! | [`enabled`](MetricsLayer::enabled) | `true` | whether anything is counted |
//! | [`classifier`](MetricsLayer::classifier) | [`Classifier`](crate::Classifier) | what is a failure beyond the statuses |
//!
//! # Cost
//!
//! A look-up of the operation, two clock reads (one where an outer layer has stamped the call) and two
//! additions; nothing is allocated but at the first call of an operation and at its first of each result.

mod config;
mod guard;
mod layer;
mod operation;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    config::MetricsConfig, guard::CallTimer, layer::MetricsLayer, service::RequestMetrics,
};
use crate::vocab::{
    classify::Classify,
    tracked::{self, Tracked, TrackedFuture},
};

/// The future of [`RequestMetrics`].
pub type ResponseFuture<F, C> = TrackedFuture<F, C, CallTimer>;

/// The body of [`RequestMetrics`]' responses.
pub type ResponseBody<B, C> = tracked::ResponseBody<Tracked<B, <C as Classify>::End, CallTimer>>;
