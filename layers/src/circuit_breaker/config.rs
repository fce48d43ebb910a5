//! Options of the circuit breaker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::vocab::{
    config::{self, ConfigError, Ratio, duration, duration_in_range, in_range},
    key::Key,
};

/// Options of the circuit breaker; the [module](super) has them in a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// Opens when this share of the calls in the window failed; 0% turns this signal off. Default 50%.
    pub failure_rate: Ratio,
    /// No rate is taken over fewer calls than this: 1 to 1,000,000, default 20.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub minimum_calls: u32,
    /// What the rate is taken over. Default: the last 10 s.
    pub window: Window,
    /// Opens after this many failures without a success in between: at least 1; default off.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<u32>,
    /// How long it stays open the first time: 1 ms to 1 h, default 5 s. Up to half as much is added
    /// at random.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub open_time: Duration,
    /// The open time doubles each time the breaker opens again, up to this: default 60 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub max_open_time: Duration,
    /// After being closed for this long the next open time is the first again: default 60 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub stable_time: Duration,
    /// How many calls pass in half-open, and must all succeed to close it: 1 to 1,000, default 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000)))]
    pub probes: u32,
    /// How long to wait for probes before deciding without them: 1 ms to 1 h, default 10 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub probation: Duration,
    /// One breaker for each of these. Default: one for all calls, unless the stack around the layer has
    /// a better one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The most breakers there can be; further keys share one. 1 to 1,000,000, default 1,000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub max_keys: usize,
    /// The label `policy` of its metrics. Default `default`.
    pub name: String,
}

/// What the failure rate is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Window {
    /// The calls that ended within this time: 10 ms to 1 h. The window moves in tenths.
    Time(
        #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
        #[serde(with = "duration")]
        Duration,
    ),
    /// The last calls, however long ago: 1 to 100,000.
    Calls(#[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000)))] u32),
}

// ===== impl BreakerConfig =====

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failure_rate: Ratio::percent(50),
            minimum_calls: 20,
            window: Window::Time(Duration::from_secs(10)),
            consecutive_failures: None,
            open_time: Duration::from_secs(5),
            max_open_time: Duration::from_secs(60),
            stable_time: Duration::from_secs(60),
            probes: 1,
            probation: Duration::from_secs(10),
            key: None,
            // Operations and peers, which a service has by the dozen; not callers.
            max_keys: 1_000,
            name: "default".to_owned(),
        }
    }
}

impl BreakerConfig {
    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const MS: Duration = Duration::from_millis(1);
        const HOUR: Duration = Duration::from_secs(3600);
        in_range("minimumCalls", self.minimum_calls, 1..=1_000_000)?;
        match self.window {
            Window::Time(span) => drop(duration_in_range("window.time", span, 10 * MS..=HOUR)?),
            Window::Calls(calls) => {
                in_range("window.calls", calls, 1..=100_000)?;
                if self.failure_rate > Ratio::ZERO && self.minimum_calls > calls {
                    let expected = format!("at most window.calls, which is {calls}");
                    return Err(ConfigError::new(
                        "minimumCalls",
                        self.minimum_calls,
                        expected,
                    ));
                }
            }
        }
        if let Some(failures) = self.consecutive_failures {
            in_range("consecutiveFailures", failures, 1..=1_000_000)?;
        } else if self.failure_rate == Ratio::ZERO {
            let expected = "above 0% where consecutiveFailures is not set: nothing would open it";
            return Err(ConfigError::new("failureRate", self.failure_rate, expected));
        }
        duration_in_range("openTime", self.open_time, MS..=HOUR)?;
        duration_in_range(
            "maxOpenTime",
            self.max_open_time,
            self.open_time..=24 * HOUR,
        )?;
        duration_in_range("stableTime", self.stable_time, Duration::ZERO..=24 * HOUR)?;
        in_range("probes", self.probes, 1..=1_000)?;
        duration_in_range("probation", self.probation, MS..=HOUR)?;
        config::in_range("maxKeys", self.max_keys, 1..=1_000_000)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_reads_back() {
        let config = BreakerConfig::default();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<BreakerConfig>(&text).unwrap(),
            config
        );
        assert_eq!(serde_json::from_str::<BreakerConfig>("{}").unwrap(), config);
    }

    #[test]
    fn a_refusal_names_field_value_and_range() {
        let refused = |text: &str| {
            let config: BreakerConfig = serde_json::from_str(text).unwrap();
            config.validate().unwrap_err().to_string()
        };
        for (text, message) in [
            (
                r#"{"minimumCalls":0}"#,
                "minimumCalls: got `0`, expected 1 to 1000000",
            ),
            (r#"{"probes":0}"#, "probes: got `0`, expected 1 to 1000"),
            (
                r#"{"openTime":"0s"}"#,
                "openTime: got `0s`, expected 1ms to 1h",
            ),
            (
                r#"{"openTime":"2m"}"#,
                "maxOpenTime: got `1m`, expected 2m to 24h",
            ),
            (
                r#"{"window":{"time":"1ms"}}"#,
                "window.time: got `1ms`, expected 10ms to 1h",
            ),
            (
                r#"{"window":{"calls":5}}"#,
                "minimumCalls: got `20`, expected at most window.calls, which is 5",
            ),
            (
                r#"{"consecutiveFailures":0}"#,
                "consecutiveFailures: got `0`, expected 1 to 1000000",
            ),
            (
                r#"{"failureRate":"0%"}"#,
                "failureRate: got `0%`, expected above 0% where consecutiveFailures is not set: nothing would open it",
            ),
        ] {
            assert_eq!(refused(text), message);
        }
        for text in [
            r#"{"failurerate":"5%"}"#,
            r#"{"failureRate":0.5}"#,
            r#"{"window":"10s"}"#,
        ] {
            assert!(
                serde_json::from_str::<BreakerConfig>(text).is_err(),
                "{text}"
            );
        }
    }
}
