//! The layer: its shared state, and the ways to make it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

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
    classify::{CallKind, Classifier, Classify},
    config::{ConfigError, Ratio},
    key::Key,
    keyed::Keyed,
    live::{Glance, Live},
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
    config: Live<Compiled>,
    glance: Glance,
    breakers: Generation,
    maker: Maker,
}

/// A configuration, and whether it is in force.
pub(super) struct Compiled {
    on: bool,
    /// While off, the one that was in force before.
    pub(super) config: BreakerConfig,
}

/// Makes breakers that share what a layer has one of.
struct Maker {
    stats: Arc<Stats>,
    policy: Option<MakePolicy>,
    seeds: Mutex<Rng>,
}

/// The breakers under one `key`. Only by an edit of the configuration there is ever another, so old ones
/// stay, empty: a list that only grows is read without a lock.
struct Generation {
    key: Key,
    max_keys: usize,
    breakers: Breakers,
    next: OnceLock<Box<Self>>,
}

enum Breakers {
    /// One for all calls.
    One(Arc<Breaker>),
    /// One for each key.
    Keyed(Keyed<Breaker>),
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
    /// another shape. Where `key` or `maxKeys` change, all breakers are new.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<BreakerConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options calls pass untouched.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<BreakerConfig>>) -> Result<Self, ConfigError> {
        Self::build(&config, None, None)
    }

    /// Starts with the default options.
    pub fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder::default()
    }

    fn build(
        config: &Live<Option<BreakerConfig>>,
        policy: Option<MakePolicy>,
        seed: Option<u64>,
    ) -> Result<Self, ConfigError> {
        let config = config.derive_with(Compiled::of)?;
        let maker = Maker {
            stats: Arc::new(Stats::default()),
            policy,
            seeds: Mutex::new(seed.map_or_else(Rng::new, Rng::with_seed)),
        };
        let breakers = Generation::new(&config, &maker);
        let shared = Shared {
            config,
            glance: Glance::default(),
            breakers,
            maker,
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
            .field("config", &self.shared.config.get().config)
            .field("stats", &self.shared.stats().read())
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
    /// The breaker of a call; `None` where there are none.
    #[inline]
    pub(super) fn breaker_for<B>(
        &self,
        call: CallKind,
        request: &Request<B>,
    ) -> Option<Arc<Breaker>> {
        if !self.is_on() {
            return None;
        }
        let current = self.breakers.newest();
        Some(match &current.breakers {
            Breakers::One(breaker) => breaker.clone(),
            Breakers::Keyed(breakers) => {
                let key = current.key.extract_for(call, request);
                breakers.of(&key, Breaker::is_idle, || {
                    self.maker.breaker(key.label(), &self.config)
                })
            }
        })
    }

    #[inline]
    fn is_on(&self) -> bool {
        let look = |compiled: &Compiled| {
            self.breakers.renew(&self.config, &self.maker);
            compiled.on.into()
        };
        self.glance.bits(&self.config, look) != 0
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.maker.stats
    }

    /// Every breaker there is; with a key, the one that the keys above the cap share comes first.
    pub(super) fn for_each(&self, mut show: impl FnMut(&Arc<Breaker>)) {
        if !self.is_on() {
            return;
        }
        match &self.breakers.newest().breakers {
            Breakers::One(breaker) => show(breaker),
            Breakers::Keyed(breakers) => {
                show(breakers.overflow());
                breakers.for_each(|_, breaker| show(breaker));
            }
        }
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let compiled = self.config.get();
        let name = compiled.config.name.as_str();
        self.stats().collect(name, out);
        let mut in_state = [0_u32; BreakerState::ALL.len()];
        self.for_each(|breaker| in_state[breaker.gate.state() as usize] += 1);
        for (state, count) in BreakerState::ALL.into_iter().zip(in_state) {
            let labels = [("policy", name), ("state", state.label())];
            let help = "Circuit breakers in a state";
            out.gauge("mesh_breakers", help, &labels, count.into());
        }
    }
}

// ===== impl Compiled =====

impl Compiled {
    fn of(config: &Option<BreakerConfig>, previous: Option<&Self>) -> Result<Self, ConfigError> {
        let off = || previous.map_or_else(BreakerConfig::default, |was| was.config.clone());
        let compiled = Self {
            on: config.is_some(),
            config: config.clone().unwrap_or_else(off),
        };
        compiled.config.validate().map(|()| compiled)
    }
}

// ===== impl Maker =====

impl Maker {
    fn breaker(&self, label: impl Into<Box<str>>, config: &Live<Compiled>) -> Breaker {
        let (rng, stats) = (self.seeds.lock().fork(), self.stats.clone());
        Breaker::new(label, config.clone(), self.policy.as_ref(), stats, rng)
    }
}

// ===== impl Generation =====

impl Generation {
    fn new(config: &Live<Compiled>, maker: &Maker) -> Self {
        let current = config.get();
        let key = current.config.key.clone().unwrap_or_else(Key::global);
        let max_keys = current.config.max_keys;
        let breakers = if key.is_global() {
            Breakers::One(Arc::new(maker.breaker("", config)))
        } else {
            Breakers::Keyed(Keyed::new(max_keys, maker.breaker("other", config)))
        };
        Self {
            key,
            max_keys,
            breakers,
            next: OnceLock::new(),
        }
    }

    #[inline]
    fn newest(&self) -> &Self {
        let mut newest = self;
        while let Some(next) = newest.next.get() {
            newest = next;
        }
        newest
    }

    /// Adds another one where the breakers are to be kept by another key.
    fn renew(&self, config: &Live<Compiled>, maker: &Maker) {
        let newest = self.newest();
        let current = config.get();
        let (key, max_keys) = (&current.config.key, current.config.max_keys);
        let same = key
            .as_ref()
            .map_or(newest.key.is_global(), |key| *key == newest.key);
        if same && max_keys == newest.max_keys {
            return;
        }
        newest
            .next
            .get_or_init(|| Box::new(Self::new(config, maker)));
        if let Breakers::Keyed(breakers) = &newest.breakers {
            breakers.sweep(|_| true);
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
