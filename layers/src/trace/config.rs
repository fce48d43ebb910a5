//! Options of the trace layer.

use serde::{Deserialize, Serialize};

use crate::vocab::{
    client_addr::ClientIp,
    config::ConfigError,
    request_match::{MatchConfig, RequestMatch},
    trust::Trust,
};

/// Options of the trace layer; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TraceConfig {
    /// Around a handler: whose trace is continued; the spans of others' calls are linked to theirs.
    /// Default: nobody's.
    pub trust: Trust,
    /// How `trust` tells the address of a caller: behind so many trusted proxies. Default none.
    pub client: ClientIp,
    /// Around a client: whether the trace context of its span is written into the request. Default true.
    pub propagate: bool,
    /// Calls without a span: those that any of these matches. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<MatchConfig>,
}

/// What runs of a [`TraceConfig`].
#[cfg_attr(
    not(feature = "otel"),
    allow(dead_code, reason = "without it there is nobody to go on with a trace")
)]
pub(super) struct Compiled {
    pub(super) on: bool,
    pub(super) trust: Trust,
    pub(super) client: ClientIp,
    pub(super) propagate: bool,
    pub(super) exclude: Option<RequestMatch>,
}

// ===== impl TraceConfig =====

impl Default for TraceConfig {
    fn default() -> Self {
        Self {
            trust: Trust::None,
            client: ClientIp::default(),
            propagate: true,
            exclude: Vec::new(),
        }
    }
}

impl TraceConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is refused, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.compile().map(drop)
    }

    /// What runs where there may be no configuration.
    pub(super) fn compile_optional(config: &Option<Self>) -> Result<Compiled, ConfigError> {
        match config {
            Some(config) => config.compile(),
            None => Ok(Compiled {
                on: false,
                ..Self::default().compile()?
            }),
        }
    }

    fn compile(&self) -> Result<Compiled, ConfigError> {
        // An empty list of alternatives would match everything.
        let exclude = (!self.exclude.is_empty())
            .then(|| RequestMatch::any_of(&self.exclude).map_err(|error| error.at("exclude")))
            .transpose()?;
        Ok(Compiled {
            on: true,
            trust: self.trust.clone(),
            client: self.client,
            propagate: self.propagate,
            exclude,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_reads_back_as_it_was_written() {
        let text = r#"{
            "trust": {"cidrs": ["10.0.0.0/8"]}, "client": {"trustedHops": 1}, "propagate": false,
            "exclude": [{"path": {"exact": "/healthz"}}]
        }"#;
        let config: TraceConfig = serde_json::from_str(text).unwrap();
        config.validate().unwrap();
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<TraceConfig>(&written).unwrap(),
            config
        );
        let empty: TraceConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, TraceConfig::default());
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        let text = r#"{"exclude": [{}, {"path": {"regex": "("}}]}"#;
        let config: TraceConfig = serde_json::from_str(text).unwrap();
        let error = config.validate().unwrap_err();
        assert_eq!(error.path(), "exclude[1].path.regex");
    }
}
