//! Options of the request metrics.

use serde::{Deserialize, Serialize};

use crate::vocab::config::{ConfigError, in_range};

/// Options of the request metrics; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// How many operations are told apart: 1 to 10,000. Further ones share a series. Default 100.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10_000)))]
    pub max_operations: usize,
}

// ===== impl MetricsConfig =====

impl MetricsConfig {
    /// Each operation is a few kilobytes and at least one series.
    pub(super) const MOST_OPERATIONS: usize = 10_000;

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        in_range(
            "maxOperations",
            self.max_operations,
            1..=Self::MOST_OPERATIONS,
        )
        .map(drop)
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            // A service has tens of operations, and a metric has 200 series.
            max_operations: 100,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_reads_back_and_a_refusal_names_field_value_and_range() {
        let config: MetricsConfig = serde_json::from_str(r#"{"maxOperations": 5}"#).unwrap();
        config.validate().unwrap();
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(written, r#"{"maxOperations":5}"#);
        let empty: MetricsConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, MetricsConfig::default());

        let none = MetricsConfig { max_operations: 0 };
        assert_eq!(
            none.validate().unwrap_err().to_string(),
            "maxOperations: got `0`, expected 1 to 10000"
        );
    }
}
