//! Options of the rate limit.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::vocab::{
    config::{self, ConfigError, duration, in_range},
    key::Key,
};

/// The most calls per second: a call per microsecond.
const MOST_PER_SECOND: f64 = 1e6;

/// Options of the rate limit; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitConfig {
    /// How many calls pass in the long run: `100/s`, `5/m`, `1/10s`. At most 1,000,000 a second.
    pub rate: Rate,
    /// How many calls may come at once after a pause: 1 to 1,000,000. Default: as many as `rate`
    /// names.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
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
}

/// A number of calls per period, written `100/s`, `5/m`, `1/10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    calls: NonZeroU32,
    period: Duration,
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

// ===== impl RateLimitConfig =====

impl RateLimitConfig {
    /// This rate, and the defaults for all else.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            burst: None,
            key: Key::global(),
            max_keys: None,
            headers: RateLimitHeaders::default(),
            name: default_name(),
        }
    }

    /// The burst, set or by default.
    pub fn burst(&self) -> u32 {
        self.burst.unwrap_or(self.rate.calls.get().min(1_000_000))
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
        self.rate.validate().map_err(|error| error.at("rate"))?;
        in_range("burst", self.burst(), 1..=1_000_000)?;
        if let Some(keys) = self.max_keys {
            in_range("maxKeys", keys, 1..=10_000_000)?;
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(fits) {
            let expected = "letters, digits, `-`, `_` and `.`, at least one of them";
            return Err(ConfigError::new("name", &self.name, expected));
        }
        Ok(())
    }
}

// ===== impl Rate =====

impl Rate {
    const EXPECTED: &'static str =
        "calls per period, such as `100/s`, `5/m` or `1/10s`, at most 1000000/s";

    /// So many calls per second. Zero is taken as one, as no limit can be made of it.
    pub const fn per_second(calls: u32) -> Self {
        Self::per_whole(calls, 1)
    }

    /// So many calls per minute. Zero is taken as one.
    pub const fn per_minute(calls: u32) -> Self {
        Self::per_whole(calls, 60)
    }

    /// So many calls per hour. Zero is taken as one.
    pub const fn per_hour(calls: u32) -> Self {
        Self::per_whole(calls, 3600)
    }

    const fn per_whole(calls: u32, seconds: u64) -> Self {
        let calls = match NonZeroU32::new(calls) {
            Some(calls) => calls,
            None => NonZeroU32::MIN,
        };
        Self {
            calls,
            period: Duration::from_secs(seconds),
        }
    }

    /// So many calls per period.
    ///
    /// # Errors
    ///
    /// When `calls` is zero, the period is zero or above a day, or the rate above a million a second.
    pub fn new(calls: u32, period: Duration) -> Result<Self, ConfigError> {
        let refused = || {
            let value = format!("{calls}/{}", duration::display(period));
            ConfigError::new("", value, Self::EXPECTED)
        };
        let calls = NonZeroU32::new(calls).ok_or_else(refused)?;
        let rate = Self { calls, period };
        rate.validate().map(|()| rate)
    }

    fn validate(self) -> Result<(), ConfigError> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let sane = !self.period.is_zero() && self.period <= DAY;
        if sane && self.as_per_second() <= MOST_PER_SECOND {
            return Ok(());
        }
        Err(ConfigError::new("", self, Self::EXPECTED))
    }

    /// The calls that it names.
    pub const fn calls(self) -> u32 {
        self.calls.get()
    }

    /// The period that it names.
    pub const fn period(self) -> Duration {
        self.period
    }

    /// Calls per second.
    pub fn as_per_second(self) -> f64 {
        f64::from(self.calls.get()) / self.period.as_secs_f64()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.period.as_secs(), self.period.subsec_nanos()) {
            (1, 0) => write!(f, "{}/s", self.calls),
            (60, 0) => write!(f, "{}/m", self.calls),
            (3600, 0) => write!(f, "{}/h", self.calls),
            _ => write!(f, "{}/{}", self.calls, duration::display(self.period)),
        }
    }
}

impl FromStr for Rate {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let refused = || ConfigError::new("", text, Self::EXPECTED);
        let (calls, period) = text.trim().split_once('/').ok_or_else(refused)?;
        if !calls.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused());
        }
        let calls = calls.parse().map_err(|_| refused())?;
        let period = match period.trim() {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            period => duration::parse(period).map_err(|_| refused())?,
        };
        Self::new(calls, period).map_err(|_| refused())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        config::deserialize_text(deserializer, Self::EXPECTED)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let period = crate::schema::Duration::PATTERN;
        schemars::json_schema!({
            "description": "Calls per second (`s`), minute (`m`), hour (`h`) or any other time.",
            "type": "string",
            "pattern": format!("^0*[1-9][0-9]*/(s|m|h|{period})$"),
            "examples": ["100/s", "5/m", "1/10s"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_back_as_written() {
        for (text, per_second) in [
            ("100/s", 100.0),
            ("6/m", 0.1),
            ("36/h", 0.01),
            ("1/10s", 0.1),
            ("1000000/s", 1e6),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert!((rate.as_per_second() - per_second).abs() < 1e-9, "{text}");
            assert_eq!(rate.to_string(), text);
        }
    }

    #[test]
    fn rates_that_make_no_limit_are_refused() {
        for text in [
            "", "100", "0/s", "-1/s", "+1/s", "1/0s", "1/2d", "2/us", "1/x", "/s", "1/25h", "1.5/s",
        ] {
            let error = text.parse::<Rate>().unwrap_err();
            assert_eq!((error.value(), error.expected()), (text, Rate::EXPECTED));
        }
    }

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
