//! Options of the server side.

use serde::{Deserialize, Serialize};
use tower_mesh_layers::{
    deadline::DeadlineConfig, metadata::MetadataConfig, rate_limit::RateLimitConfig,
};

use crate::config::section;

/// Options of the server side: a section for each layer. A section may be `off`.
///
/// | section | default | |
/// |---|---|---|
/// | `metadata` | trusts nobody: removes what only the mesh may send | [`MetadataConfig`] |
/// | `deadline` | takes the caller's deadline, adds none | [`DeadlineConfig`] |
/// | `rateLimit` | none | [`RateLimitConfig`] |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerConfig {
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
    /// How many calls are admitted. Default: no limit.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<RateLimitConfig>")
    )]
    #[serde(with = "section")]
    pub rate_limit: Option<RateLimitConfig>,
}

// ===== impl ServerConfig =====

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            metadata: Some(MetadataConfig::default()),
            deadline: Some(DeadlineConfig::default()),
            rate_limit: None,
        }
    }
}
