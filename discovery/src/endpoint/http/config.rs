//! Settings of our own endpoints.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tower_mesh_layers::config::{self, ConfigError, duration_in_range, in_range};

/// Settings of [`HttpEndpoints`](super::HttpEndpoints). The [module](super) has the table of fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpEndpointConfig {
    /// Which HTTP is spoken at `http` and `https` endpoints.
    pub protocol: HttpProtocol,
    /// What every request says in `Host` or `:authority`, whatever the caller wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The longest that name look-up, socket, TLS and HTTP handshake may take together, 1 ms to 60 s.
    ///
    /// The default is short on purpose. Inside a data centre all of that takes milliseconds, and a
    /// lost first packet is sent again only after one second (RFC 6298): by then another endpoint
    /// has answered, since nothing was sent to this one.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub connect_timeout: Duration,
    /// How long a connection that is not used is kept, 1 s to 1 h; it is closed at most half as long
    /// again afterwards.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub idle_timeout: Duration,
    /// How many unused HTTP/1 connections are kept per endpoint, 0 to 65536.
    #[cfg_attr(feature = "schema", schemars(range(max = 65_536)))]
    pub max_idle: usize,
    /// Settings of HTTP/2 connections.
    pub http2: Http2Config,
    /// Settings of TLS connections.
    pub tls: TlsConfig,
}

/// Which HTTP is spoken at an endpoint. gRPC is always HTTP/2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum HttpProtocol {
    /// `http`: HTTP/1.1. `https`: HTTP/2 where the peer agrees to it (ALPN), else HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1 everywhere.
    Http1,
    /// HTTP/2 everywhere; in the clear with prior knowledge.
    Http2,
}

/// Settings of HTTP/2 connections. The [module](super) has the table of fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Http2Config {
    /// How many connections an endpoint may have, 1 to 1024. One more is opened only when the peer
    /// allows no further stream on those that there are.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1024)))]
    pub max_connections: usize,
    /// How often a PING asks whether the peer is still there, 100 ms to 1 h; off when absent.
    ///
    /// Off by default: a gRPC server closes the connection of a client that pings more often than it
    /// permits (every five minutes unless it is configured otherwise, gRFC A8).
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<tower_mesh_layers::schema::Duration>")
    )]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub keep_alive_interval: Option<Duration>,
    /// How long the answer to a PING may take before the connection counts as dead, 10 ms to 1 h.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub keep_alive_timeout: Duration,
    /// Whether PINGs are sent while there is no open stream.
    pub keep_alive_while_idle: bool,
    /// Whether the flow-control windows follow the measured bandwidth-delay product.
    pub adaptive_window: bool,
}

/// Settings of TLS connections. The [module](super) has the table of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates that the peer's must come from; the operating system's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Pem>,
    /// Our own certificate chain, for peers that ask who we are; together with `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Pem>,
    /// The private key of `certificate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Pem>,
    /// The name that is asked for (SNI) and that the peer's certificate must have; the endpoint's
    /// host when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// A PEM document: the text itself, or the path of a file that has it.
///
/// In a configuration file it is one string: text that contains `-----BEGIN` is the document,
/// anything else is a path. A file is read once, when the endpoints are configured.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Pem {
    /// The document.
    Text(String),
    /// Where the document is.
    File(PathBuf),
}

// ===== impl HttpEndpointConfig =====

impl HttpEndpointConfig {
    /// Checks every field against its range.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for the first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        if let Some(authority) = &self.authority
            && (authority.parse::<http::uri::Authority>().is_err() || authority.contains('@'))
        {
            return Err(ConfigError::new(
                "authority",
                authority,
                "`host` or `host:port`",
            ));
        }
        duration_in_range("connectTimeout", self.connect_timeout, ms(1)..=s(60))?;
        duration_in_range("idleTimeout", self.idle_timeout, s(1)..=s(3600))?;
        in_range("maxIdle", self.max_idle, 0..=65_536)?;
        self.http2.validate().map_err(|error| error.at("http2"))
    }
}

impl Default for HttpEndpointConfig {
    fn default() -> Self {
        Self {
            protocol: HttpProtocol::Auto,
            authority: None,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(90),
            max_idle: 256,
            http2: Http2Config::default(),
            tls: TlsConfig::default(),
        }
    }
}

// ===== impl Http2Config =====

impl Http2Config {
    fn validate(&self) -> Result<(), ConfigError> {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        in_range("maxConnections", self.max_connections, 1..=1024)?;
        if let Some(interval) = self.keep_alive_interval {
            duration_in_range("keepAliveInterval", interval, ms(100)..=s(3600))?;
        }
        duration_in_range(
            "keepAliveTimeout",
            self.keep_alive_timeout,
            ms(10)..=s(3600),
        )?;
        Ok(())
    }
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            max_connections: 4,
            keep_alive_interval: None,
            keep_alive_timeout: Duration::from_secs(20),
            keep_alive_while_idle: false,
            adaptive_window: false,
        }
    }
}

// ===== impl Pem =====

impl Pem {
    /// Reads the document; `path` names the field in the error.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>, ConfigError> {
        match self {
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::File(file) => std::fs::read(file).map_err(|error| {
                ConfigError::new(
                    path,
                    file.display(),
                    format!("a readable PEM file ({error})"),
                )
            }),
        }
    }
}

impl From<String> for Pem {
    fn from(text: String) -> Self {
        if text.contains("-----BEGIN") {
            Self::Text(text)
        } else {
            Self::File(text.into())
        }
    }
}

impl From<&str> for Pem {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Pem> for String {
    fn from(pem: Pem) -> Self {
        match pem {
            Pem::Text(text) => text,
            Pem::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Pem {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pem".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A PEM document: the text itself, or the path of a file that has it.",
            "type": "string",
            "minLength": 1,
            "examples": ["/etc/tls/ca.pem"],
        })
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // It may be a private key.
            Self::Text(_) => f.write_str("Pem(..)"),
            Self::File(path) => write!(f, "Pem({})", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_read_back() {
        let config = HttpEndpointConfig::default();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert!(
            text.contains(r#""connectTimeout":"1s","idleTimeout":"1m30s""#),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<HttpEndpointConfig>(&text).unwrap(),
            config
        );
        assert_eq!(
            serde_json::from_str::<HttpEndpointConfig>("{}").unwrap(),
            config
        );
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_path() {
        for (text, path) in [
            (r#"{"connectTimeout":"0"}"#, "connectTimeout"),
            (r#"{"idleTimeout":"10ms"}"#, "idleTimeout"),
            (r#"{"maxIdle":100000}"#, "maxIdle"),
            (r#"{"authority":"a b"}"#, "authority"),
            (r#"{"http2":{"maxConnections":0}}"#, "http2.maxConnections"),
            (
                r#"{"http2":{"keepAliveInterval":"1ms"}}"#,
                "http2.keepAliveInterval",
            ),
        ] {
            let config: HttpEndpointConfig = serde_json::from_str(text).unwrap();
            assert_eq!(config.validate().unwrap_err().path(), path, "{text}");
        }
        assert!(serde_json::from_str::<HttpEndpointConfig>(r#"{"idle":1}"#).is_err());
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let pem = Pem::from("-----BEGIN PRIVATE KEY-----\nsecret");
        assert!(!format!("{pem:?}").contains("secret"));
        assert_eq!(Pem::from("/etc/ca.pem"), Pem::File("/etc/ca.pem".into()));
    }
}
