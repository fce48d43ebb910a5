//! The options of a balancer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tower_mesh_layers::config::{self, ConfigError, Ratio, duration_in_range};

use super::{eject::Policy, ewma::Decay};

/// How a balancer picks, waits and ejects. The [module](super) has the table of defaults.
///
/// ```
/// use tower_mesh_discovery::balance::{BalanceConfig, Balancing};
///
/// let config = BalanceConfig { picker: Balancing::RoundRobin, ..Default::default() };
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BalanceConfig {
    /// How an endpoint is picked.
    pub picker: Balancing,
    /// The time constant of the latency average.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub decay: Duration,
    /// How long an endpoint is passed over after a failure, while another can be picked.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub penalty: Duration,
    /// How long a call waits while no endpoint is known.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub wait_for_endpoints: Duration,
    /// While no endpoint is known, a call waits until its deadline, where it has one.
    pub wait_for_ready: bool,
    /// How long an endpoint may take to get ready (to connect) before another one is picked.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub connect_timeout: Duration,
    /// The longest time that an endpoint stays out after a refused connection.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub max_backoff: Duration,
    /// With a smaller share than this of all endpoints left, all of them are called. Always so when
    /// none is left.
    pub panic_threshold: Ratio,
    /// When endpoints that fail are taken out.
    pub ejection: EjectionConfig,
}

/// When an endpoint that fails is taken out, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EjectionConfig {
    /// Failures in a row; 0 never ejects by them.
    pub consecutive_failures: u32,
    /// Timeouts in a row; 0 never ejects by them.
    pub consecutive_timeouts: u32,
    /// The time out, multiplied by the number of ejections.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub base_time: Duration,
    /// The longest time out.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub max_time: Duration,
    /// The largest share of endpoints that are ejected at one time. One always may be, and one
    /// always stays.
    pub max_ejected: Ratio,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Balancing {
    /// The cheaper of two random endpoints, by latency and calls in flight.
    #[default]
    P2cEwma,
    /// One after the other.
    RoundRobin,
}

/// What the balancer computes from its configuration once.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) config: BalanceConfig,
    pub(super) decay: Decay,
    pub(super) policy: Policy,
}

// ===== impl BalanceConfig =====

impl BalanceConfig {
    /// Checks every field.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for the first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        const fn secs(secs: u64) -> Duration {
            Duration::from_secs(secs)
        }
        duration_in_range("decay", self.decay, ms(10)..=secs(3_600))?;
        duration_in_range("penalty", self.penalty, ms(0)..=secs(300))?;
        duration_in_range(
            "waitForEndpoints",
            self.wait_for_endpoints,
            ms(0)..=secs(3_600),
        )?;
        duration_in_range("connectTimeout", self.connect_timeout, ms(1)..=secs(3_600))?;
        duration_in_range("maxBackoff", self.max_backoff, ms(1)..=secs(3_600))?;
        let EjectionConfig {
            base_time,
            max_time,
            ..
        } = self.ejection;
        duration_in_range("ejection.baseTime", base_time, ms(1)..=secs(3_600))?;
        duration_in_range("ejection.maxTime", max_time, base_time..=secs(86_400))?;
        Ok(())
    }

    pub(super) fn compile(&self) -> Result<Settings, ConfigError> {
        self.validate()?;
        Ok(Settings {
            config: self.clone(),
            decay: Decay::new(self.decay.as_secs_f32() * 1e3),
            policy: Policy {
                failures: self.ejection.consecutive_failures,
                timeouts: self.ejection.consecutive_timeouts,
                base_ms: millis(self.ejection.base_time),
                max_ms: millis(self.ejection.max_time),
                refused_max_ms: millis(self.max_backoff),
                // A stream that has lasted this long is no sign of a broken peer.
                probation_ms: 10_000,
            },
        })
    }
}

impl Default for BalanceConfig {
    fn default() -> Self {
        Self {
            picker: Balancing::default(),
            // Half of Finagle's 10 s: one pause of a second is forgotten in half a minute, and a
            // peer that is ten times slower is tried every 12 s.
            decay: Duration::from_secs(5),
            // Long enough to keep a failing peer far below its share, short enough that an ejection
            // (five failures) takes a second and not a minute.
            penalty: Duration::from_millis(100),
            wait_for_endpoints: Duration::from_secs(3),
            wait_for_ready: false,
            connect_timeout: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            panic_threshold: Ratio::ZERO,
            ejection: EjectionConfig::default(),
        }
    }
}

impl Default for EjectionConfig {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            consecutive_timeouts: 3,
            // Not Envoy's 30 s: a peer returns by one trial call here, so trying early is cheap.
            base_time: Duration::from_secs(3),
            max_time: Duration::from_secs(60),
            // Not Envoy's 10%: most services have a handful of instances, and two bad ones of five
            // should both go. Above half, the fault is more likely ours, or one they share.
            max_ejected: Ratio::percent(50),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_range_is_named() {
        let mut config = BalanceConfig::default();
        assert_eq!(config.validate(), Ok(()));
        config.ejection.max_time = Duration::from_secs(1);
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "ejection.maxTime: got `1s`, expected 3s to 24h");
    }

    #[cfg(feature = "file")]
    #[test]
    fn it_is_written_in_camel_case_and_refuses_unknown_fields() {
        let text =
            r#"{"picker":"roundRobin","waitForEndpoints":"500ms","ejection":{"maxEjected":"20%"}}"#;
        let config: BalanceConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.picker, Balancing::RoundRobin);
        assert_eq!(config.ejection.max_ejected, Ratio::percent(20));
        let again = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<BalanceConfig>(&again).unwrap(),
            config
        );
        assert!(serde_json::from_str::<BalanceConfig>(r#"{"wait":"1s"}"#).is_err());
    }
}
