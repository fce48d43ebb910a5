//! Options of the server side.

use serde::{Deserialize, Serialize};
use tower_mesh_layers::{deadline::DeadlineConfig, rate_limit::RateLimitConfig};

use crate::config::section;

/// Options of the server side: a section for each layer. A section may be `off`.
///
/// | section | default | |
/// |---|---|---|
/// | `deadline` | takes the caller's deadline, adds none | [`DeadlineConfig`] |
/// | `rateLimit` | none | [`RateLimitConfig`] |
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServerConfig {
    /// How long calls may take. Default: as long as their callers wait.
    #[serde(with = "section")]
    pub deadline: Option<DeadlineConfig>,
    /// How many calls are admitted. Default: no limit.
    #[serde(with = "section")]
    pub rate_limit: Option<RateLimitConfig>,
}

// ===== impl ServerConfig =====

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            deadline: Some(DeadlineConfig::default()),
            rate_limit: None,
        }
    }
}
