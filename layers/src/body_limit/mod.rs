//! Bounds how many bytes a request or a response may have, without reading ahead.
//!
//! ```
//! # #[cfg(feature = "axum")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, body::Body, http::Request, routing::post};
//! use tower::ServiceExt;
//! use tower_mesh_layers::body_limit::BodyLimitLayer;
//!
//! let app = Router::new()
//!     .route("/orders", post(|order: String| async move { order.len().to_string() }))
//!     .layer(BodyLimitLayer::builder().request("64KiB".parse()?).build()?);
//!
//! let order = |length| Request::post("/orders").body(Body::from("x".repeat(length))).unwrap();
//! assert_eq!(app.clone().oneshot(order(65_536)).await?.status(), 200);
//! assert_eq!(app.oneshot(order(65_537)).await?.status(), 413);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "axum"))]
//! # fn main() {}
//! ```
//!
//! # What happens above a limit
//!
//! | | the handler | HTTP | gRPC |
//! |---|---|---|---|
//! | the request says so itself: `content-length` | is not called, nothing is read | 413 | RESOURCE_EXHAUSTED |
//! | a streamed request turns out to be | sees its body fail with [`BodyTooLarge`] | 413, unless the answer is out already | RESOURCE_EXHAUSTED, the same |
//! | the response is | its body is dropped | the body fails with [`BodyTooLarge`] | trailers, RESOURCE_EXHAUSTED |
//!
//! A refusal says that it need not be repeated (`x-mesh-retry: never`, `grpc-retry-pushback-ms: -1`). hyper closes a
//! connection whose request was not read to its end, and a caller that waits for `100 Continue` sends nothing.
//!
//! A limit of responses is for clients: it keeps a peer from filling the memory of whoever collects its answer. It is
//! a failure of the peer to the layers outside.
//!
//! # What is counted
//!
//! The bytes of data as they pass this layer; trailers are not. Exactly `request` bytes pass, and of a frame with which
//! it would be more, none. Nothing is buffered.
//!
//! Of a compressed body that is what came over the wire if the layer is outside of decompression, and what it unfolds
//! to if it is **inside**. Only there does it stop a zip bomb: each frame is counted as it is unfolded, so of a
//! gigabyte no more than the limit and one frame are ever made.
//!
//! The limit is for the whole body: a gRPC stream of a day needs room for a day, or no limit. The size of a single
//! message is tonic's to limit (`max_decoding_message_size`, 4 MiB).
//!
//! # Request bodies
//!
//! A request body of known length costs nothing; one that streams is boxed, once. It keeps its type, which therefore is
//! a boxed one ([`LimitBody`]): axum's, tonic's, reqwest's, `BoxBody`, `UnsyncBoxBody`; or `Full<Bytes>`, whose length
//! is known. On a plain hyper server map `Incoming` first, with `MapRequestBodyLayer::new(axum::body::Body::new)` of
//! tower-http say.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `request` | none | the most bytes of a request: `64KiB`, `1MiB`, or a number of bytes |
//! | `response` | none | the most bytes of a response |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! One of the two must be there. There is no default limit: an upload is as large as it is. (axum's extractors, which
//! buffer, have one of 2 MB.)
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_body_limit_exceeded_total` | `policy`, `body` = `request`, `response` | bodies that were too long |

mod body;
mod budget;
mod config;
mod future;
mod handle;
mod layer;
mod service;
#[cfg(test)]
mod tests;

pub use self::{
    body::{BodyTooLarge, LimitBody, LimitedBody, RequestLimit},
    config::BodyLimitConfig,
    future::ResponseFuture,
    handle::{BodyLimitHandle, BodyLimitStats},
    layer::{BodyLimitBuilder, BodyLimitLayer},
    service::BodyLimit,
};
pub use crate::vocab::config::ByteSize;
use crate::vocab::tracked;

/// The body of [`BodyLimit`]'s responses.
pub type ResponseBody<B> = tracked::ResponseBody<LimitedBody<B>>;
