//! Options of the body limit.

use serde::{Deserialize, Serialize};

use super::budget::Budget;
use crate::vocab::config::{ByteSize, ConfigError};

/// Options of the body limit; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("anyOf" = [
    { "required": ["request"] },
    { "required": ["response"] },
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BodyLimitConfig {
    /// The most bytes of a request: `64KiB`, `1MiB`, or a number of bytes. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<ByteSize>,
    /// The most bytes of a response. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<ByteSize>,
    /// The label `policy` of the metrics. Default `default`.
    pub name: String,
}

/// What runs.
#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) limits: Limits,
    /// `None` where the layer is off.
    pub(super) name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Limits {
    pub(super) request: Option<ByteSize>,
    pub(super) response: Option<ByteSize>,
}

// ===== impl BodyLimitConfig =====

impl Default for BodyLimitConfig {
    fn default() -> Self {
        Self {
            request: None,
            response: None,
            name: "default".to_owned(),
        }
    }
}

impl BodyLimitConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// When there is no limit at all.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.request.is_none() && self.response.is_none() {
            let expected = "`request`, `response` or both";
            return Err(ConfigError::new("", "no limit", expected));
        }
        Ok(())
    }

    pub(super) fn compile(config: &Option<Self>) -> Result<Compiled, ConfigError> {
        let Some(config) = config else {
            return Ok(Compiled {
                limits: Limits::default(),
                name: None,
            });
        };
        config.validate()?;
        Ok(Compiled {
            limits: Limits {
                request: config.request,
                response: config.response,
            },
            name: Some(config.name.clone()),
        })
    }
}

// ===== impl ByteSize =====

impl ByteSize {
    pub(super) fn budget(self) -> Budget {
        Budget::new(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_reads_back_as_it_was_written() {
        let text = r#"{"request":"64KiB","response":"1000B","name":"edge"}"#;
        let config: BodyLimitConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.request, Some(ByteSize::kib(64)));
        config.validate().unwrap();
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
        let number = serde_json::from_str::<BodyLimitConfig>(r#"{"request":1000}"#).unwrap();
        assert_eq!(number.request, Some(ByteSize::new(1000)));
    }

    #[test]
    fn a_limit_of_nothing_and_what_is_no_size_are_refused() {
        let refused = BodyLimitConfig::default().validate().unwrap_err();
        assert_eq!(
            refused.to_string(),
            "got `no limit`, expected `request`, `response` or both"
        );
        for text in [
            r#"{"requests":1}"#,
            r#"{"request":-1}"#,
            r#"{"request":"1MB"}"#,
            r#"{"request":1.5}"#,
        ] {
            assert!(
                serde_json::from_str::<BodyLimitConfig>(text).is_err(),
                "{text}"
            );
        }
    }
}
