//! Options of the hedge layer.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::vocab::{
    body::ReplayConfig,
    config::{ConfigError, Ratio, duration, in_range},
    request_match::MatchConfig,
};

/// Options of the hedge layer; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HedgeConfig {
    /// How long an attempt is waited for before another is made beside it: a time (`20ms`), or a
    /// percentile of the times that answers take (`p95`). Default `p95`.
    pub delay: HedgeDelay,
    /// How many attempts a call may come to, the first included: 2 to 5, default 2.
    #[cfg_attr(feature = "schema", schemars(range(min = 2, max = 5)))]
    pub max_attempts: u32,
    /// How many attempts may be added, for each call of the last 10 s. Default 5%.
    pub extra_load: Ratio,
    /// Requests that may be sent twice although their method does not say so. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub idempotent: Vec<MatchConfig>,
    /// The only requests that are hedged. Default: all that may be sent twice.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<MatchConfig>,
    /// With a percentile: how many answers of the last 10 to 20 s it must be taken from; with fewer
    /// nothing is hedged. 10 to 1,000,000, default 100.
    #[cfg_attr(feature = "schema", schemars(range(min = 10, max = 1_000_000)))]
    pub min_samples: u32,
    /// How much of request bodies is kept to send them again.
    pub replay: ReplayConfig,
    /// The label `policy` of its metrics. Default `default`.
    pub name: String,
}

/// How long an attempt is waited for before another is made beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HedgeDelay {
    /// `20ms`: 1 ms to 1 h.
    Fixed(Duration),
    /// `p95`: as long as this share of the answers take at most; 50% to 99.99%.
    Percentile(Ratio),
}

// ===== impl HedgeConfig =====

impl Default for HedgeConfig {
    fn default() -> Self {
        Self {
            delay: HedgeDelay::Percentile(Ratio::percent(95)),
            max_attempts: 2,
            // What "The Tail at Scale" found to be enough.
            extra_load: Ratio::percent(5),
            idempotent: Vec::new(),
            only: Vec::new(),
            // Five of them are above the percentile.
            min_samples: 100,
            replay: ReplayConfig::default(),
            name: "default".to_owned(),
        }
    }
}

impl HedgeConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.delay.validate()?;
        in_range("maxAttempts", self.max_attempts, 2..=5)?;
        in_range("minSamples", self.min_samples, 10..=1_000_000)?;
        self.replay.validate().map_err(|error| error.at("replay"))
    }
}

// ===== impl HedgeDelay =====

impl HedgeDelay {
    const EXPECTED: &'static str =
        "a time from 1ms to 1h such as `20ms`, or a percentile from p50 to p99.99 such as `p95`";

    fn validate(self) -> Result<(), ConfigError> {
        let fits = match self {
            Self::Fixed(delay) => {
                (Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&delay)
            }
            Self::Percentile(share) => (0.5..=0.9999).contains(&share.as_f64()),
        };
        let refused = || ConfigError::new("delay", self, Self::EXPECTED);
        fits.then_some(()).ok_or_else(refused)
    }
}

impl From<Duration> for HedgeDelay {
    fn from(delay: Duration) -> Self {
        Self::Fixed(delay)
    }
}

impl fmt::Display for HedgeDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(delay) => duration::display(*delay).fmt(f),
            Self::Percentile(share) => {
                let percent = share.to_string();
                write!(f, "p{}", percent.trim_end_matches('%'))
            }
        }
    }
}

impl FromStr for HedgeDelay {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let read = match text.strip_prefix('p') {
            Some(percent) => format!("{percent}%").parse().map(Self::Percentile),
            None => duration::parse(text).map(Self::Fixed),
        };
        read.map_err(|_| ConfigError::new("", text, Self::EXPECTED))
    }
}

impl Serialize for HedgeDelay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HedgeDelay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = HedgeDelay;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(HedgeDelay::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HedgeDelay, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for HedgeDelay {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HedgeDelay".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let duration = crate::schema::Duration::PATTERN;
        schemars::json_schema!({
            "description": "A time, or a percentile of the times that answers take.",
            "type": "string",
            "pattern": format!("^({duration}|p[5-9][0-9](\\.[0-9]+)?)$"),
            "examples": ["p95", "20ms"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> HedgeConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_default_is_valid_and_reads_back() {
        let config = HedgeConfig::default();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!((read(&text), read("{}")), (config.clone(), config));
    }

    #[test]
    fn a_delay_is_a_time_or_a_percentile() {
        for (text, delay) in [
            ("20ms", HedgeDelay::Fixed(Duration::from_millis(20))),
            ("p95", HedgeDelay::Percentile(Ratio::percent(95))),
            ("p99.9", HedgeDelay::Percentile("99.9%".parse().unwrap())),
        ] {
            assert_eq!(text.parse(), Ok(delay));
            assert_eq!(delay.to_string(), text);
        }
        for text in ["", "p", "p-5", "95", "95%", "P95", "p95%", "pp5"] {
            assert!(text.parse::<HedgeDelay>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        for (text, message) in [
            (
                r#"{"maxAttempts":1}"#,
                "maxAttempts: got `1`, expected 2 to 5",
            ),
            (
                r#"{"delay":"p49"}"#,
                "delay: got `p49`, expected a time from 1ms to 1h such as `20ms`, or a percentile \
                 from p50 to p99.99 such as `p95`",
            ),
            (
                r#"{"replay":{"total":5}}"#,
                "replay.total: got `5`, expected 65536 to 68719476736",
            ),
        ] {
            let refused = read(text).validate().unwrap_err();
            assert_eq!(refused.to_string(), message);
        }
        for delay in ["0s", "2h", "p100"] {
            let config = read(&format!(r#"{{"delay":"{delay}"}}"#));
            assert!(config.validate().is_err(), "{delay}");
        }
        assert!(serde_json::from_str::<HedgeConfig>(r#"{"delays":"20ms"}"#).is_err());
    }
}
