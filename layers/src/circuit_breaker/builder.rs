//! Making a layer step by step.

use std::{sync::Arc, time::Duration};

use failsafe::FailurePolicy;

use super::{
    CircuitBreakerLayer,
    adaptive::AdaptiveConfig,
    breaker::MakePolicy,
    config::{BreakerConfig, SlowCall, Window},
};
use crate::vocab::{
    config::{ConfigError, Ratio},
    key::Key,
    live::Live,
};

/// Makes a [`CircuitBreakerLayer`] step by step.
#[derive(Clone, Default)]
#[must_use]
pub struct CircuitBreakerBuilder {
    config: BreakerConfig,
    policy: Option<MakePolicy>,
    seed: Option<u64>,
}

// ===== impl CircuitBreakerBuilder =====

impl CircuitBreakerBuilder {
    /// Opens when this share of the calls in the window failed. Default 50%.
    pub fn failure_rate(mut self, rate: Ratio) -> Self {
        self.config.failure_rate = rate;
        self
    }

    /// Takes no rate over fewer calls. Default 20.
    pub fn minimum_calls(mut self, calls: u32) -> Self {
        self.config.minimum_calls = calls;
        self
    }

    /// What the rate is taken over. Default: the last 10 s.
    pub fn window(mut self, window: Window) -> Self {
        self.config.window = window;
        self
    }

    /// Opens after this many failures without a success in between. Default off.
    pub fn consecutive_failures(mut self, failures: u32) -> Self {
        self.config.consecutive_failures = Some(failures);
        self
    }

    /// Opens when this share of the calls in the window took this long or longer. Default off.
    pub fn slow_calls(mut self, duration: Duration, rate: Ratio) -> Self {
        self.config.slow_call = Some(SlowCall { duration, rate });
        self
    }

    /// How long the breaker stays open the first time (default 5 s), and at most (default 60 s).
    pub fn open_time(mut self, first: Duration, most: Duration) -> Self {
        (self.config.open_time, self.config.max_open_time) = (first, most);
        self
    }

    /// After being closed for this long the next open time is the first again. Default 60 s.
    pub fn stable_time(mut self, time: Duration) -> Self {
        self.config.stable_time = time;
        self
    }

    /// How long to wait for probes before deciding without them. Default 10 s.
    pub fn probation(mut self, time: Duration) -> Self {
        self.config.probation = time;
        self
    }

    /// How much of the open time is added to it at most, at random. Default 50%.
    pub fn jitter(mut self, share: Ratio) -> Self {
        self.config.jitter = share;
        self
    }

    /// How many calls pass in half-open. Default 1.
    pub fn probes(mut self, probes: u32) -> Self {
        self.config.probes = probes;
        self
    }

    /// How many of the probes must succeed. Default: all.
    pub fn success_threshold(mut self, successes: u32) -> Self {
        self.config.success_threshold = Some(successes);
        self
    }

    /// Refuses a growing share of the calls instead of opening and closing. Default off.
    pub fn adaptive(mut self, adaptive: AdaptiveConfig) -> Self {
        self.config.adaptive = Some(adaptive);
        self
    }

    /// One breaker for each of these. Default: one for all calls.
    pub fn key(mut self, key: Key) -> Self {
        self.config.key = Some(key);
        self
    }

    /// The most breakers there can be; further keys share one. Default 1,000.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.config.max_keys = keys;
        self
    }

    /// The label `policy` of the metrics. Default `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Lets a policy of failsafe decide when to open and for how long, in place of `failure_rate`,
    /// `consecutive_failures` and `open_time`. `make` is called once per breaker.
    ///
    /// The gate stays ours: probes, generations, probation. failsafe's own clock is the system's, so
    /// its policies over time do not follow tokio's paused clock.
    ///
    /// ```
    /// use std::time::Duration;
    /// use failsafe::{backoff, failure_policy::consecutive_failures};
    /// use tower_mesh_layers::circuit_breaker::CircuitBreakerLayer;
    ///
    /// let layer = CircuitBreakerLayer::builder()
    ///     .policy(|| consecutive_failures(3, backoff::constant(Duration::from_secs(30))))
    ///     .build()?;
    /// # Ok::<(), tower_mesh_layers::ConfigError>(())
    /// ```
    pub fn policy<P>(mut self, make: impl Fn() -> P + Send + Sync + 'static) -> Self
    where
        P: FailurePolicy + Send + 'static,
    {
        self.policy = Some(Arc::new(move || Box::new(make())));
        self
    }

    /// Seeds the jitter of the open times and the choice of the throttle, for a reproducible run.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range, or would be ignored beside a [`policy`](Self::policy); the error
    /// names it.
    pub fn build(self) -> Result<CircuitBreakerLayer, ConfigError> {
        let ignored = [
            ("slowCall", self.config.slow_call.is_some()),
            ("adaptive", self.config.adaptive.is_some()),
        ];
        if let (Some(_), Some((field, _))) = (&self.policy, ignored.iter().find(|(_, set)| *set)) {
            return Err(ConfigError::new(
                *field,
                "a value",
                "nothing beside a policy",
            ));
        }
        let config = Live::new(Some(self.config));
        CircuitBreakerLayer::build(&config, self.policy, self.seed)
    }
}

impl std::fmt::Debug for CircuitBreakerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CircuitBreakerBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
