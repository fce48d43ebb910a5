//! Options of a named client.

use serde::{Deserialize, Serialize};
use tower_mesh_discovery::balance::BalanceConfig;
use tower_mesh_layers::{
    body_limit::BodyLimitConfig, circuit_breaker::BreakerConfig,
    concurrency_limit::ConcurrencyLimitConfig, deadline::DeadlineConfig, hedge::HedgeConfig,
    metadata::MetadataConfig, rate_limit::RateLimitConfig, request_metrics::MetricsConfig,
    retry::RetryConfig, route::RouteConfig,
};

use crate::config::{SpansConfig, section};

/// Options of a named client: a section for each layer. A section may be `off`.
///
/// | section | default | |
/// |---|---|---|
/// | `registry` | the mesh's default one | the name of the registry that knows this service |
/// | `trace` | a span for each call and one for each attempt, if anybody listens | [`SpansConfig`] |
/// | `metrics` | on | [`MetricsConfig`] |
/// | `metadata` | sends what calls carry, as kratos spells it | [`MetadataConfig`] |
/// | `deadline` | takes the caller's deadline, adds none | [`DeadlineConfig`] |
/// | `concurrencyLimit` | none | [`ConcurrencyLimitConfig`] |
/// | `rateLimit` | none | [`RateLimitConfig`] |
/// | `hedge` | none | [`HedgeConfig`] |
/// | `retry` | on | [`RetryConfig`] |
/// | `circuitBreaker` | on; one per operation unless its `key` says otherwise | [`BreakerConfig`] |
/// | `bodyLimit` | none; of responses, it keeps a peer from filling the memory | [`BodyLimitConfig`] |
/// | `balance` | peak EWMA | [`BalanceConfig`] |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConfig {
    /// The name of the registry that knows this service. Default: the mesh's default registry.
    pub registry: Option<String>,
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
    /// What metadata calls carry. Default: what the handler's call came with, and what it has set.
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
    /// How many calls may be under way at once. Default: no limit.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<ConcurrencyLimitConfig>")
    )]
    #[serde(with = "section")]
    pub concurrency_limit: Option<ConcurrencyLimitConfig>,
    /// How many calls may be made. Default: no limit.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<RateLimitConfig>")
    )]
    #[serde(with = "section")]
    pub rate_limit: Option<RateLimitConfig>,
    /// Which arm of the service calls go to. In a file that is said under `routes`. Default: any.
    #[serde(skip)]
    pub route: Option<RouteConfig>,
    /// When to send a slow call a second time. Default: never.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<HedgeConfig>")
    )]
    #[serde(with = "section")]
    pub hedge: Option<HedgeConfig>,
    /// When to try again.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<RetryConfig>")
    )]
    #[serde(with = "section")]
    pub retry: Option<RetryConfig>,
    /// When to stop trying. Default: on. Where it has no `key`, there is one breaker per operation.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<BreakerConfig>")
    )]
    #[serde(with = "section")]
    pub circuit_breaker: Option<BreakerConfig>,
    /// How many bytes requests and responses of an attempt may have. Default: no limit.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<BodyLimitConfig>")
    )]
    #[serde(with = "section")]
    pub body_limit: Option<BodyLimitConfig>,
    /// How an endpoint is picked.
    pub balance: BalanceConfig,
}

// ===== impl ClientConfig =====

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            registry: None,
            trace: Some(SpansConfig::default()),
            metrics: Some(MetricsConfig::default()),
            metadata: Some(MetadataConfig::default()),
            deadline: Some(DeadlineConfig::default()),
            concurrency_limit: None,
            rate_limit: None,
            route: None,
            hedge: None,
            retry: Some(RetryConfig::default()),
            circuit_breaker: Some(BreakerConfig::default()),
            body_limit: None,
            balance: BalanceConfig::default(),
        }
    }
}
