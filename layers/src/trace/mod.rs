//! Spans of calls and of their attempts, named as OpenTelemetry names them.
//!
//! The layer makes `tracing` spans, so whatever listens to `tracing` sees them; with the feature `otel`
//! and a `tracing-opentelemetry` layer among the listeners they become a trace that goes on in the next
//! service.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_mesh_layers::trace::TraceLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # async fn orders(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
//! #     Ok(Response::new(Full::default()))
//! # }
//! let mut client = ServiceBuilder::new()
//!     .layer(TraceLayer::client().peer("orders")) // one span for the call
//!     // .layer(RetryLayer::default())
//!     .layer(TraceLayer::attempt()) // and one for each time that it is tried
//!     .service(service_fn(orders));
//! client.ready().await?.call(Request::get("http://orders/7").body(Full::default())?).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A span lasts until the end of the response body: of a stream, until its trailers. It is entered
//! whenever the inner service or the body is polled, so that what is logged in there belongs to it.
//!
//! # Spans
//!
//! | made by | target | `otel.kind` | stands | `otel.name` |
//! |---|---|---|---|---|
//! | [`TraceLayer::server`] | `tower_mesh::trace` | server | around everything of a server | `GET /orders/{id}`, `shop.Orders/Get` |
//! | [`TraceLayer::client`] | `tower_mesh::trace` | client | around everything of a client | the same, or `GET` |
//! | [`TraceLayer::attempt`] | `tower_mesh::trace::attempt` | client | inside of the retry layer | the same |
//!
//! All have the level INFO. A filter that turns the target off turns the layer off: then a call costs
//! one look at the filter's cached answer, and allocates and formats nothing.
//!
//! # Fields
//!
//! | field | on | |
//! |---|---|---|
//! | `http.request.method` | all | `_OTHER` where it is not a standard one |
//! | `url.path`, `url.scheme` | all | without the query, in which there may be secrets |
//! | `http.route` | all | the route that axum matched, or the name that an [`Operation`](crate::Operation) gives |
//! | `http.response.status_code` | all | |
//! | `http.request.resend_count` | attempts | from the second one on |
//! | `network.protocol.version` | server | `1.1`, `2` |
//! | `user_agent.original` | server | |
//! | `server.address`, `server.port` | all | whom the request names; of an attempt, the endpoint that was picked |
//! | `mesh.endpoint` | attempts | the same as a URL |
//! | `peer.service` | client, attempts | the [peer's](TraceLayer::peer) name |
//! | `rpc.system`, `rpc.service`, `rpc.method` | gRPC | |
//! | `rpc.grpc.status_code` | gRPC | a number, from the head or the trailers |
//! | `error.type` | failed ones | see below |
//! | `otel.status_code` | failed ones | `ERROR` |
//! | `mesh.rejection.layer`, `mesh.rejection.reason` | refused ones | the layer of ours that refused, as in [`Rejection`](crate::Rejection) |
//! | `mesh.route.rule`, `mesh.route.arm` | attempts | where the route layer sends the call |
//!
//! `error.type` is the reason of a refusal (`CIRCUIT_OPEN`), or else the gRPC status (`UNAVAILABLE`), the
//! HTTP status (`503`), or what happened to the connection: `connect`, `reset`, `timeout`,
//! `missing_status`, `_OTHER`; `cancelled` where the caller gave up, which is no error. As the conventions have it a
//! server is not to blame for what its caller did wrong: around a handler only 5xx are errors, and of
//! gRPC `UNKNOWN`, `DEADLINE_EXCEEDED`, `UNIMPLEMENTED`, `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS`;
//! around a client 4xx and every other status are, too.
//!
//! # From service to service
//!
//! With the feature `otel`, and where a propagator is set
//! (`opentelemetry::global::set_text_map_propagator`):
//!
//! - around a handler the span continues the caller's trace if the caller is
//!   [trusted](TraceLayer::trust), and otherwise begins one that is *linked* to it, or an outsider would
//!   decide what is sampled. A span that is there already, of a layer further out, goes before both;
//! - around a client the trace context of the span is written into the request, by the innermost layer:
//!   with attempts, that is the attempt's. It replaces what a
//!   `MetadataLayer` (feature `metadata`) further out has written, so both may stand in a stack.
//!
//! # Options
//!
//! Those of a [`TraceConfig`] may change while the layer runs ([`live`](TraceLayer::live)), or be absent
//! ([`optional`](TraceLayer::optional)).
//!
//! | option | default | |
//! |---|---|---|
//! | `trust` | `none` | whose trace is continued, around a handler |
//! | `client` | the connection's peer | how `trust` tells a caller's address |
//! | `propagate` | `true` | whether the trace context is written, around a client |
//! | `exclude` | none | calls without a span, as [`RequestMatch`](crate::RequestMatch) tells them: health checks. By what the request itself says: metadata is read further in |
//!
//! | of the layer alone | default | |
//! |---|---|---|
//! | [`enabled`](TraceLayer::enabled) | `true` | whether there are spans at all |
//! | [`peer`](TraceLayer::peer) | none | `peer.service`, around a client |
//! | [`classifier`](TraceLayer::classifier) | [`Classifier`](crate::Classifier) | what is a failure beyond the statuses |

mod body;
mod config;
mod future;
mod guard;
mod layer;
#[cfg(feature = "otel")]
mod otel;
mod service;
mod span;
#[cfg(test)]
mod tests;

pub use self::{
    body::TraceBody, config::TraceConfig, future::ResponseFuture, guard::SpanGuard,
    layer::TraceLayer, service::Trace,
};
