//! Options of the rate limit.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use super::rate::Rate;
use crate::vocab::{
    config::{ConfigError, duration, duration_in_range, in_range},
    key::Key,
    request_match::MatchConfig,
};

/// Options of the rate limit; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitConfig {
    /// How many calls pass in the long run: `100/s`, `5/m`, `1/10s`. At most 1,000,000 a second.
    pub rate: Rate,
    /// How calls are counted. Default GCRA.
    #[serde(default)]
    pub algorithm: RateAlgorithm,
    /// How many calls may come at once after a pause: 1 to 1,000,000. Default: as many as `rate`
    /// names. A sliding window has none.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// How many calls may wait for their turn instead of being refused: 0 to 1,000,000; with a `key`, of
    /// each. Default 0. With GCRA only.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1_000_000)))]
    #[serde(default)]
    pub queue: u32,
    /// How long a call may wait: 1 ms to 1 h. Default 1 s. Never past the deadline of the call.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration", default = "default_queue_timeout")]
    pub queue_timeout: Duration,
    /// Which calls the limit is for: those that one of these matches. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<MatchConfig>,
    /// What calls cost: the first that matches decides. Default: 1 each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<CostRule>,
    /// One limit for each of these. Default: one for all calls.
    #[serde(default = "Key::global")]
    pub key: Key,
    /// The most limits there can be; further keys share one. 1 to 10,000,000. Default: 100,000 for
    /// keys that callers make, 1,000 for others.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10_000_000)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_keys: Option<usize>,
    /// Which responses carry `RateLimit` headers. Default: refusals.
    #[serde(default)]
    pub headers: RateLimitHeaders,
    /// The name of the policy in headers and metrics: letters, digits, `-`, `_` and `.`. Default
    /// `default`.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9_.-]+$")))]
    #[serde(default = "default_name")]
    pub name: String,
    /// Further limits, each with a `name` of its own: a call has to be within all of them, or is charged
    /// to none. They have neither `headers` nor further limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<RateLimitConfig>,
}

/// How calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum RateAlgorithm {
    /// A bucket of `burst` tokens that fills up at the rate. Exact.
    #[default]
    Gcra,
    /// No more calls in any period than `rate` names, and no burst beside them. A call counts for between
    /// one period and 1.1 periods.
    SlidingWindow,
    /// GCRA of which each thread takes tokens by the batch, so that cores do not wait for each other: in any
    /// time span, at most half a burst more calls pass. Without a `key` only.
    Leased,
}

/// What some calls cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CostRule {
    /// Which calls: those that one of these matches. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<MatchConfig>,
    /// As how many calls each of them counts: 0, for calls that are free, to the burst.
    pub cost: u32,
}

/// Which responses carry the `RateLimit` and `RateLimit-Policy` headers of
/// [draft-ietf-httpapi-ratelimit-headers-10](https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/10/).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum RateLimitHeaders {
    /// None.
    Off,
    /// Refusals.
    #[default]
    Refused,
    /// All: that costs every call two header values.
    Always,
}

fn default_name() -> String {
    "default".to_owned()
}

fn default_queue_timeout() -> Duration {
    Duration::from_secs(1)
}

// ===== impl RateLimitConfig =====

impl RateLimitConfig {
    /// This rate, and the defaults for all else.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            algorithm: RateAlgorithm::default(),
            burst: None,
            queue: 0,
            queue_timeout: default_queue_timeout(),
            matches: Vec::new(),
            costs: Vec::new(),
            key: Key::global(),
            max_keys: None,
            headers: RateLimitHeaders::default(),
            name: default_name(),
            also: Vec::new(),
        }
    }

    /// The burst, set or by default.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.rate.calls().min(1_000_000))
    }

    /// How many tokens may be taken before they are there: no more than come within the timeout.
    pub(super) fn queued_tokens(&self) -> u32 {
        let within_timeout = self.rate.as_per_second() * self.queue_timeout.as_secs_f64();
        self.queue.min(within_timeout as u32)
    }

    /// This limit, and all further ones.
    pub(super) fn limits(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.also)
    }

    pub(super) fn most_keys(&self) -> usize {
        self.max_keys.unwrap_or_else(|| self.key.default_cap())
    }

    /// Whether limits under both are kept by the same keys, so that what was used of one is of the other.
    pub(super) fn shares_cells_with(&self, other: &Self) -> bool {
        self.key == other.key && self.most_keys() == other.most_keys()
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_limit()?;
        let mut names = BTreeSet::from([self.name.as_str()]);
        for (at, further) in self.also.iter().enumerate() {
            let checked = further.validate_limit().and_then(|()| {
                if !further.also.is_empty() {
                    let expected = "no further limits below a further limit";
                    return Err(ConfigError::new("also", further.also.len(), expected));
                }
                if further.headers != RateLimitHeaders::default() {
                    let value = format!("{:?}", further.headers);
                    return Err(ConfigError::new(
                        "headers",
                        value,
                        "to be set for all limits at once",
                    ));
                }
                if !names.insert(&further.name) {
                    let expected = "a name that no other limit has";
                    return Err(ConfigError::new("name", &further.name, expected));
                }
                Ok(())
            });
            checked.map_err(|error| error.at(format_args!("also[{at}]")))?;
        }
        Ok(())
    }

    fn validate_limit(&self) -> Result<(), ConfigError> {
        self.rate.validate().map_err(|error| error.at("rate"))?;
        in_range("burst", self.burst(), 1..=1_000_000)?;
        in_range("queue", self.queue, 0..=1_000_000)?;
        let longest = Duration::from_secs(3600);
        duration_in_range(
            "queueTimeout",
            self.queue_timeout,
            Duration::from_millis(1)..=longest,
        )?;
        if let Some(keys) = self.max_keys {
            in_range("maxKeys", keys, 1..=10_000_000)?;
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(fits) {
            let expected = "letters, digits, `-`, `_` and `.`, at least one of them";
            return Err(ConfigError::new("name", &self.name, expected));
        }
        self.validate_algorithm()?;
        let most = match self.algorithm {
            RateAlgorithm::SlidingWindow => self.rate.calls(),
            RateAlgorithm::Gcra | RateAlgorithm::Leased => self.burst(),
        };
        for (at, rule) in self.costs.iter().enumerate() {
            in_range("cost", rule.cost, 0..=most)
                .map_err(|error| error.at(format_args!("costs[{at}]")))?;
        }
        Ok(())
    }

    /// What only some algorithms have.
    fn validate_algorithm(&self) -> Result<(), ConfigError> {
        match self.algorithm {
            RateAlgorithm::Gcra if self.queue > 0 && self.queued_tokens() == 0 => {
                let one = Duration::from_secs_f64(1.0 / self.rate.as_per_second());
                let value = duration::display(self.queue_timeout);
                let expected = format!("the time of one call at least: {}", duration::display(one));
                return Err(ConfigError::new("queueTimeout", value, expected));
            }
            RateAlgorithm::Gcra => return Ok(()),
            RateAlgorithm::SlidingWindow => {
                if let Some(burst) = self.burst {
                    let expected = "none: a sliding window has no burst beside its rate";
                    return Err(ConfigError::new("burst", burst, expected));
                }
            }
            RateAlgorithm::Leased => {
                if !self.key.is_global() {
                    let expected = "no key: `leased` is for a limit that all threads share";
                    return Err(ConfigError::new("key", &self.key, expected));
                }
            }
        }
        if self.queue > 0 {
            let expected = "0: only `gcra` has a queue";
            return Err(ConfigError::new("queue", self.queue, expected));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_field_value_and_range() {
        let refused = |text: &str| {
            let config: RateLimitConfig = serde_json::from_str(text).unwrap();
            config.validate().unwrap_err().to_string()
        };
        for (text, message) in [
            (
                r#"{"rate":"1/s","burst":0}"#,
                "burst: got `0`, expected 1 to 1000000",
            ),
            (
                r#"{"rate":"1/s","maxKeys":0}"#,
                "maxKeys: got `0`, expected 1 to 10000000",
            ),
            (
                r#"{"rate":"1/s","name":"a b"}"#,
                "name: got `a b`, expected letters, digits, `-`, `_` and `.`, at least one of them",
            ),
            (
                r#"{"rate":"1/s","algorithm":"slidingWindow","burst":2}"#,
                "burst: got `2`, expected none: a sliding window has no burst beside its rate",
            ),
            (
                r#"{"rate":"1/s","algorithm":"leased","key":"operation"}"#,
                "key: got `operation`, expected no key: `leased` is for a limit that all threads share",
            ),
            (
                r#"{"rate":"1/s","algorithm":"leased","queue":1}"#,
                "queue: got `1`, expected 0: only `gcra` has a queue",
            ),
            (
                r#"{"rate":"1/s","queue":1,"queueTimeout":"2h"}"#,
                "queueTimeout: got `2h`, expected 1ms to 1h",
            ),
            (
                r#"{"rate":"1/10s","queue":1}"#,
                "queueTimeout: got `1s`, expected the time of one call at least: 10s",
            ),
            (
                r#"{"rate":"5/s","costs":[{"cost":5},{"cost":6}]}"#,
                "costs[1].cost: got `6`, expected 0 to 5",
            ),
            (
                r#"{"rate":"1/s","also":[{"rate":"5/m","name":"default"}]}"#,
                "also[0].name: got `default`, expected a name that no other limit has",
            ),
            (
                r#"{"rate":"1/s","also":[{"rate":"5/m","name":"b","headers":"always"}]}"#,
                "also[0].headers: got `Always`, expected to be set for all limits at once",
            ),
        ] {
            assert_eq!(refused(text), message);
        }
        for text in ["{}", r#"{"rate":5}"#, r#"{"rate":"1/s","bursts":2}"#] {
            assert!(
                serde_json::from_str::<RateLimitConfig>(text).is_err(),
                "{text}"
            );
        }
    }
}
