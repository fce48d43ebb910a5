//! Options of telemetry.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::{HeaderName, HeaderValue, Uri};
use serde::{Deserialize, Serialize, Serializer};
use tower_mesh_layers::config::{ConfigError, Ratio, duration, duration_in_range};

use crate::config::section;

/// Options of telemetry; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where spans are exported to. Default: nowhere.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "crate::config::Section<OtlpConfig>")
    )]
    #[serde(with = "section")]
    pub otlp: Option<OtlpConfig>,
    /// Which spans are exported.
    pub traces: TracesConfig,
    /// What is written to the standard output, as directives of a filter: `info`,
    /// `warn,my_service=debug`; `off` for nothing. `RUST_LOG`, where it is set, goes before this.
    /// Default `info`.
    pub logs: String,
    /// Attributes of everything that is exported, beside `service.name`. Default none.
    pub resource: BTreeMap<String, String>,
}

/// Where spans are exported to: a collector that speaks OTLP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OtlpConfig {
    /// The collector's URL, without a path. Default: what `OTEL_EXPORTER_OTLP_ENDPOINT` says, or else
    /// `http://localhost:4317` for gRPC and `http://localhost:4318` for HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How to speak to it. Default gRPC.
    pub protocol: OtlpProtocol,
    /// Headers that are sent along, such as a key. Default none.
    pub headers: SecretHeaders,
    /// How long an export may take: 1 ms to 1 min, default 10 s.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "duration")]
    pub timeout: Duration,
}

/// How OTLP is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum OtlpProtocol {
    /// gRPC.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP, to `/v1/traces` below the endpoint.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// Headers whose values are shown nowhere: neither for debugging nor when a configuration is written out.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct SecretHeaders(BTreeMap<String, String>);

/// Which spans are exported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TracesConfig {
    /// The share of traces that are sampled. Default 100%.
    pub ratio: Ratio,
    /// Whether a trace that a trusted caller began is sampled as the caller decided; the ratio is for
    /// those that begin here. Default true.
    pub parent_based: bool,
    /// Which spans there are, as directives of a filter: target and level. Default `info`.
    pub filter: String,
}

// ===== impl TelemetryConfig =====

impl TelemetryConfig {
    /// Exports to a collector at this URL, by gRPC.
    pub fn otlp(endpoint: impl Into<String>) -> Self {
        Self {
            otlp: Some(OtlpConfig {
                endpoint: Some(endpoint.into()),
                ..OtlpConfig::default()
            }),
            ..Self::default()
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is refused, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(otlp) = &self.otlp {
            otlp.validate().map_err(|error| error.at("otlp"))?;
        }
        for key in self.resource.keys() {
            if key.is_empty() || key == "service.name" {
                let expected =
                    "the name of an attribute other than `service.name`, which is `service`";
                return Err(ConfigError::new("resource", key, expected));
            }
        }
        #[cfg(feature = "otlp")]
        {
            super::filter("logs", &self.logs)?;
            super::filter("traces.filter", &self.traces.filter)?;
        }
        Ok(())
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            otlp: None,
            traces: TracesConfig::default(),
            logs: "info".to_owned(),
            resource: BTreeMap::new(),
        }
    }
}

// ===== impl OtlpConfig =====

impl OtlpConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if let Some(endpoint) = &self.endpoint {
            let uri: Option<Uri> = endpoint.parse().ok();
            let is_good = uri.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri
                        .authority()
                        .is_some_and(|authority| !authority.as_str().contains('@'))
                    && matches!(uri.path(), "" | "/")
                    && uri.query().is_none()
            });
            if !is_good {
                // Not the value: there may be a password in it.
                let expected = "http:// or https:// with a host and maybe a port, nothing more";
                return Err(ConfigError::new("endpoint", "another URL", expected));
            }
        }
        self.headers.validate()?;
        let most = Duration::from_secs(60);
        duration_in_range("timeout", self.timeout, Duration::from_millis(1)..=most).map(drop)
    }
}

impl Default for OtlpConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: OtlpProtocol::default(),
            headers: SecretHeaders::default(),
            timeout: Duration::from_secs(10),
        }
    }
}

// ===== impl SecretHeaders =====

impl SecretHeaders {
    /// What stands in the place of a value.
    const REDACTED: &str = "[redacted]";

    /// Headers by name.
    pub fn new<K: Into<String>, V: Into<String>>(
        headers: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let headers = headers.into_iter();
        Self(
            headers
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    #[cfg(feature = "otlp")]
    pub(super) fn reveal(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn validate(&self) -> Result<(), ConfigError> {
        for (name, value) in &self.0 {
            if HeaderName::try_from(name).is_err() {
                let expected = "the name of an HTTP header";
                return Err(ConfigError::new("headers", name, expected));
            }
            let is_text = HeaderValue::try_from(value).is_ok_and(|value| value.to_str().is_ok());
            if !is_text {
                let path = format!("headers.{name}");
                return Err(ConfigError::new(path, Self::REDACTED, "printable ASCII"));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SecretHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redacted = self.names().map(|name| (name, Self::REDACTED));
        f.debug_map().entries(redacted).finish()
    }
}

impl Serialize for SecretHeaders {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.names().map(|name| (name, Self::REDACTED)))
    }
}

// ===== impl TracesConfig =====

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            ratio: Ratio::ONE,
            parent_based: true,
            filter: "info".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: &TelemetryConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_section_reads_as_it_is_documented() {
        let json = serde_json::json!({
            "otlp": {
                "endpoint": "https://collector:4318",
                "protocol": "http/protobuf",
                "headers": { "x-key": "s3cret" },
                "timeout": "2s"
            },
            "traces": { "ratio": "10%", "parentBased": false },
            "resource": { "deployment.environment.name": "test" }
        });
        let config: TelemetryConfig = serde_json::from_value(json).unwrap();
        config.validate().unwrap();
        let otlp = config.otlp.as_ref().unwrap();
        assert_eq!(otlp.protocol, OtlpProtocol::HttpProtobuf);
        assert_eq!(otlp.timeout, Duration::from_secs(2));
        assert_eq!(config.traces.ratio, Ratio::percent(10));
        let off: TelemetryConfig =
            serde_json::from_value(serde_json::json!({ "otlp": "off" })).unwrap();
        assert_eq!(off, TelemetryConfig::default());
    }

    #[test]
    fn the_value_of_a_header_is_shown_nowhere() {
        let mut config = TelemetryConfig::otlp("http://collector:4317");
        config.otlp.as_mut().unwrap().headers = SecretHeaders::new([("x-key", "s3cret\n")]);
        let shown = [
            format!("{config:?}"),
            serde_json::to_string(&config).unwrap(),
            refused(&config),
        ];
        for shown in shown {
            assert!(
                shown.contains("x-key") && !shown.contains("s3cret"),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_its_field() {
        let mut config = TelemetryConfig::default();
        config
            .resource
            .insert("service.name".to_owned(), "x".to_owned());
        assert!(refused(&config).starts_with("resource: got `service.name`"));
        for endpoint in [
            "collector:4317",
            "http://user:pw@collector",
            "http://collector/v1/traces",
        ] {
            let refused = refused(&TelemetryConfig::otlp(endpoint));
            assert!(refused.starts_with("otlp.endpoint: "), "{refused}");
            assert!(!refused.contains("pw@"), "{refused}");
        }
        let mut config = TelemetryConfig::otlp("http://collector:4317");
        config.otlp.as_mut().unwrap().timeout = Duration::ZERO;
        assert!(refused(&config).starts_with("otlp.timeout: "));
    }

    #[cfg(feature = "otlp")]
    #[test]
    fn a_filter_that_does_not_parse_is_refused() {
        let mut config = TelemetryConfig::default();
        config.traces.filter = "tower_mesh=loud".to_owned();
        assert!(refused(&config).starts_with("traces.filter: got `tower_mesh=loud`"));
    }
}
