//! A number of calls per period.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::vocab::config::{self, ConfigError, duration};

/// The most calls per second: a call per microsecond.
const MOST_PER_SECOND: f64 = 1e6;

/// A number of calls per period, written `100/s`, `5/m`, `1/10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    calls: NonZeroU32,
    period: Duration,
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

    pub(super) fn validate(self) -> Result<(), ConfigError> {
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
}
