//! Options of the retry layer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::condition::Condition;
use crate::vocab::{
    config::{ConfigError, Ratio, duration, duration_in_range, in_range},
    request_match::MatchConfig,
};

/// Options of the retry layer; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetryConfig {
    /// How often a call is tried, the first attempt included: 1 to 10, default 3. 1 turns retries off.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10)))]
    pub max_attempts: u32,
    /// How long an attempt may take to its response head: 1 ms to 1 h, default unlimited. The
    /// deadline of the call counts as well.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(with = "duration::option", skip_serializing_if = "Option::is_none")]
    pub attempt_timeout: Option<Duration>,
    /// What is retried. Default [`Condition::DEFAULT`].
    pub retry_on: Vec<Condition>,
    /// Requests that are safe to repeat although their method does not say so. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub idempotent: Vec<MatchConfig>,
    /// Repeats every request, whatever its method. Default `false`.
    pub non_idempotent: bool,
    /// The pauses between attempts.
    pub backoff: BackoffConfig,
    /// The longest pause that a peer may ask for: 0 to 1 h, default 30 s. A call whose peer asks for
    /// more is not retried.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub max_pushback: Duration,
    /// How many retries there may be.
    pub budget: BudgetConfig,
    /// How much of request bodies is kept to send them again.
    pub replay: ReplayConfig,
    /// The label `policy` of its metrics. Default `default`.
    pub name: String,
}

/// The pauses between attempts: at random between nothing and an upper bound, which doubles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BackoffConfig {
    /// The upper bound of the first pause: 1 ms to 1 min, default 25 ms.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub base: Duration,
    /// The upper bound of all pauses: `base` to 10 min, default 250 ms.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub max: Duration,
}

/// How many retries there may be, for all calls through the layer together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BudgetConfig {
    /// Retries for each call of the last 10 s. Default 20%.
    pub ratio: Ratio,
    /// Retries per second that are there without any calls, up to ten seconds' worth at once:
    /// 0 to 1,000,000, default 10.
    #[cfg_attr(feature = "schema", schemars(range(max = 1_000_000)))]
    pub reserve: u32,
}

/// How much of request bodies is kept to send them again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Bytes of one body: 0 to 1 GiB, default 65,536. A longer body streams on and is not retried.
    #[cfg_attr(feature = "schema", schemars(range(max = 1_u64 << 30)))]
    pub per_call: usize,
    /// Bytes of all bodies together: `perCall` to 64 GiB, default 67,108,864.
    #[cfg_attr(feature = "schema", schemars(range(max = 64_u64 << 30)))]
    pub total: usize,
}

// ===== impl RetryConfig =====

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            attempt_timeout: None,
            retry_on: Condition::DEFAULT.to_vec(),
            idempotent: Vec::new(),
            non_idempotent: false,
            backoff: BackoffConfig::default(),
            max_pushback: Duration::from_secs(30),
            budget: BudgetConfig::default(),
            replay: ReplayConfig::default(),
            name: "default".to_owned(),
        }
    }
}

impl Default for BackoffConfig {
    fn default() -> Self {
        // Envoy's: about the tail of a call within a data centre, so that the first pause outlasts a
        // hiccup; ten times that where it does not.
        Self {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
        }
    }
}

impl Default for BudgetConfig {
    fn default() -> Self {
        // Those of Finagle and Linkerd.
        Self {
            ratio: Ratio::percent(20),
            reserve: 10,
        }
    }
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self {
            // Linkerd's: most calls to services fit, and 1,000 of them at once are the total.
            per_call: 64 << 10,
            total: 64 << 20,
        }
    }
}

impl RetryConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const MS: Duration = Duration::from_millis(1);
        const MINUTE: Duration = Duration::from_secs(60);
        const GIB: usize = 1 << 30;
        in_range("maxAttempts", self.max_attempts, 1..=10)?;
        if let Some(timeout) = self.attempt_timeout {
            duration_in_range("attemptTimeout", timeout, MS..=60 * MINUTE)?;
        }
        duration_in_range(
            "maxPushback",
            self.max_pushback,
            Duration::ZERO..=60 * MINUTE,
        )?;
        let BackoffConfig { base, max } = self.backoff;
        duration_in_range("backoff.base", base, MS..=MINUTE)?;
        duration_in_range("backoff.max", max, base..=10 * MINUTE)?;
        in_range("budget.reserve", self.budget.reserve, 0..=1_000_000)?;
        let ReplayConfig { per_call, total } = self.replay;
        in_range("replay.perCall", per_call, 0..=GIB)?;
        in_range("replay.total", total, per_call..=64 * GIB)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_reads_back() {
        let config = RetryConfig::default();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RetryConfig>(&text).unwrap(), config);
        assert_eq!(serde_json::from_str::<RetryConfig>("{}").unwrap(), config);
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        for (text, message) in [
            (
                r#"{"maxAttempts":0}"#,
                "maxAttempts: got `0`, expected 1 to 10",
            ),
            (
                r#"{"attemptTimeout":"0s"}"#,
                "attemptTimeout: got `0s`, expected 1ms to 1h",
            ),
            (
                r#"{"backoff":{"base":"1s"}}"#,
                "backoff.max: got `250ms`, expected 1s to 10m",
            ),
            (
                r#"{"budget":{"reserve":1000001}}"#,
                "budget.reserve: got `1000001`, expected 0 to 1000000",
            ),
            (
                r#"{"replay":{"total":5}}"#,
                "replay.total: got `5`, expected 65536 to 68719476736",
            ),
        ] {
            let config: RetryConfig = serde_json::from_str(text).unwrap();
            assert_eq!(config.validate().unwrap_err().to_string(), message);
        }
        for text in [
            r#"{"maxattempts":3}"#,
            r#"{"retryOn":["5xx"]}"#,
            r#"{"budget":{"ratio":0.2}}"#,
            r#"{"backoff":{"base":25}}"#,
        ] {
            assert!(serde_json::from_str::<RetryConfig>(text).is_err(), "{text}");
        }
    }
}
