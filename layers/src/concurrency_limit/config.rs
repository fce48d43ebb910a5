//! Options of the concurrency limit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::vocab::{
    config::{ConfigError, duration, duration_in_range, in_range},
    key::Key,
};

/// Options of the concurrency limit; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConcurrencyLimitConfig {
    /// How many calls may be in flight at once: 1 to 1,000,000. With a `key`, of each.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub limit: u32,
    /// How many calls may wait for that: 0 to 1,000,000. With a `key`, of each. Default 0: a call that
    /// finds no room is refused at once.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1_000_000)))]
    #[serde(default)]
    pub queue: u32,
    /// How long a call may wait: 1 ms to 1 h. Default 1 s. Never past the deadline of the call.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration", default = "default_queue_timeout")]
    pub queue_timeout: Duration,
    /// How long a call may wait once the queue has not been empty for as long as `queueTimeout`: 1 ms
    /// to `queueTimeout`. Default: no shorter than before.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(
        with = "duration::option",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub target_delay: Option<Duration>,
    /// When refused callers are told to come back: up to 1 h. Default 1 s; `0` tells them nothing.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration", default = "default_retry_after")]
    pub retry_after: Duration,
    /// One limit for each of these. Default: one for all calls.
    #[serde(default = "Key::global")]
    pub key: Key,
    /// The most limits there can be; further keys share one. 1 to 10,000,000. Default: 100,000 for
    /// keys that callers make, 1,000 for others.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10_000_000)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_keys: Option<usize>,
    /// The label `policy` of the metrics. Default `default`.
    #[serde(default = "default_name")]
    pub name: String,
}

fn default_queue_timeout() -> Duration {
    Duration::from_secs(1)
}

fn default_retry_after() -> Duration {
    Duration::from_secs(1)
}

fn default_name() -> String {
    "default".to_owned()
}

// ===== impl ConcurrencyLimitConfig =====

impl ConcurrencyLimitConfig {
    /// This limit, and the defaults for all else.
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            queue: 0,
            queue_timeout: default_queue_timeout(),
            target_delay: None,
            retry_after: default_retry_after(),
            key: Key::global(),
            max_keys: None,
            name: default_name(),
        }
    }

    pub(super) fn most_keys(&self) -> usize {
        self.max_keys.unwrap_or_else(|| self.key.default_cap())
    }

    /// Whether limits under both are kept by the same keys, so that a call in flight under the one is in
    /// flight under the other.
    pub(super) fn shares_gates_with(&self, other: &Self) -> bool {
        self.key == other.key && self.most_keys() == other.most_keys()
    }

    /// How long a call may wait in a queue that has not been empty for `busy`.
    ///
    /// CoDel for requests, as Facebook has it (Ben Maurer, [Fail at Scale], ACM Queue 13(8), 2015): a
    /// queue that empties now and then takes up bursts and may be long; one that does not is a standing
    /// queue, which only makes every call late.
    ///
    /// [Fail at Scale]: https://queue.acm.org/detail.cfm?id=2839461
    pub(super) fn patience(&self, busy: Duration) -> Duration {
        match self.target_delay {
            Some(target) if busy >= self.queue_timeout => target,
            _ => self.queue_timeout,
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const MS: Duration = Duration::from_millis(1);
        const HOUR: Duration = Duration::from_secs(3600);
        in_range("limit", self.limit, 1..=1_000_000)?;
        in_range("queue", self.queue, 0..=1_000_000)?;
        duration_in_range("queueTimeout", self.queue_timeout, MS..=HOUR)?;
        if let Some(target) = self.target_delay {
            if self.queue == 0 {
                let expected = "nothing where `queue` is 0: no call waits";
                return Err(ConfigError::new(
                    "targetDelay",
                    duration::display(target),
                    expected,
                ));
            }
            duration_in_range("targetDelay", target, MS..=self.queue_timeout)?;
        }
        duration_in_range("retryAfter", self.retry_after, Duration::ZERO..=HOUR)?;
        if let Some(keys) = self.max_keys {
            in_range("maxKeys", keys, 1..=10_000_000)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_its_default() {
        let config: ConcurrencyLimitConfig = serde_json::from_str(r#"{"limit":100}"#).unwrap();
        assert_eq!(config, ConcurrencyLimitConfig::new(100));
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<ConcurrencyLimitConfig>(&text).unwrap(),
            config
        );
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        let refused = |text: &str| {
            let config: ConcurrencyLimitConfig = serde_json::from_str(text).unwrap();
            config.validate().unwrap_err().to_string()
        };
        for (text, message) in [
            (r#"{"limit":0}"#, "limit: got `0`, expected 1 to 1000000"),
            (
                r#"{"limit":1,"queue":1000001}"#,
                "queue: got `1000001`, expected 0 to 1000000",
            ),
            (
                r#"{"limit":1,"queueTimeout":"0s"}"#,
                "queueTimeout: got `0s`, expected 1ms to 1h",
            ),
            (
                r#"{"limit":1,"targetDelay":"5ms"}"#,
                "targetDelay: got `5ms`, expected nothing where `queue` is 0: no call waits",
            ),
            (
                r#"{"limit":1,"queue":1,"targetDelay":"2s"}"#,
                "targetDelay: got `2s`, expected 1ms to 1s",
            ),
            (
                r#"{"limit":1,"retryAfter":"2h"}"#,
                "retryAfter: got `2h`, expected 0s to 1h",
            ),
            (
                r#"{"limit":1,"maxKeys":0}"#,
                "maxKeys: got `0`, expected 1 to 10000000",
            ),
        ] {
            assert_eq!(refused(text), message);
        }
        for text in ["{}", r#"{"limit":"5"}"#, r#"{"limit":1,"queued":2}"#] {
            assert!(
                serde_json::from_str::<ConcurrencyLimitConfig>(text).is_err(),
                "{text}"
            );
        }
    }
}
