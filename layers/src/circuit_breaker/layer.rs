//! The layer: its shared state, and the ways to make it.

use std::{sync::Arc, time::Duration};

use failsafe::FailurePolicy;
use fastrand::Rng;
use http::Request;
use parking_lot::Mutex;
use tower_layer::Layer;

use super::{
    CircuitBreaker,
    breaker::{Breaker, MakePolicy},
    config::{BreakerConfig, Window},
    gate::BreakerState,
    handle::BreakerHandle,
    stats::Stats,
};
use crate::vocab::{
    classify::{Classifier, Classify},
    config::{ConfigError, Ratio},
    key::Key,
    keyed::Keyed,
    live::Live,
    metrics::{self, Collect, Registered, Sink},
};

/// Refuses calls to a peer that keeps failing. The [module](super) is the page.
///
/// The breakers belong to the layer: however often [`layer`](Layer::layer) is called (axum does for
/// every connection), all services share them.
#[derive(Clone)]
pub struct CircuitBreakerLayer<C = Classifier> {
    pub(super) shared: Arc<Registered<Shared>>,
    classify: C,
}

/// Makes a [`CircuitBreakerLayer`] step by step.
#[derive(Clone, Default)]
#[must_use]
pub struct CircuitBreakerBuilder {
    config: BreakerConfig,
    policy: Option<MakePolicy>,
    seed: Option<u64>,
}

/// What all clones share.
pub(super) struct Shared {
    pub(super) breakers: Breakers,
    pub(super) config: Live<BreakerConfig>,
    pub(super) stats: Arc<Stats>,
    policy: Option<MakePolicy>,
    seeds: Mutex<Rng>,
}

pub(super) enum Breakers {
    /// One for all calls.
    One(Arc<Breaker>),
    /// One for each key.
    Keyed { key: Key, breakers: Keyed<Breaker> },
}

// ===== impl CircuitBreakerLayer =====

impl CircuitBreakerLayer {
    /// Makes the layer from its options.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: BreakerConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs.
    ///
    /// Open breakers stay open over a change, and what they have seen is kept unless the window has
    /// another shape. `key` and `maxKeys` are read once, here.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<BreakerConfig>) -> Result<Self, ConfigError> {
        Self::build(config, None, None)
    }

    /// Starts with the default options.
    pub fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder::default()
    }

    fn build(
        config: Live<BreakerConfig>,
        policy: Option<MakePolicy>,
        seed: Option<u64>,
    ) -> Result<Self, ConfigError> {
        let config = config.derive(|config| config.validate().map(|()| config.clone()))?;
        let stats = Arc::new(Stats::default());
        let mut seeds = seed.map_or_else(Rng::new, Rng::with_seed);
        let breaker = |name: &str, rng: Rng| {
            Breaker::new(name, config.clone(), policy.as_ref(), stats.clone(), rng)
        };
        let key = config.get().key.clone().unwrap_or_else(Key::global);
        let breakers = if key.is_global() {
            Breakers::One(Arc::new(breaker("", seeds.fork())))
        } else {
            let overflow = breaker("other", seeds.fork());
            Breakers::Keyed {
                key,
                breakers: Keyed::new(config.get().max_keys, overflow),
            }
        };
        let shared = Shared {
            breakers,
            config,
            stats,
            policy,
            seeds: Mutex::new(seeds),
        };
        Ok(Self {
            shared: Arc::new(metrics::register(shared)),
            classify: Classifier,
        })
    }
}

impl<C> CircuitBreakerLayer<C> {
    /// Judges calls by another classifier.
    pub fn classifier<D: Classify>(self, classify: D) -> CircuitBreakerLayer<D> {
        CircuitBreakerLayer {
            shared: self.shared,
            classify,
        }
    }

    /// To watch the breakers and to force them.
    pub fn handle(&self) -> BreakerHandle {
        BreakerHandle::new(self.shared.clone())
    }
}

impl Default for CircuitBreakerLayer {
    fn default() -> Self {
        Self::new(BreakerConfig::default()).expect("the default options are valid")
    }
}

impl<C> std::fmt::Debug for CircuitBreakerLayer<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CircuitBreakerLayer")
            .field("config", &*self.shared.config.get())
            .field("stats", &self.shared.stats.read())
            .finish()
    }
}

impl<S, C: Clone> Layer<S> for CircuitBreakerLayer<C> {
    type Service = CircuitBreaker<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreaker::new(inner, self.shared.clone(), self.classify.clone())
    }
}

// ===== impl Shared =====

impl Shared {
    pub(super) fn breaker_for<B>(&self, request: &Request<B>) -> Arc<Breaker> {
        match &self.breakers {
            Breakers::One(breaker) => breaker.clone(),
            Breakers::Keyed { key, breakers } => {
                let key = key.extract(request);
                breakers.of(&key, Breaker::is_idle, || {
                    let (rng, stats) = (self.seeds.lock().fork(), self.stats.clone());
                    let label = key.label();
                    Breaker::new(label, self.config.clone(), self.policy.as_ref(), stats, rng)
                })
            }
        }
    }

    /// Every breaker there is; with a key, the one that the keys above the cap share comes first.
    pub(super) fn for_each(&self, mut show: impl FnMut(&Arc<Breaker>)) {
        match &self.breakers {
            Breakers::One(breaker) => show(breaker),
            Breakers::Keyed { breakers, .. } => {
                show(breakers.overflow());
                breakers.for_each(|_, breaker| show(breaker));
            }
        }
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let config = self.config.get();
        self.stats.collect(&config.name, out);
        let mut in_state = [0_u32; BreakerState::ALL.len()];
        self.for_each(|breaker| in_state[breaker.gate.state() as usize] += 1);
        for (state, count) in BreakerState::ALL.into_iter().zip(in_state) {
            let labels = [("policy", config.name.as_str()), ("state", state.label())];
            out.gauge(
                "mesh_breakers",
                "Circuit breakers in a state",
                &labels,
                count.into(),
            );
        }
    }
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

    /// How many calls pass in half-open, and must all succeed. Default 1.
    pub fn probes(mut self, probes: u32) -> Self {
        self.config.probes = probes;
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

    /// Seeds the jitter of the open times, for a reproducible run.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn build(self) -> Result<CircuitBreakerLayer, ConfigError> {
        CircuitBreakerLayer::build(self.config.into(), self.policy, self.seed)
    }
}

impl std::fmt::Debug for CircuitBreakerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CircuitBreakerBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
