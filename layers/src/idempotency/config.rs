//! Options of the idempotency layer.

use std::time::Duration;

use http::Request;
use serde::{Deserialize, Serialize};

use super::{claims::SHARDS, store::Bounds};
use crate::vocab::{
    body::ReplayLimits,
    classify::CallKind,
    config::{ByteSize, ConfigError, duration, duration_in_range, in_range},
    key::Key,
    request_match::{MatchConfig, RequestMatch},
};

/// Options of the idempotency layer; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IdempotencyConfig {
    /// Which calls may have a key: those that one of these matches. Default: POST and PATCH.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<MatchConfig>,
    /// Whether they must have one. Default false.
    pub required: bool,
    /// Whether gRPC calls are meant as well: then those that match must be unary. Default false.
    pub grpc: bool,
    /// Whose keys are kept apart. Default: each operation's, and in it each caller's: its identity and its
    /// `authorization`.
    pub key: Key,
    /// How long a call waits for the first one with its key: 1 ms to 5 min. Default: not at all.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub wait: Option<Duration>,
    /// How long after its answer a key is known: 1 s to 30 days (`720h`). Default 24 h.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub ttl: Duration,
    /// The most bytes of a request that has a key: 1 B to 64 MiB. Default 64 KiB. It is read whole.
    pub max_request: ByteSize,
    /// The most bytes of an answer that is kept, headers and body: 256 B to 64 MiB. Default 64 KiB.
    pub max_answer: ByteSize,
    /// The most keys that are known at a time: 1,000 to 10,000,000. Default 10,000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1_000, max = 10_000_000)))]
    pub max_entries: usize,
    /// The most bytes of all answers together: 16 times `maxAnswer` to 64 GiB. Default 64 MiB.
    pub max_bytes: ByteSize,
    /// The label `policy` of the metrics. Default `default`.
    pub name: String,
}

/// What runs.
pub(super) struct Policy {
    pub(super) config: IdempotencyConfig,
    matches: RequestMatch,
    /// Of request bodies, which are kept until they are whole.
    pub(super) replay: ReplayLimits,
}

// ===== impl IdempotencyConfig =====

impl Default for IdempotencyConfig {
    fn default() -> Self {
        let authorization = Key::header("authorization").expect("the name of a header");
        Self {
            matches: Vec::new(),
            required: false,
            grpc: false,
            key: Key::operation().and(Key::identity()).and(authorization),
            wait: None,
            // Stripe's.
            ttl: Duration::from_secs(24 * 3600),
            // As much as retries keep of a request: 1,000 such answers are the total.
            max_request: ByteSize::kib(64),
            max_answer: ByteSize::kib(64),
            max_entries: 10_000,
            max_bytes: ByteSize::mib(64),
            name: "default".to_owned(),
        }
    }
}

impl IdempotencyConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        RequestMatch::any_of(&self.matches).map_err(|error| error.at("matches"))?;
        if let Some(wait) = self.wait {
            let longest = Duration::from_secs(300);
            duration_in_range("wait", wait, Duration::from_millis(1)..=longest)?;
        }
        duration_in_range("ttl", self.ttl, Duration::from_secs(1)..=30 * DAY)?;
        let most = ByteSize::mib(64);
        in_range("maxRequest", self.max_request, ByteSize::new(1)..=most)?;
        in_range("maxAnswer", self.max_answer, ByteSize::new(256)..=most)?;
        in_range("maxEntries", self.max_entries, 1_000..=10_000_000)?;
        // Each shard has room for one answer at least.
        let least = ByteSize::new(self.max_answer.bytes() * SHARDS as u64);
        in_range("maxBytes", self.max_bytes, least..=ByteSize::mib(64 << 10))?;
        Ok(())
    }
}

// ===== impl Policy =====

impl Policy {
    pub(super) fn new(config: &IdempotencyConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let post_and_patch = [MatchConfig::default().method("POST").method("PATCH")];
        let matches = match config.matches.as_slice() {
            [] => post_and_patch.as_slice(),
            matches => matches,
        };
        Ok(Self {
            matches: RequestMatch::any_of(matches).map_err(|error| error.at("matches"))?,
            replay: ReplayLimits::new(to_usize(config.max_request), usize::MAX),
            config: config.clone(),
        })
    }

    /// Whether a key of this call means anything.
    pub(super) fn covers<B>(&self, call: CallKind, request: &Request<B>) -> bool {
        // Their answers end at the head, whatever it says.
        let has_body = !(call.head || call.connect);
        has_body && (self.config.grpc || !call.is_grpc()) && self.matches.matches(request)
    }

    /// Those of one shard.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            entries: self.config.max_entries / SHARDS,
            bytes: to_usize(self.config.max_bytes) / SHARDS,
            ttl: self.config.ttl,
        }
    }

    pub(super) fn max_answer(&self) -> usize {
        to_usize(self.config.max_answer)
    }
}

fn to_usize(size: ByteSize) -> usize {
    usize::try_from(size.bytes()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_field_value_and_range() {
        let refused = |text: &str| {
            let config: IdempotencyConfig = serde_json::from_str(text).unwrap();
            config.validate().unwrap_err().to_string()
        };
        for (text, message) in [
            (r#"{"wait":"10m"}"#, "wait: got `10m`, expected 1ms to 5m"),
            (r#"{"ttl":"721h"}"#, "ttl: got `721h`, expected 1s to 720h"),
            (
                r#"{"maxRequest":0}"#,
                "maxRequest: got `0B`, expected 1B to 64MiB",
            ),
            (
                r#"{"maxAnswer":1}"#,
                "maxAnswer: got `1B`, expected 256B to 64MiB",
            ),
            (
                r#"{"maxEntries":1}"#,
                "maxEntries: got `1`, expected 1000 to 10000000",
            ),
            (
                r#"{"maxAnswer":"8MiB"}"#,
                "maxBytes: got `64MiB`, expected 128MiB to 64GiB",
            ),
            (
                r#"{"matches":[{"path":{"regex":"("}}]}"#,
                "matches[0].path.regex",
            ),
        ] {
            assert!(refused(text).starts_with(message), "{}", refused(text));
        }
        for text in [
            r#"{"methods":["POST"]}"#,
            r#"{"wait":5}"#,
            r#"{"key":"caller"}"#,
        ] {
            assert!(
                serde_json::from_str::<IdempotencyConfig>(text).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn the_defaults_read_back_as_written() {
        let config = IdempotencyConfig::default();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<IdempotencyConfig>(&text).unwrap(),
            config
        );
        assert_eq!(
            serde_json::from_str::<IdempotencyConfig>("{}").unwrap(),
            config
        );
        assert!(config.validate().is_ok());
    }
}
