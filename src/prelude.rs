//! What most applications import: `use tower_mesh::prelude::*;`.

pub use tower_mesh_layers::{
    CallContext, ConfigError, Key, Live, Outcome, Ratio, Reason, Rejection,
    circuit_breaker::{BreakerConfig, CircuitBreakerLayer},
    concurrency_limit::{ConcurrencyLimitConfig, ConcurrencyLimitLayer},
    deadline::{DeadlineConfig, DeadlineLayer},
    idempotency::{IdempotencyConfig, IdempotencyLayer},
    rate_limit::{RateLimitConfig, RateLimitLayer},
    retry::{RetryConfig, RetryLayer},
};

#[cfg(feature = "metadata")]
pub use tower_mesh_layers::metadata::{
    CallMetadata, MetadataConfig, MetadataLayer, RequestMetadata,
};

pub use crate::{
    Body, Mesh,
    client::{Client, ClientConfig},
    serve::GracefulShutdown,
    server::{ServerConfig, ServerLayer},
};
