//! What is simulated.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tower_mesh_layers::config::{self, ConfigError, Ratio, duration_in_range, in_range};

use super::law::Law;

/// Clients, servers, and what goes wrong. The [module](super) has the table of fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Scenario {
    /// In tables.
    pub name: String,
    /// How many balance, each by itself.
    pub clients: usize,
    /// How many are balanced over.
    pub servers: usize,
    /// Calls that a server works on at once.
    pub workers: usize,
    /// The mean work of a call.
    #[serde(with = "config::duration")]
    pub service_time: Duration,
    /// How single calls differ from the mean.
    pub law: Law,
    /// Calls offered, over what all servers can do.
    pub load: f64,
    /// The whole run.
    #[serde(with = "config::duration")]
    pub duration: Duration,
    /// The first part of it, which is not counted.
    #[serde(with = "config::duration")]
    pub warm_up: Duration,
    /// What goes wrong.
    pub trouble: Option<Trouble>,
}

/// What goes wrong in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[non_exhaustive]
pub enum Trouble {
    /// Some servers take longer, and others after a while.
    #[serde(rename_all = "camelCase")]
    Slow {
        /// How many of them.
        share: Ratio,
        /// How many times as long.
        factor: f64,
        /// When others are drawn.
        #[serde(with = "config::duration")]
        every: Duration,
    },
    /// One server fails each call in a hundredth of the service time.
    FailFast,
    /// One server after the other leaves the registry, finishes what it has, and comes back as a new instance.
    #[serde(rename_all = "camelCase")]
    RollingRestart {
        /// From one server to the next.
        #[serde(with = "config::duration")]
        every: Duration,
        /// How long each is away.
        #[serde(with = "config::duration")]
        away: Duration,
    },
    /// A part of the servers is gone at once: what they worked on fails, and connections to them are refused until the
    /// registry has noticed.
    #[serde(rename_all = "camelCase")]
    ZoneLost {
        /// How many of them.
        share: Ratio,
        /// When, after the warm-up.
        #[serde(with = "config::duration")]
        after: Duration,
        /// How long the registry still has them.
        #[serde(with = "config::duration")]
        noticed: Duration,
    },
}

// ===== impl Scenario =====

impl Scenario {
    /// Another load of the same.
    #[must_use]
    pub fn with_load(mut self, load: f64) -> Self {
        self.load = load;
        self
    }

    /// The same, with something that goes wrong.
    #[must_use]
    pub fn with_trouble(mut self, name: &str, trouble: Trouble) -> Self {
        name.clone_into(&mut self.name);
        self.trouble = Some(trouble);
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] for the first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        in_range("clients", self.clients, 1..=100_000)?;
        in_range("servers", self.servers, 1..=100_000)?;
        in_range("workers", self.workers, 1..=100_000)?;
        let (micro, hour) = (Duration::from_micros(1), Duration::from_secs(3_600));
        duration_in_range("serviceTime", self.service_time, micro..=hour)?;
        duration_in_range("duration", self.duration, micro..=hour)?;
        duration_in_range("warmUp", self.warm_up, Duration::ZERO..=self.duration)?;
        in_range("load", self.load, 0.001..=100.0)?;
        match self.trouble {
            Some(Trouble::Slow { factor, every, .. }) => {
                in_range("trouble.slow.factor", factor, 1.0..=1e6)?;
                duration_in_range("trouble.slow.every", every, micro..=hour)?;
            }
            Some(Trouble::RollingRestart { every, away }) => {
                duration_in_range("trouble.rollingRestart.every", every, micro..=hour)?;
                duration_in_range("trouble.rollingRestart.away", away, micro..=hour)?;
            }
            Some(Trouble::ZoneLost { noticed, .. }) => {
                duration_in_range("trouble.zoneLost.noticed", noticed, Duration::ZERO..=hour)?;
            }
            Some(Trouble::FailFast) | None => {}
        }
        Ok(())
    }

    /// Calls per second of all clients.
    pub fn rate(&self) -> f64 {
        let servers = self.servers as f64;
        let able = match self.trouble {
            Some(Trouble::Slow { share, factor, .. }) => {
                let slow = self.share(share) as f64;
                servers - slow + slow / factor
            }
            // It does no work.
            Some(Trouble::FailFast) => servers - 1.0,
            _ => servers,
        };
        self.load * able.max(1.0) * self.workers as f64 / self.service_time.as_secs_f64()
    }

    /// So many servers.
    pub(super) fn share(&self, share: Ratio) -> usize {
        share.of(self.servers)
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "even".to_owned(),
            clients: 50,
            servers: 100,
            workers: 4,
            service_time: Duration::from_millis(10),
            law: Law::default(),
            load: 0.7,
            duration: Duration::from_secs(30),
            warm_up: Duration::from_secs(5),
            trouble: None,
        }
    }
}
