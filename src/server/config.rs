//! Options of the server side.

use serde::{Deserialize, Serialize};
use tower_mesh_layers::{
    body_limit::BodyLimitConfig, catch_panic::CatchPanicConfig,
    concurrency_limit::ConcurrencyLimitConfig, deadline::DeadlineConfig, drain::DrainConfig,
    idempotency::IdempotencyConfig, metadata::MetadataConfig, rate_limit::RateLimitConfig,
    request_metrics::MetricsConfig,
};

use crate::config::{SpansConfig, section};

/// Options of the server side: a section for each layer. A section may be `off`.
///
/// | section | default | |
/// |---|---|---|
/// | `catchPanic` | on | [`CatchPanicConfig`] |
/// | `trace` | a span for each call, if anybody listens | [`SpansConfig`] |
/// | `metrics` | on | [`MetricsConfig`] |
/// | `drain` | on, and does nothing until it is [told to](super::ServerLayer::drain) | [`DrainConfig`] |
/// | `metadata` | trusts nobody: removes what only the mesh may send | [`MetadataConfig`] |
/// | `deadline` | takes the caller's deadline, adds none | [`DeadlineConfig`] |
/// | `concurrencyLimit` | none | [`ConcurrencyLimitConfig`] |
/// | `bodyLimit` | none | [`BodyLimitConfig`] |
/// | `rateLimit` | none | [`RateLimitConfig`] |
/// | `idempotency` | none | [`IdempotencyConfig`] |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Who answers where a handler panics. Default: on.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<CatchPanicConfig>")
    )]
    #[serde(with = "section")]
    pub catch_panic: Option<CatchPanicConfig>,
    /// Which calls have spans. Default: all.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<SpansConfig>")
    )]
    #[serde(with = "section")]
    pub trace: Option<SpansConfig>,
    /// What is counted and timed of calls. Default: on.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<MetricsConfig>")
    )]
    #[serde(with = "section")]
    pub metrics: Option<MetricsConfig>,
    /// How a process leaves. Default: on, with 30 s for calls in flight.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<DrainConfig>")
    )]
    #[serde(with = "section")]
    pub drain: Option<DrainConfig>,
    /// Who is trusted, and what is read of what they send. Default: nobody, and what only the mesh may
    /// send is removed.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<MetadataConfig>")
    )]
    #[serde(with = "section")]
    pub metadata: Option<MetadataConfig>,
    /// How long calls may take. Default: as long as their callers wait.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<DeadlineConfig>")
    )]
    #[serde(with = "section")]
    pub deadline: Option<DeadlineConfig>,
    /// How many calls are handled at once. Default: no limit.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<ConcurrencyLimitConfig>")
    )]
    #[serde(with = "section")]
    pub concurrency_limit: Option<ConcurrencyLimitConfig>,
    /// How many bytes requests and responses may have. Default: no limit.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<BodyLimitConfig>")
    )]
    #[serde(with = "section")]
    pub body_limit: Option<BodyLimitConfig>,
    /// How many calls are admitted. Default: no limit.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<RateLimitConfig>")
    )]
    #[serde(with = "section")]
    pub rate_limit: Option<RateLimitConfig>,
    /// Which calls are made once, however often they come. Default: none.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<IdempotencyConfig>")
    )]
    #[serde(with = "section")]
    pub idempotency: Option<IdempotencyConfig>,
}

// ===== impl ServerConfig =====

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            catch_panic: Some(CatchPanicConfig::default()),
            trace: Some(SpansConfig::default()),
            metrics: Some(MetricsConfig::default()),
            drain: Some(DrainConfig::default()),
            metadata: Some(MetadataConfig::default()),
            deadline: Some(DeadlineConfig::default()),
            concurrency_limit: None,
            body_limit: None,
            rate_limit: None,
            idempotency: None,
        }
    }
}
