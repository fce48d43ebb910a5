//! Options of the drain.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::vocab::config::{ConfigError, duration, duration_in_range};

/// Options of the drain; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DrainConfig {
    /// How long calls in flight have from the first refusal on: 0 to 24 h. Default 30 s, as Kubernetes grants.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub limit: Duration,
    /// How long new calls are taken after the start, while callers learn of it: 0 to 1 h. Default 0.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub lame_duck: Duration,
    /// The label `policy` of the metrics. Default `default`.
    pub name: String,
}

// ===== impl DrainConfig =====

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            limit: Duration::from_secs(30),
            lame_duck: Duration::ZERO,
            name: "default".to_owned(),
        }
    }
}

impl DrainConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const HOUR: Duration = Duration::from_secs(3600);
        duration_in_range("limit", self.limit, Duration::ZERO..=24 * HOUR)?;
        duration_in_range("lameDuck", self.lame_duck, Duration::ZERO..=HOUR)?;
        Ok(())
    }

    pub(super) fn compile(config: &Option<Self>) -> Result<Option<Self>, ConfigError> {
        if let Some(config) = config {
            config.validate()?;
        }
        Ok(config.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_reads_back_as_it_was_written() {
        let text = r#"{"limit":"10s","lameDuck":"5s","name":"edge"}"#;
        let config: DrainConfig = serde_json::from_str(text).unwrap();
        config.validate().unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
        let empty = serde_json::from_str::<DrainConfig>("{}").unwrap();
        assert_eq!(empty, DrainConfig::default());
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        for (text, message) in [
            (r#"{"limit":"25h"}"#, "limit: got `25h`, expected 0s to 24h"),
            (
                r#"{"lameDuck":"2h"}"#,
                "lameDuck: got `2h`, expected 0s to 1h",
            ),
        ] {
            let config: DrainConfig = serde_json::from_str(text).unwrap();
            assert_eq!(config.validate().unwrap_err().to_string(), message);
        }
        for text in [r#"{"limit":5}"#, r#"{"lameduck":"1s"}"#] {
            assert!(serde_json::from_str::<DrainConfig>(text).is_err(), "{text}");
        }
    }
}
