//! Resilience layers for [`tower`](https://docs.rs/tower) stacks.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[allow(
    unused_macros,
    unused_imports,
    reason = "each layer that has a service uses it"
)]
mod macros;
pub mod vocab;

#[cfg(all(test, feature = "full"))]
mod fuzz;

#[cfg(test)]
mod loom_sync;

#[cfg(feature = "body-limit")]
pub mod body_limit;
#[cfg(feature = "catch-panic")]
pub mod catch_panic;
#[cfg(feature = "circuit-breaker")]
pub mod circuit_breaker;
#[cfg(feature = "concurrency-limit")]
pub mod concurrency_limit;
#[cfg(feature = "deadline")]
pub mod deadline;
#[cfg(feature = "drain")]
pub mod drain;
#[cfg(feature = "hedge")]
pub mod hedge;
#[cfg(feature = "idempotency")]
pub mod idempotency;
#[cfg(feature = "metadata")]
pub mod metadata;
#[cfg(feature = "rate-limit")]
pub mod rate_limit;
#[cfg(feature = "request-metrics")]
pub mod request_metrics;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "retry")]
pub mod retry;
#[cfg(feature = "route")]
pub mod route;
#[cfg(feature = "test-util")]
pub mod test_util;
#[cfg(feature = "trace")]
pub mod trace;

pub use vocab::*;
