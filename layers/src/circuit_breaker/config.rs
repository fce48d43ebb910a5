//! Options of the circuit breaker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{adaptive::AdaptiveConfig, hystrix::HystrixConfig};
use crate::vocab::{
    config::{self, ConfigError, Ratio, duration, duration_in_range, in_range},
    key::Key,
};

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

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
    /// Opens when too many calls are slow, whatever they answer. Default off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_call: Option<SlowCall>,
    /// How long it stays open the first time, before `jitter`: 1 ms to 1 h, default 5 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub open_time: Duration,
    /// The open time doubles each time the breaker opens again, up to this: default 60 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub max_open_time: Duration,
    /// Up to this share of the open time is added at random, so that clients which opened together do
    /// not probe together. Default 50%.
    pub jitter: Ratio,
    /// After being closed for this long the next open time is the first again: default 60 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub stable_time: Duration,
    /// How many calls pass in half-open: 1 to 1,000, default 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000)))]
    pub probes: u32,
    /// How many of the probes must succeed to close it: 1 to `probes`, default all. It opens again as
    /// soon as that cannot be reached any more.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<u32>,
    /// How long to wait for probes before deciding without them: 1 ms to 1 h, default 10 s.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub probation: Duration,
    /// Refuses all calls, or lets all pass, whatever the breakers know. Default: neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<Force>,
    /// Refuses a growing share of the calls instead of opening and closing; stands in the place of all
    /// options above but `force`. Default off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveConfig>,
    /// Hystrix' names for the options above, in whose place it stands. Default off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hystrix: Option<HystrixConfig>,
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

/// When a call is slow, and how many of them are too many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowCall {
    /// A call is slow when its response head (over gRPC: its first message) takes this long or longer:
    /// 1 ms to 1 h.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::Duration"))]
    #[serde(with = "duration")]
    pub duration: Duration,
    /// Opens when this share of the calls in `window` were slow, and there were `minimumCalls` of them:
    /// above 0%, default 100%.
    #[serde(default = "all")]
    pub rate: Ratio,
}

/// What all breakers of a layer do by configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Force {
    /// Calls are refused.
    Open,
    /// Calls pass.
    Closed,
}

fn all() -> Ratio {
    Ratio::ONE
}

// ===== impl BreakerConfig =====

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failure_rate: Ratio::percent(50),
            minimum_calls: 20,
            window: Window::Time(Duration::from_secs(10)),
            consecutive_failures: None,
            slow_call: None,
            open_time: Duration::from_secs(5),
            max_open_time: Duration::from_secs(60),
            jitter: Ratio::percent(50),
            stable_time: Duration::from_secs(60),
            probes: 1,
            success_threshold: None,
            probation: Duration::from_secs(10),
            force: None,
            adaptive: None,
            hystrix: None,
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
    /// The first value that is out of range, with its field; or one beside a section that stands in
    /// its place.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::in_range("maxKeys", self.max_keys, 1..=1_000_000)?;
        if let Some(hystrix) = &self.hystrix {
            self.leaves_all_to("hystrix")?;
            return hystrix.validate().map_err(|error| error.at("hystrix"));
        }
        if let Some(adaptive) = &self.adaptive {
            self.leaves_all_to("adaptive")?;
            return adaptive.validate().map_err(|error| error.at("adaptive"));
        }
        self.validate_signals()?;
        duration_in_range("openTime", self.open_time, MS..=HOUR)?;
        duration_in_range(
            "maxOpenTime",
            self.max_open_time,
            self.open_time..=24 * HOUR,
        )?;
        duration_in_range("stableTime", self.stable_time, Duration::ZERO..=24 * HOUR)?;
        in_range("probes", self.probes, 1..=1_000)?;
        if let Some(successes) = self.success_threshold
            && !(1..=self.probes).contains(&successes)
        {
            let expected = format!("1 to probes, which is {}", self.probes);
            return Err(ConfigError::new("successThreshold", successes, expected));
        }
        duration_in_range("probation", self.probation, MS..=HOUR)?;
        Ok(())
    }

    fn validate_signals(&self) -> Result<(), ConfigError> {
        in_range("minimumCalls", self.minimum_calls, 1..=1_000_000)?;
        let rates = self.failure_rate > Ratio::ZERO || self.slow_call.is_some();
        match self.window {
            Window::Time(span) => drop(duration_in_range("window.time", span, 10 * MS..=HOUR)?),
            Window::Calls(calls) => {
                in_range("window.calls", calls, 1..=100_000)?;
                if rates && self.minimum_calls > calls {
                    let expected = format!("at most window.calls, which is {calls}");
                    return Err(ConfigError::new(
                        "minimumCalls",
                        self.minimum_calls,
                        expected,
                    ));
                }
            }
        }
        if let Some(slow) = self.slow_call {
            duration_in_range("slowCall.duration", slow.duration, MS..=HOUR)?;
            if slow.rate == Ratio::ZERO {
                return Err(ConfigError::new("slowCall.rate", slow.rate, "above 0%"));
            }
        }
        if let Some(failures) = self.consecutive_failures {
            in_range("consecutiveFailures", failures, 1..=1_000_000)?;
        } else if !rates {
            let expected = "above 0% where neither consecutiveFailures nor slowCall is set: nothing would open it";
            return Err(ConfigError::new("failureRate", self.failure_rate, expected));
        }
        Ok(())
    }

    /// An option beside a section that stands in its place would be one that is ignored.
    fn leaves_all_to(&self, section: &str) -> Result<(), ConfigError> {
        let default = Self::default();
        let is_hystrix = section == "hystrix";
        let set = [
            ("failureRate", self.failure_rate != default.failure_rate),
            ("minimumCalls", self.minimum_calls != default.minimum_calls),
            ("window", self.window != default.window),
            ("consecutiveFailures", self.consecutive_failures.is_some()),
            ("slowCall", self.slow_call.is_some()),
            ("openTime", self.open_time != default.open_time),
            ("maxOpenTime", self.max_open_time != default.max_open_time),
            ("jitter", self.jitter != default.jitter),
            ("stableTime", self.stable_time != default.stable_time),
            ("probes", self.probes != default.probes),
            ("successThreshold", self.success_threshold.is_some()),
            ("probation", self.probation != default.probation),
            ("force", is_hystrix && self.force.is_some()),
            ("adaptive", is_hystrix && self.adaptive.is_some()),
        ];
        let expected = format!("nothing beside `{section}`, which stands in its place");
        match set.into_iter().find(|(_, set)| *set) {
            Some((field, _)) => Err(ConfigError::new(field, "a value", expected)),
            None => Ok(()),
        }
    }

    /// In our own words: without a section in another dialect.
    pub(super) fn in_our_words(self) -> Self {
        match &self.hystrix {
            None => self,
            Some(hystrix) => Self {
                key: self.key,
                max_keys: self.max_keys,
                name: self.name,
                ..Self::from(hystrix)
            },
        }
    }

    /// How many probes must succeed.
    pub(super) fn successes(&self) -> u32 {
        self.success_threshold.unwrap_or(self.probes)
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
                "failureRate: got `0%`, expected above 0% where neither consecutiveFailures nor slowCall is set: nothing would open it",
            ),
            (
                r#"{"probes":3,"successThreshold":4}"#,
                "successThreshold: got `4`, expected 1 to probes, which is 3",
            ),
            (
                r#"{"slowCall":{"duration":"1s","rate":"0%"}}"#,
                "slowCall.rate: got `0%`, expected above 0%",
            ),
            (
                r#"{"probes":3,"adaptive":{}}"#,
                "probes: got `a value`, expected nothing beside `adaptive`, which stands in its place",
            ),
            (
                r#"{"force":"open","hystrix":{}}"#,
                "force: got `a value`, expected nothing beside `hystrix`, which stands in its place",
            ),
            (
                r#"{"adaptive":{"buckets":0}}"#,
                "adaptive.buckets: got `0`, expected 1 to 100",
            ),
            (
                r#"{"hystrix":{"errorThresholdPercentage":101}}"#,
                "hystrix.errorThresholdPercentage: got `101`, expected 0 to 100",
            ),
        ] {
            assert_eq!(refused(text), message);
        }
        for text in [
            r#"{"failurerate":"5%"}"#,
            r#"{"failureRate":0.5}"#,
            r#"{"window":"10s"}"#,
            r#"{"slowCall":{}}"#,
            r#"{"hystrix":{"timeoutInMilliseconds":1}}"#,
        ] {
            assert!(
                serde_json::from_str::<BreakerConfig>(text).is_err(),
                "{text}"
            );
        }
    }
}
