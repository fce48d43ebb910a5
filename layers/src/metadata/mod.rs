//! Passes metadata on, from the calls that a service handles to the calls that it makes meanwhile.
//!
//! A tenant, a cohort, a criticality is known where a request comes in, and wanted five services
//! further. Handed on by hand it is lost at the first place that forgets it. Here nobody has to:
//!
//! ```text
//!   caller ── x-md-global-tenant: a ──► server layer ──► handler ──► client layer ── x-md-global-tenant: a ──►
//!             x-md-local-caller: web    reads, makes                 writes          x-md-local-caller: cart
//!                                       it current
//! ```
//!
//! # Around a handler
//!
//! The layer is the edge: nobody is trusted but whom `trust` names, and from everybody else all headers
//! are removed that only the mesh may set ([`INTERNAL_HEADERS`](crate::trust::INTERNAL_HEADERS),
//! [`INTERNAL_PREFIXES`](crate::trust::INTERNAL_PREFIXES)), before anything reads them. So it belongs
//! outside of all layers that do.
//!
//! ```
//! # #[cfg(feature = "axum")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, body::Body, http::Request, routing::get};
//! use tower::ServiceExt;
//! use tower_mesh_layers::{
//!     PeerAddr, Role, Trust,
//!     metadata::{CallMetadata, MetadataLayer},
//! };
//!
//! async fn greet(metadata: CallMetadata) -> String {
//!     metadata.get("tenant").unwrap_or("nobody").to_owned()
//! }
//!
//! let app = Router::new().route("/", get(greet)).layer(
//!     MetadataLayer::builder()
//!         .trust(Trust::peers(["10.0.0.0/8"], [""; 0])?)
//!         .role(Role::Server)
//!         .build()?,
//! );
//!
//! for (peer, seen) in [("10.1.2.3:80", "a"), ("203.0.113.7:80", "nobody")] {
//!     let request = Request::get("/")
//!         .header("x-md-global-tenant", "a")
//!         .extension(PeerAddr(peer.parse()?)) // or axum's `into_make_service_with_connect_info`
//!         .body(Body::empty())?;
//!     let body = app.clone().oneshot(request).await?.into_body();
//!     assert_eq!(axum::body::to_bytes(body, 100).await?, seen);
//! }
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "axum"))]
//! # fn main() {}
//! ```
//!
//! # Around a client
//!
//! What the handler's call came with is written into the calls that the handler makes, and what the
//! handler has [set](set_global). A header that the request has already stays as it is.
//!
//! ```
//! # #[cfg(feature = "tonic")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tonic::transport::Channel;
//! use tower::ServiceBuilder;
//! use tower_mesh_layers::{
//!     Role,
//!     metadata::{MetadataLayer, RequestMetadata},
//! };
//!
//! let channel = ServiceBuilder::new()
//!     .layer(MetadataLayer::builder().local("caller", "cart").role(Role::Client).build()?)
//!     .service(Channel::from_static("http://[::1]:50051").connect_lazy());
//! let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
//!
//! // With this one call, and whatever is called because of it:
//! let mut request = tonic::Request::new(tonic_health::pb::HealthCheckRequest::default());
//! request.set_global("cohort", "beta")?;
//! # let _ = (&mut health, request);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tonic"))]
//! # fn main() {}
//! ```
//!
//! # In a handler
//!
//! | to | use |
//! |---|---|
//! | read what came | [`CallMetadata`] as an axum extractor, [`RequestMetadata::call_metadata`] of a tonic request, [`current`] anywhere |
//! | add to all calls from here on | [`set_global`], [`set_local`], [`append_global`], [`append_local`], [`remove`] |
//! | add to one call | [`RequestMetadata::set_global`], [`RequestMetadata::set_local`] on its request |
//! | add to the calls of one future | [`scope`] |
//! | take it along into another task | [`spawn`], [`InContext::in_current_context`](crate::context::InContext::in_current_context) |
//!
//! A task that is spawned without that has no part in it.
//!
//! # Roles
//!
//! | | `server()` | `client()` | `default()` |
//! |---|---|---|---|
//! | removes what untrusted callers must not send | yes | | yes |
//! | reads metadata, makes it current around handler and response body | yes | | yes |
//! | writes metadata into the request | | yes | yes |
//!
//! Both is for a gateway, where the request that came is the one that goes: what was for one hop is
//! taken out of it.
//!
//! # What goes how far
//!
//! | entry | to the handler | to the calls that it makes |
//! |---|---|---|
//! | global, `x-md-global-*` | yes | yes |
//! | local, `x-md-local-*` | yes | no: only what is set here |
//! | `traceparent`, `tracestate`, `baggage`, headers of `propagate` | yes | yes |
//! | `authorization`, `cookie`, hop-by-hop headers, what `Connection` names | as it came | never, under no name |
//! | from an untrusted caller | no | no |
//!
//! The other [`Dialect`]s spell the same differently:
//!
//! | dialect | headers |
//! |---|---|
//! | `kratos` | `x-md-global-<key>`, `x-md-local-<key>`, one line for each value |
//! | `go-micro` | `Micro-<Key>`, one line for each value; `Micro-From-Service` is the entry `caller` |
//! | `go-chassis` | `x-cse-context`, a JSON object of strings; `x-cse-src-microservice`, in it or alone, is the entry `caller` |
//!
//! go-micro and go-chassis know no scopes: what they send is global, save for the caller, and what is
//! sent to them they may pass on. What go-micro's handlers send under names of their own, without
//! `Micro-`, is read with `propagate`. Keys are in lower case.
//!
//! # Traces
//!
//! Trace context and baggage are passed on as they came, so a trace goes through a service that has no
//! tracing. With the feature `otel` the propagator of `opentelemetry::global` reads and writes them: the
//! caller's trace is current in the handler unless a span is already, and the span that is current is
//! written into calls. Baggage is cut to 64 members and 8,192 bytes (the first 180 members are looked at),
//! before anybody else reads it.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `trust` | `none` | whose headers are believed: `none`, `all`, `{ cidrs: [10.0.0.0/8], identities: [..] }` |
//! | `client` | | how `trust` tells a caller's address: `{ trustedHops: 1, header: xForwardedFor }` behind one proxy |
//! | `accept` | `[kratos]` | dialects that are read; where two have a key, the first one counts |
//! | `send` | `[kratos]` | dialects that are written |
//! | `propagate` | none | other headers to pass on, at most 32: `x-tenant`, `x-app-*` |
//! | `traceContext` | `true` | whether `traceparent`, `tracestate` and `baggage` are passed on |
//! | `global`, `local` | none | entries for each call that has none of that key: `{ caller: cart }` |
//! | `maxEntries` | 64 | entries of a call, 1 to 256 |
//! | `maxBytes` | 8192 | bytes of all keys and values, 64 to 65536 |
//! | `maxKeyLength` | 128 | bytes of a key, 1 to 256 |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! What is above a limit is dropped, the rest goes on. The first of each kind is logged.
//!
//! Where headers of proxies are removed, layers further in still find the client's address: with
//! `client.trustedHops` it is there as [`ClientAddr`](crate::ClientAddr), and without, hops are counted in
//! the lines that were removed.
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_metadata_stripped_total` | `policy` | header lines of untrusted callers that were removed |
//! | `mesh_metadata_dropped_total` | `policy`, `reason` = `count`, `size`, `key`, `never`, `untrusted`, `baggage`, `malformed` | metadata that was not propagated |
//!
//! # Cost
//!
//! A call without metadata costs no allocation: around a handler a look at each header's name, around a
//! client a look for the context. With metadata it is the context and one more for up to four entries.

mod access;
mod around;
mod baggage;
mod body;
mod config;
mod dialect;
mod future;
mod json;
mod layer;
#[cfg(feature = "otel")]
mod otel;
mod receive;
mod room;
mod send;
mod service;
mod stats;
#[cfg(test)]
mod tests;

pub use self::{
    access::{
        CallMetadata, RequestMetadata, append_global, append_local, current, remove, scope,
        set_global, set_local,
    },
    body::ResponseBody,
    config::MetadataConfig,
    dialect::Dialect,
    future::ResponseFuture,
    layer::{MetadataBuilder, MetadataLayer},
    service::PropagateMetadata,
    stats::MetadataStats,
};
pub use crate::vocab::{
    context::{Metadata, MetadataError, Scope, spawn},
    role::Role,
};
