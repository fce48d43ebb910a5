//! Makes another attempt beside one that is slow, and takes the first good answer.
//!
//! A call that meets a pause of its endpoint (a collection of garbage, a full queue, a lost packet) waits for
//! it, although another endpoint would have answered by then. Hedging cuts that tail: after a delay that
//! nearly all calls stay below, the request is sent again, to another endpoint.
//!
//! ```
//! # use std::{sync::atomic::{AtomicU32, Ordering::SeqCst}, time::Duration};
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_mesh_layers::{Ratio, hedge::HedgeLayer};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! static CALLS: AtomicU32 = AtomicU32::new(0);
//!
//! async fn hiccup(_: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
//!     let pause = if CALLS.fetch_add(1, SeqCst) == 0 { 10_000 } else { 5 };
//!     tokio::time::sleep(Duration::from_millis(pause)).await;
//!     Ok(Response::default())
//! }
//!
//! let layer = HedgeLayer::builder()
//!     .delay(Duration::from_millis(20))
//!     .extra_load(Ratio::ONE) // for one call; the default of 5% is right for many
//!     .build()?;
//! let hedges = layer.handle();
//! let mut service = ServiceBuilder::new().layer(layer).service(service_fn(hiccup));
//!
//! let start = tokio::time::Instant::now();
//! let request = Request::get("/orders/7").body(Full::default())?;
//! assert_eq!(service.ready().await?.call(request).await?.status(), 200);
//! assert!(start.elapsed() < Duration::from_millis(40));
//! assert_eq!((hedges.stats().hedges, hedges.stats().won), (1, 1));
//! # Ok(())
//! # }
//! ```
//!
//! Make one layer for each peer: the delay is that of its answers. Around retries, it shares their budget:
//!
//! ```
//! # #[cfg(feature = "retry")] {
//! use tower::ServiceBuilder;
//! use tower_mesh_layers::{hedge::HedgeLayer, retry::RetryLayer};
//!
//! let retry = RetryLayer::default();
//! let client = ServiceBuilder::new()
//!     .layer(HedgeLayer::default().budget(retry.budget()))
//!     .layer(retry);
//! # let _ = client;
//! # }
//! ```
//!
//! # What is hedged
//!
//! GET, HEAD, OPTIONS and TRACE; a request with an `Idempotency-Key` or the extension
//! [`Idempotent`](crate::Idempotent); and what a match in `idempotent` means, which gRPC needs, as all its
//! calls are POST. Not PUT and DELETE, though they may be repeated: two at once may overtake a third.
//! `only` narrows it down.
//!
//! # When
//!
//! After a fixed time, or after a percentile of the time that answers took in the last 10 to 20 s, up to their
//! heads. It is taken anew every second, and with fewer than `minSamples` answers nothing is hedged. An
//! attempt that lost counts with the time it had. Timers are [coarse](crate::Wheel): up to 5 ms late.
//!
//! # How much
//!
//! Every call pays 5% of an attempt into the layer's cap, and what is not used within ten seconds is gone;
//! there is no reserve. So where all calls are slow (then the service is, and not an endpoint) one in twenty
//! is hedged. Each attempt is taken out of the [shared budget](HedgeLayer::budget) as well: a peer that fails
//! gets no hedges on top of its retries. Nothing is hedged after the call's deadline.
//!
//! # Who wins
//!
//! The first response head that is no failure: its body is passed up as it is, and the other attempts are
//! dropped in the same poll. A failure (and a [`Rejection`](crate::Rejection) of a layer below) ends the call
//! only where no other attempt is under way. It does not bring the next attempt forward; trying again
//! is for a retry layer. A peer that says when to come back delays the next attempt until then; one that is
//! too busy, or says `never`, gets no more of this call.
//!
//! # What an attempt is told
//!
//! From the second on it has a [`CallContext`](crate::CallContext) with its number and the endpoints that
//! were tried, which a balancer below avoids, and over gRPC `grpc-previous-rpc-attempts`.
//!
//! # Bodies
//!
//! The frames of a request body are kept as they pass, up to 64 KiB per call and 64 MiB altogether, as for
//! [retries](crate::body). A body that is still being sent when the delay is over is not sent a second time.
//!
//! # Options
//!
//! | option | default | |
//! |---|---|---|
//! | `delay` | `p95` | `20ms`, or a percentile from `p50` to `p99.99` |
//! | `maxAttempts` | `2` | the first one included; up to 5, each a delay after the one before |
//! | `extraLoad` | `5%` | attempts that may be added, for each call of the last 10 s |
//! | `idempotent` | none | [matches](crate::request_match) of requests that may be sent twice |
//! | `only` | all | matches of the only requests that are hedged |
//! | `minSamples` | `100` | answers that a percentile needs |
//! | `replay.perCall` | `65536` | bytes of one body that are kept |
//! | `replay.total` | `67108864` | bytes of all bodies that are kept |
//! | `name` | `default` | the label `policy` of the metrics |
//!
//! # Metrics
//!
//! | metric | labels | |
//! |---|---|---|
//! | `mesh_hedge_calls_total` | `policy` | calls, whether they may be hedged or not |
//! | `mesh_hedge_attempts_total` | `policy` | attempts that were made beside another one |
//! | `mesh_hedge_won_total` | `policy` | calls that were answered by one of them |
//! | `mesh_hedge_held_back_total` | `policy`, `reason` | slow calls that got none: `extra_load`, `budget`, `pushback`, `body`, `deadline` |
//! | `mesh_hedge_delay_seconds` | `policy` | how long an attempt is waited for now, once that is known |
//! | `mesh_hedge_kept_bytes` | `policy` | bytes of request bodies that are kept now |
//!
//! # Sources
//!
//! J. Dean and L. A. Barroso, "The Tail at Scale", CACM 2013: hedged requests after the 95th percentile.
//! Rules of what may follow what: gRPC's hedging policy, [gRFC A6]. A cap without a reserve: Finagle's backup
//! requests.
//!
//! [gRFC A6]: https://github.com/grpc/proposal/blob/master/A6-client-retries.md

mod attempts;
mod config;
mod due;
mod future;
mod handle;
mod latency;
mod layer;
mod policy;
mod service;
mod stats;
#[cfg(test)]
mod tests;

/// What the due time is made of; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

pub use self::{
    config::{HedgeConfig, HedgeDelay},
    future::ResponseFuture,
    handle::HedgeHandle,
    layer::{HedgeBuilder, HedgeLayer},
    service::Hedge,
    stats::{HedgeStats, HeldBack},
};
