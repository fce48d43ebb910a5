//! Options of catch-panic.

use serde::{Deserialize, Serialize};

use super::hook;
use crate::vocab::config::ConfigError;

/// Options of catch-panic; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CatchPanicConfig {
    /// Whether the log says where a panic was. Adds to the panic hook of the process. Default true.
    pub location: bool,
    /// Whether callers are told what a panic says: for development. Default false.
    pub expose_message: bool,
    /// The label `policy` of the metrics. Default `default`.
    pub name: String,
}

// ===== impl CatchPanicConfig =====

impl Default for CatchPanicConfig {
    fn default() -> Self {
        Self {
            location: true,
            expose_message: false,
            name: "default".to_owned(),
        }
    }
}

impl CatchPanicConfig {
    /// What runs.
    pub(super) fn compile(config: &Option<Self>) -> Result<Option<Self>, ConfigError> {
        if config.as_ref().is_some_and(|config| config.location) {
            hook::install();
        }
        Ok(config.clone())
    }
}
