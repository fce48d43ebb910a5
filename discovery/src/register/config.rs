//! The options of a registration.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tower_mesh_layers::config::{self, ConfigError, duration_in_range};

use crate::instance::{EndpointUrl, Instance};

/// How an instance registers. The [module](super) has the table of defaults.
///
/// ```
/// use std::time::Duration;
/// use tower_mesh_discovery::register::RegisterConfig;
///
/// let config = RegisterConfig { ttl: Duration::from_secs(30), ..Default::default() };
/// assert_eq!(config.interval(), Duration::from_secs(10));
///
/// let slow = RegisterConfig { interval: Some(Duration::from_secs(10)), ..Default::default() };
/// assert_eq!(
///     slow.validate().unwrap_err().to_string(),
///     "interval: got `10s`, expected 100ms to less than half of the ttl, which is 15s"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RegisterConfig {
    /// How long the registry keeps the record without a heartbeat.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub ttl: Duration,
    /// How long at most from one heartbeat to the next; a third of the TTL unless told.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<tower_mesh_layers::schema::Duration>")
    )]
    #[serde(
        with = "config::duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub interval: Option<Duration>,
    /// How long the instance is marked as draining, and served on, before it leaves.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub drain: Duration,
    /// How long it is tried to deregister.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "tower_mesh_layers::schema::Duration")
    )]
    #[serde(with = "config::duration")]
    pub deregister_timeout: Duration,
}

// ===== impl RegisterConfig =====

impl RegisterConfig {
    const MIN_INTERVAL: Duration = Duration::from_millis(100);

    /// The time between two heartbeats: as told, or a third of the TTL.
    pub fn interval(&self) -> Duration {
        self.interval.unwrap_or(self.ttl / 3)
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for the first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const fn secs(secs: u64) -> Duration {
            Duration::from_secs(secs)
        }
        duration_in_range("ttl", self.ttl, secs(1)..=secs(86_400))?;
        let interval = self.interval();
        // With one heartbeat lost, the next must still come in time.
        if interval < Self::MIN_INTERVAL || interval >= self.ttl / 2 {
            let ttl = config::duration::display(self.ttl);
            return Err(ConfigError::new(
                "interval",
                config::duration::display(interval),
                format!("100ms to less than half of the ttl, which is {ttl}"),
            ));
        }
        duration_in_range("drain", self.drain, Duration::ZERO..=secs(3_600))?;
        let (least, most) = (Duration::from_millis(100), secs(300));
        duration_in_range("deregisterTimeout", self.deregister_timeout, least..=most)?;
        Ok(())
    }
}

impl Default for RegisterConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(15),
            interval: None,
            drain: Duration::from_secs(5),
            deregister_timeout: Duration::from_secs(5),
        }
    }
}

/// Refuses a record that nobody could use. Paths begin with `instance`.
pub(super) fn check(instance: &Instance) -> Result<(), ConfigError> {
    instance.validate().map_err(|error| error.at("instance"))?;
    for (i, url) in instance.endpoints.iter().enumerate() {
        let refused = |expected: &str| {
            let path = format!("instance.endpoints[{i}]");
            Err(ConfigError::new(path, url, expected))
        };
        if is_unspecified(url) {
            return refused("an address that others can call: this one only listens");
        }
        if url.port() == Some(0) {
            return refused("the port that is listened on: 0 only asks for a free one");
        }
    }
    Ok(())
}

fn is_unspecified(url: &EndpointUrl) -> bool {
    url.socket_addr()
        .is_some_and(|addr| addr.ip().to_canonical().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_out_of_range_is_named_with_its_bounds() {
        let default = RegisterConfig::default;
        let ms = Duration::from_millis;
        for (config, message) in [
            (
                RegisterConfig {
                    ttl: ms(999),
                    ..default()
                },
                "ttl: got `999ms`, expected 1s to 24h",
            ),
            (
                RegisterConfig {
                    ttl: Duration::MAX,
                    ..default()
                },
                "ttl: got",
            ),
            (
                RegisterConfig {
                    interval: Some(ms(7_500)),
                    ..default()
                },
                "interval: got `7s500ms`, expected 100ms to less than half of the ttl, which is 15s",
            ),
            (
                RegisterConfig {
                    interval: Some(ms(99)),
                    ..default()
                },
                "interval: got `99ms`, expected 100ms to",
            ),
            (
                RegisterConfig {
                    drain: ms(3_600_001),
                    ..default()
                },
                "drain: got `1h1ms`, expected 0s to 1h",
            ),
            (
                RegisterConfig {
                    deregister_timeout: ms(99),
                    ..default()
                },
                "deregisterTimeout: got `99ms`, expected 100ms to 5m",
            ),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        assert_eq!(default().validate(), Ok(()));
        let just = RegisterConfig {
            interval: Some(ms(7_499)),
            ..default()
        };
        assert_eq!(just.validate(), Ok(()));
    }

    #[test]
    fn an_instance_that_nobody_could_call_is_refused() {
        let at = |url: &str| Instance::at("orders", url.parse().unwrap());
        for (instance, message) in [
            (
                Instance::new("orders", "a"),
                "instance.endpoints: got `[]`, expected at least one",
            ),
            (
                at("http://a").with_weight(0),
                "instance.weight: got `0`, expected 1 to 65535",
            ),
            (
                at("http://0.0.0.0:8080"),
                "instance.endpoints[0]: got `http://0.0.0.0:8080`, expected an address that others",
            ),
            (
                at("http://a").with_endpoint("grpc://[::]:1".parse().unwrap()),
                "instance.endpoints[1]: got `grpc://[::]:1`, expected an address that others",
            ),
            (
                at("http://[::ffff:0.0.0.0]:1"),
                "instance.endpoints[0]: got",
            ),
        ] {
            let error = check(&instance).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        for url in [
            "http://localhost:8080",
            "unix:///run/orders.sock",
            "https://orders.internal",
        ] {
            assert_eq!(check(&at(url)), Ok(()), "{url}");
        }
    }

    #[test]
    #[cfg(feature = "file")]
    fn it_reads_what_it_writes_and_refuses_unknown_fields() {
        let config = RegisterConfig::default();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            text,
            r#"{"ttl":"15s","drain":"5s","deregisterTimeout":"5s"}"#
        );
        assert_eq!(
            serde_json::from_str::<RegisterConfig>(&text).unwrap(),
            config
        );
        let read: RegisterConfig = serde_json::from_str(r#"{"interval":"2s"}"#).unwrap();
        assert_eq!(read.interval(), Duration::from_secs(2));
        let error = serde_json::from_str::<RegisterConfig>(r#"{"tll":"2s"}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `tll`"), "{error}");
    }
}
