//! Hystrix' names for a circuit breaker, as go-chassis has them: its `cse.circuitBreaker` section.
//!
//! ```
//! use tower_mesh_layers::circuit_breaker::{BreakerConfig, CircuitBreakerLayer, HystrixConfig};
//!
//! let hystrix = HystrixConfig {
//!     request_volume_threshold: Some(40),
//!     error_threshold_percentage: Some(25),
//!     ..HystrixConfig::default()
//! };
//! let layer = CircuitBreakerLayer::new(BreakerConfig::from(&hystrix))?;
//! # Ok::<(), tower_mesh_layers::ConfigError>(())
//! ```
//!
//! # What becomes of it
//!
//! | field | default | becomes |
//! |---|---|---|
//! | `enabled` | true | false: calls pass, and nothing opens |
//! | `requestVolumeThreshold` | 20 | `minimumCalls`, over ten seconds |
//! | `errorThresholdPercentage` | 50 | `failureRate`, from half a percent below: Hystrix rounds to whole percents |
//! | `sleepWindowInMilliseconds` | 15000 | `openTime` without jitter and without doubling, and `probation` |
//! | `forceOpen` | false | `force: open`, also beside `forceClosed` |
//! | `forceClosed` | false | `force: closed` |
//!
//! As there, a 0 means the default, one probe decides, and a good one starts the counts afresh.
//!
//! # What is different
//!
//! - The section is on unless it says otherwise; go-chassis' is off.
//! - The rate is taken when a call fails. Hystrix takes it at the next request, so there it may also
//!   open after a success, the one that makes up the volume.
//! - What a failure is says our classifier. go-chassis counts errors of the transport, and statuses
//!   only where `servicecomb.transport.failure` lists them.
//! - A probe that stays silent fails after a sleep window; the next one comes after another. Hystrix
//!   sends the next one at once.
//! - A cancelled call and a refusal of another layer of ours count nowhere. Hystrix counts a call that its
//!   bulkhead refused as an error.
//! - `cse.isolation` (bulkhead, timeout) and `cse.fallback` are not part of this section: they are
//!   layers of their own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::{BreakerConfig, Force, Window};
use crate::vocab::config::{ConfigError, Ratio, in_range};

/// go-chassis' defaults, which are not those of Netflix' Hystrix.
const VOLUME: u32 = 20;
const PERCENTAGE: u8 = 50;
const SLEEP_MS: u32 = 15_000;

/// Its window: ten buckets of one second.
const WINDOW: Duration = Duration::from_secs(10);

/// A circuit breaker in the words of Hystrix; the [module](self) says what becomes of them.
///
/// A field that is absent takes the value of a block above ([`over`](Self::over)), or the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HystrixConfig {
    /// Whether calls are ever refused. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Refuses all calls. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_open: Option<bool>,
    /// Lets all calls pass. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_closed: Option<bool>,
    /// How long it stays open, in milliseconds: at most 3,600,000; 0 means the default, 15,000.
    #[cfg_attr(feature = "schema", schemars(range(max = 3_600_000)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleep_window_in_milliseconds: Option<u32>,
    /// No percentage is taken over fewer calls: at most 1,000,000; 0 means the default, 20.
    #[cfg_attr(feature = "schema", schemars(range(max = 1_000_000)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_volume_threshold: Option<u32>,
    /// Opens when this many calls of a hundred failed: at most 100; 0 means the default, 50.
    #[cfg_attr(feature = "schema", schemars(range(max = 100)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_threshold_percentage: Option<u8>,
}

// ===== impl HystrixConfig =====

impl HystrixConfig {
    /// This block of a service over that of its role (`Consumer`), as go-chassis joins them: number by
    /// number; but the two `force` flags are those of the service, also where it sets neither.
    #[must_use]
    pub fn over(&self, role: &Self) -> Self {
        let join = |own: Option<u32>, role: Option<u32>| own.filter(|own| *own > 0).or(role);
        let percentage = self.error_threshold_percentage.filter(|own| *own > 0);
        Self {
            enabled: self.enabled.or(role.enabled),
            force_open: self.force_open,
            force_closed: self.force_closed,
            sleep_window_in_milliseconds: join(
                self.sleep_window_in_milliseconds,
                role.sleep_window_in_milliseconds,
            ),
            request_volume_threshold: join(
                self.request_volume_threshold,
                role.request_volume_threshold,
            ),
            error_threshold_percentage: percentage.or(role.error_threshold_percentage),
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// The first value that is out of range, with its field.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sleep = self.sleep_window_in_milliseconds.unwrap_or(0);
        in_range("sleepWindowInMilliseconds", sleep, 0..=3_600_000)?;
        let volume = self.request_volume_threshold.unwrap_or(0);
        in_range("requestVolumeThreshold", volume, 0..=1_000_000)?;
        let percentage = self.error_threshold_percentage.unwrap_or(0);
        in_range("errorThresholdPercentage", percentage, 0..=100)?;
        Ok(())
    }

    fn force(&self) -> Option<Force> {
        if !self.enabled.unwrap_or(true) {
            Some(Force::Closed)
        } else if self.force_open.unwrap_or(false) {
            Some(Force::Open)
        } else {
            self.force_closed.unwrap_or(false).then_some(Force::Closed)
        }
    }
}

impl From<&HystrixConfig> for BreakerConfig {
    fn from(hystrix: &HystrixConfig) -> Self {
        let or = |value: Option<u32>, default| value.filter(|value| *value > 0).unwrap_or(default);
        let percentage = hystrix.error_threshold_percentage.filter(|own| *own > 0);
        let percentage = f64::from(percentage.unwrap_or(PERCENTAGE));
        let sleep = or(hystrix.sleep_window_in_milliseconds, SLEEP_MS);
        let sleep = Duration::from_millis(sleep.into());
        Self {
            // It rounds to the nearest percent before it compares: 49.5 is 50.
            failure_rate: Ratio::new((percentage - 0.5) / 100.0).unwrap_or(Ratio::ONE),
            minimum_calls: or(hystrix.request_volume_threshold, VOLUME),
            window: Window::Time(WINDOW),
            open_time: sleep,
            max_open_time: sleep,
            jitter: Ratio::ZERO,
            probation: sleep,
            force: hystrix.force(),
            ..Self::default()
        }
    }
}
