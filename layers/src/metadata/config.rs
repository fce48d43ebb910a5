//! Options of the metadata layer.

use std::collections::BTreeMap;

use http::HeaderName;
use serde::{Deserialize, Serialize};

use super::{dialect::Dialect, room::Room};
use crate::vocab::{
    client_addr::ClientIp,
    config::{ConfigError, in_range},
    context::{Entry, MetadataError, Scope, is_never_propagated},
    pattern::Pattern,
    trust::Trust,
};

/// Options of the metadata layer; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MetadataConfig {
    /// Whose headers are believed. Default nobody's.
    pub trust: Trust,
    /// How `trust` tells the address of a caller: behind so many trusted proxies. Default none.
    pub client: ClientIp,
    /// How callers may spell metadata; where two of them have a key, the first one counts. Default
    /// `[kratos]`.
    pub accept: Vec<Dialect>,
    /// How metadata is spelt for those that are called. Default `[kratos]`.
    pub send: Vec<Dialect>,
    /// Other headers to pass on from the calls that are handled to those that are made: names, each
    /// with a `*` at one end or none, at most 32. Default none.
    #[cfg_attr(feature = "schema", schemars(length(max = 32)))]
    pub propagate: Vec<String>,
    /// Whether `traceparent`, `tracestate` and `baggage` are passed on. Default true.
    pub trace_context: bool,
    /// Entries that each call gets which has none of that key: for the whole chain.
    pub global: BTreeMap<String, String>,
    /// Entries that each call gets which has none of that key: for the next hop.
    pub local: BTreeMap<String, String>,
    /// The most entries of a call: 1 to 256. Default 64.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 256)))]
    pub max_entries: usize,
    /// The most bytes of all keys and values of a call: 64 to 65,536. Default 8,192.
    #[cfg_attr(feature = "schema", schemars(range(min = 64, max = 65_536)))]
    pub max_bytes: usize,
    /// The longest key in bytes: 1 to 256. Default 128.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 256)))]
    pub max_key_length: usize,
    /// The label `policy` of its metrics. Default `default`.
    pub name: String,
}

/// What runs of a [`MetadataConfig`].
pub(super) struct Compiled {
    pub(super) on: bool,
    pub(super) trust: Trust,
    pub(super) client: ClientIp,
    pub(super) accept: Box<[Dialect]>,
    pub(super) send: Box<[Dialect]>,
    pub(super) propagate: Box<[Pattern]>,
    pub(super) trace_context: bool,
    pub(super) constants: Box<[Entry]>,
    pub(super) room: Room,
    pub(super) name: String,
}

/// What is about the one message that it stands in. On another message it would be wrong.
const OF_ONE_MESSAGE: &[&str] = &[
    "host",
    "expect",
    "range",
    "date",
    "via",
    "max-forwards",
    "timeout",
    "accept-encoding",
    "user-agent",
];

const OF_ONE_MESSAGE_PREFIXES: &[&str] = &["content-", "if-", "grpc-", "x-mesh-", "sec-"];

/// What a dialect reads goes by that, with its scopes and limits.
const OF_A_DIALECT: &[&str] = &["x-md-", "micro-", "x-cse-"];

// ===== impl MetadataConfig =====

impl Default for MetadataConfig {
    fn default() -> Self {
        Self {
            trust: Trust::None,
            client: ClientIp::default(),
            accept: vec![Dialect::Kratos],
            send: vec![Dialect::Kratos],
            propagate: Vec::new(),
            trace_context: true,
            global: BTreeMap::new(),
            local: BTreeMap::new(),
            max_entries: 64,
            max_bytes: 8_192,
            max_key_length: 128,
            name: "default".to_owned(),
        }
    }
}

impl MetadataConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
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
        let room = Room {
            entries: in_range("maxEntries", self.max_entries, 1..=256)?,
            bytes: in_range("maxBytes", self.max_bytes, 64..=65_536)?,
            key_length: in_range("maxKeyLength", self.max_key_length, 1..=256)?,
        };
        Ok(Compiled {
            on: true,
            trust: self.trust.clone(),
            client: self.client,
            accept: distinct("accept", &self.accept)?,
            send: distinct("send", &self.send)?,
            propagate: self.compile_propagate()?,
            trace_context: self.trace_context,
            constants: self.compile_constants(room)?,
            room,
            name: self.name.clone(),
        })
    }

    fn compile_propagate(&self) -> Result<Box<[Pattern]>, ConfigError> {
        // Each is compared with every header of every request.
        const MOST: usize = 32;
        if self.propagate.len() > MOST {
            let given = format!("{} headers", self.propagate.len());
            let expected = format!("at most {MOST}");
            return Err(ConfigError::new("propagate", given, expected));
        }
        let headers = self.propagate.iter().enumerate();
        let compiled = headers.map(|(at, header)| {
            header_pattern(header).map_err(|error| error.at(format_args!("propagate[{at}]")))
        });
        compiled.collect()
    }

    fn compile_constants(&self, room: Room) -> Result<Box<[Entry]>, ConfigError> {
        let mut left = room;
        let mut compiled = Vec::new();
        let sections = [
            ("global", Scope::Global, &self.global),
            ("local", Scope::Local, &self.local),
        ];
        for (field, scope, entries) in sections {
            for (key, value) in entries {
                let path = format!("{field}.{key}");
                let entry = Entry::new(scope, key, value.as_bytes())
                    .map_err(|error| refused_entry(&path, key, value, error))?;
                left.take(entry.key(), &entry.value).map_err(|_| {
                    let expected = "an entry that fits into maxEntries, maxBytes and maxKeyLength";
                    ConfigError::new(&path, value, expected)
                })?;
                compiled.push(entry);
            }
        }
        Ok(compiled.into())
    }
}

fn refused_entry(path: &str, key: &str, value: &str, error: MetadataError) -> ConfigError {
    match error {
        MetadataError::NeverPropagated => {
            ConfigError::new(path, key, "a key that may be propagated")
        }
        MetadataError::InvalidValue => {
            ConfigError::new(path, value, "a value without control characters")
        }
        _ => {
            let expected = "a key of letters, digits and `-`, `_`, `.`";
            ConfigError::new(path, key, expected)
        }
    }
}

fn distinct(field: &str, dialects: &[Dialect]) -> Result<Box<[Dialect]>, ConfigError> {
    for (at, dialect) in dialects.iter().enumerate() {
        if dialects[..at].contains(dialect) {
            let path = format!("{field}[{at}]");
            return Err(ConfigError::new(path, dialect, "each dialect once"));
        }
    }
    Ok(dialects.into())
}

fn header_pattern(text: &str) -> Result<Pattern, ConfigError> {
    let text = text.to_ascii_lowercase();
    let pattern = Pattern::parse(&text)?;
    let fixed = text.trim_matches('*');
    if !fixed.is_empty() && HeaderName::try_from(fixed).is_err() {
        let expected = "the name of a header, with a `*` at one end or none";
        return Err(ConfigError::new("", text, expected));
    }
    if !text.contains('*') && !may_be_passed_on(&text) {
        let expected =
            "a header that is not of a dialect, of one message or connection, or about credentials";
        return Err(ConfigError::new("", text, expected));
    }
    Ok(pattern)
}

/// Whether a header that a pattern names makes sense on another message.
pub(super) fn may_be_passed_on(name: &str) -> bool {
    !is_never_propagated(name)
        && !OF_ONE_MESSAGE.contains(&name)
        && !OF_ONE_MESSAGE_PREFIXES
            .iter()
            .chain(OF_A_DIALECT)
            .any(|prefix| name.starts_with(prefix))
}

// ===== impl Compiled =====

impl Compiled {
    /// Whether a header is one of those that the configuration adds.
    pub(super) fn propagates(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        self.propagate
            .iter()
            .any(|pattern| pattern.matches(name.as_bytes()))
            && may_be_passed_on(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_reads_back_as_it_was_written() {
        let text = r#"{
            "trust": {"cidrs": ["10.0.0.0/8"]}, "client": {"trustedHops": 1},
            "accept": ["kratos", "go-micro", "go-chassis"], "send": ["go-chassis"],
            "propagate": ["X-Tenant", "x-app-*"], "traceContext": false,
            "global": {"region": "eu"}, "local": {"caller": "checkout"},
            "maxEntries": 8, "maxBytes": 1024, "maxKeyLength": 32, "name": "edge"
        }"#;
        let config: MetadataConfig = serde_json::from_str(text).unwrap();
        config.validate().unwrap();
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<MetadataConfig>(&written).unwrap(),
            config
        );
        let empty: MetadataConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, MetadataConfig::default());
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        for (text, message) in [
            (
                r#"{"maxEntries":0}"#,
                "maxEntries: got `0`, expected 1 to 256",
            ),
            (
                r#"{"maxBytes":1}"#,
                "maxBytes: got `1`, expected 64 to 65536",
            ),
            (
                r#"{"maxKeyLength":257}"#,
                "maxKeyLength: got `257`, expected 1 to 256",
            ),
            (
                r#"{"accept":["kratos","kratos"]}"#,
                "accept[1]: got `kratos`, expected each dialect once",
            ),
            (
                r#"{"propagate":["x-a","Authorization"]}"#,
                "propagate[1]: got `authorization`, expected a header that is not of a dialect, of one message or connection, or about credentials",
            ),
            (
                r#"{"propagate":["a b"]}"#,
                "propagate[0]: got `a b`, expected the name of a header, with a `*` at one end or none",
            ),
            (
                r#"{"propagate":["a*b"]}"#,
                "propagate[0]: got `a*b`, expected a name, `prefix*`, `*suffix` or `*`",
            ),
            (
                r#"{"local":{"cookie":"a=b"}}"#,
                "local.cookie: got `cookie`, expected a key that may be propagated",
            ),
            (
                r#"{"global":{"a b":"1"}}"#,
                "global.a b: got `a b`, expected a key of letters, digits and `-`, `_`, `.`",
            ),
            (
                r#"{"maxKeyLength":2,"global":{"abc":"1"}}"#,
                "global.abc: got `1`, expected an entry that fits into maxEntries, maxBytes and maxKeyLength",
            ),
        ] {
            let config: MetadataConfig = serde_json::from_str(text).unwrap();
            assert_eq!(config.validate().unwrap_err().to_string(), message);
        }
        for text in [r#"{"accept":["dubbo"]}"#, r#"{"maxentries":5}"#] {
            assert!(
                serde_json::from_str::<MetadataConfig>(text).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn no_pattern_names_what_must_not_be_passed_on() {
        let config = MetadataConfig {
            propagate: vec!["*".to_owned()],
            ..MetadataConfig::default()
        };
        let compiled = config.compile().unwrap();
        for (name, expected) in [
            ("x-tenant", true),
            ("x-request-id", true),
            ("x-b3-traceid", true),
            ("authorization", false),
            ("proxy-authorization", false),
            ("cookie", false),
            ("set-cookie", false),
            ("connection", false),
            ("te", false),
            ("transfer-encoding", false),
            ("host", false),
            ("content-length", false),
            ("grpc-timeout", false),
            ("x-mesh-identity", false),
            ("x-md-global-a", false),
            ("x-cse-context", false),
        ] {
            assert_eq!(
                compiled.propagates(&HeaderName::from_static(name)),
                expected,
                "{name}"
            );
        }
    }
}
