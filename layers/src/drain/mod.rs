//! Takes no new calls, and finishes those that there are: how a process leaves without a call that fails for it.
//!
//! ```
//! # #[cfg(feature = "axum")]
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use axum::{Router, body::Body, http::Request, routing::get};
//! use tower::ServiceExt;
//! use tower_mesh_layers::drain::DrainLayer;
//!
//! async fn report() -> &'static str {
//!     tokio::time::sleep(Duration::from_secs(3)).await;
//!     "done"
//! }
//!
//! let layer = DrainLayer::builder().limit(Duration::from_secs(10)).build()?;
//! let drain = layer.handle();
//! let app = Router::new().route("/report", get(report)).layer(layer);
//!
//! let call = || Request::get("/report").body(Body::empty()).unwrap();
//! let in_flight = tokio::spawn(app.clone().oneshot(call()));
//! tokio::task::yield_now().await;
//! drain.start();
//! assert_eq!(app.oneshot(call()).await?.status(), 503); // a new one is refused
//! assert_eq!(in_flight.await??.status(), 200); // the other is finished
//! drain.drained().await?; // or an error that says how many are left after ten seconds
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "axum"))]
//! # fn main() {}
//! ```
//!
//! # How a process leaves
//!
//! ```text
//!          lame_duck()          refuse()          nothing in flight, or `limit` is over
//!  serving ─────────► lame duck ────────► draining ────────────────────► drained
//!      └── start() ── for `lameDuck` ────────┘
//! ```
//!
//! | state | new calls | HTTP/1 connections |
//! |---|---|---|
//! | [`Serving`](DrainState::Serving) | are taken | are kept |
//! | [`LameDuck`](DrainState::LameDuck) | are taken, while callers learn that they are to go elsewhere | are closed after the next answer |
//! | [`Draining`](DrainState::Draining) | are refused: 503, UNAVAILABLE, both fit to be repeated elsewhere | the same |
//! | [`Drained`](DrainState::Drained) | the same | the same |
//!
//! Being a lame duck ([SRE book, chapter 20](https://sre.google/sre-book/load-balancing-datacenter/)) is what keeps calls from
//! failing: whoever learns of an instance from a registry or a load balancer learns late that it is gone. `lameDuck`
//! has to be as long as that takes.
//!
//! An HTTP/1 connection is closed by `Connection: close` in its answers, of calls in flight and of refused ones. Over
//! HTTP/2 that is GOAWAY, which only the server can send: axum's `with_graceful_shutdown`, tonic's
//! `serve_with_shutdown` and hyper's `graceful_shutdown` do. `tower_mesh::serve` ties a registration, this handle and a
//! server together.
//!
//! A call is in flight until its response body has ended; one that was upgraded (a WebSocket) until then. The end
//! of a body is when it is handed to the server, which may yet have to send it: so do not exit as soon as
//! [`drained`](DrainHandle::drained), but when the server is done. [`DrainHandle::bound`] waits for that, and no longer
//! than `limit`.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `limit` | `30s` | how long calls in flight have from the first refusal on, 0 to 24 h |
//! | `lameDuck` | `0s` | how long new calls are taken after the start, 0 to 1 h |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_drain_in_flight` | `policy` | calls in flight |
//! | `mesh_drain_refused_total` | `policy` | calls refused |
//! | `mesh_drain_state` | `policy`, `state` = `serving`, `lame_duck`, `draining`, `drained` | layers in this state |
//!
//! # Cost
//!
//! Two additions to a counter of the thread, and a flag that is read.

mod config;
mod course;
mod door;
mod future;
mod guard;
mod handle;
mod layer;
mod service;
#[cfg(test)]
mod tests;

/// What the door is made of; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    pub(super) use crate::vocab::shard::Sharded;
}

pub use self::{
    config::DrainConfig,
    course::DrainState,
    future::ResponseFuture,
    guard::InFlight,
    handle::{DrainHandle, DrainStats, StillInFlight},
    layer::{DrainBuilder, DrainLayer},
    service::Drain,
};
use crate::vocab::tracked::{self, Tracked};

/// The body of [`Drain`]'s responses.
pub type ResponseBody<B> = tracked::ResponseBody<Tracked<B, std::convert::Infallible, InFlight>>;
