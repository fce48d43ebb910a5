//! Answers for a handler that panics, and keeps what the panic says from callers.
//!
//! Without this a panic unwinds through the task that runs the call: the caller sees a broken connection (HTTP/1.1) or
//! a reset stream (HTTP/2) in place of an answer, and nobody counts it. Over plain hyper, a panic in `call` itself, before
//! there is a future, ends the connection with every other call on it.
//!
//! ```
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_mesh_layers::catch_panic::CatchPanicLayer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! async fn handler(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
//!     panic!("no order 7 in shard 3")
//! }
//!
//! let layer = CatchPanicLayer::default();
//! let panics = layer.handle();
//! let service = ServiceBuilder::new().layer(layer).service(service_fn(handler));
//!
//! let response = service.oneshot(Request::default()).await?;
//! assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
//! assert_eq!(panics.stats().before_head, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # What callers see
//!
//! | the handler panics | HTTP | gRPC |
//! |---|---|---|
//! | before its answer: in `call`, or when its future is polled | 500 | INTERNAL |
//! | while the body of its answer is polled | the body fails | trailers, INTERNAL |
//!
//! To outer layers of this process each is a failure of the handler. What is inside is dropped before the answer
//! goes out, by unwinding or right after it, so permits and probes are given back.
//!
//! Put it outermost: a panic in a layer around it is not caught. Nor is one in a task that the handler has spawned,
//! which is that task's own, or in `poll_ready`.
//!
//! # The log
//!
//! Each panic is one event of `tracing` at level ERROR, with its message and its place. The place is known to the
//! process's panic hook alone. So the first layer puts a hook in front of the one that is there, which notes where the
//! panic was and then calls that one: what is printed or reported today is so still. Where the application replaces the
//! hook later on, or `location` is `false`, the event has no place.
//!
//! The answer says nothing of the message, which may hold what is nobody's business.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `location` | `true` | whether the log says where; adds to the panic hook of the process |
//! | `exposeMessage` | `false` | whether callers are told what the panic says: for development |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_catch_panic_panics_total` | `policy`, `at` = `head`, `body` | panics that were caught |
//!
//! # Where there is nothing to catch
//!
//! With `panic = "abort"` the process ends at the panic, whatever is around it.

mod body;
mod config;
mod future;
mod handle;
mod hook;
mod layer;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    body::{CatchPanicBody, Panicked},
    config::CatchPanicConfig,
    future::ResponseFuture,
    handle::{CatchPanicHandle, CatchPanicStats},
    layer::{CatchPanicBuilder, CatchPanicLayer},
    service::CatchPanic,
};
use crate::vocab::tracked;

/// The body of [`CatchPanic`]'s responses.
pub type ResponseBody<B> = tracked::ResponseBody<CatchPanicBody<B>>;
