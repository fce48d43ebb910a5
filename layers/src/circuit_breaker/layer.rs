//! The layer: its shared state, and the ways to make it.

use std::sync::{Arc, OnceLock};

use fastrand::Rng;
use http::Request;
use parking_lot::Mutex;
use tower_layer::Layer;

use super::{
    CircuitBreaker, CircuitBreakerBuilder,
    adaptive::AdaptiveConfig,
    breaker::{Breaker, Extra, MakePolicy},
    config::BreakerConfig,
    handle::BreakerHandle,
    state::BreakerState,
    stats::Stats,
};
use crate::vocab::{
    classify::{CallKind, Classifier, Classify},
    config::ConfigError,
    key::Key,
    keyed::{DEFAULT_CAP, Keyed},
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
    /// In our own words; while off, the one that was in force before.
    pub(super) config: BreakerConfig,
}

/// Makes breakers that share what a layer has one of.
struct Maker {
    stats: Arc<Stats>,
    policy: Option<MakePolicy>,
    seeds: Mutex<Rng>,
}

/// The breakers under one `key`, and of one kind. Only by an edit of the configuration there is ever another, so old ones
/// stay, empty: a list that only grows is read without a lock.
struct Generation {
    key: Key,
    max_keys: usize,
    adaptive: Option<AdaptiveConfig>,
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
    /// another shape. Where `key`, `maxKeys` or the window of `adaptive` change, all breakers are new.
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

    pub(super) fn build(
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
    /// The breaker of a call, and what else there is to do; `None` where there are none.
    #[inline]
    pub(super) fn breaker_for<B>(
        &self,
        call: CallKind,
        request: &Request<B>,
    ) -> Option<(Arc<Breaker>, Extra)> {
        let extra = self.glance()?;
        let current = self.breakers.newest();
        let breaker = match &current.breakers {
            Breakers::One(breaker) => breaker.clone(),
            Breakers::Keyed(breakers) => {
                let key = current.key.extract_for(call, request);
                breakers.of(&key, Breaker::is_idle, || {
                    self.maker.breaker(key.label(), &self.config)
                })
            }
        };
        Some((breaker, extra))
    }

    /// `None` while the layer is off.
    #[inline]
    fn glance(&self) -> Option<Extra> {
        const OFF: u8 = u8::MAX;
        let look = |compiled: &Compiled| {
            self.breakers.renew(&self.config, &self.maker);
            if compiled.on {
                Extra::of(&compiled.config).0
            } else {
                OFF
            }
        };
        let bits = self.glance.bits(&self.config, look);
        (bits != OFF).then_some(Extra(bits))
    }

    /// Whether keys are operations and peers, of which there are dozens, and not of the callers' making:
    /// such a key must not become a label.
    fn has_labels(&self) -> bool {
        let key = &self.breakers.newest().key;
        !key.is_global() && key.default_cap() < DEFAULT_CAP
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.maker.stats
    }

    /// Every breaker there is; with a key, the one that the keys above the cap share comes first.
    pub(super) fn for_each(&self, mut show: impl FnMut(&Arc<Breaker>)) {
        if self.glance().is_none() {
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
        let has_labels = self.has_labels();
        self.for_each(|breaker| {
            let now = breaker.state();
            in_state[now as usize] += 1;
            if has_labels {
                collect_state(name, breaker, now, out);
            }
        });
        for (state, count) in BreakerState::ALL.into_iter().zip(in_state) {
            let labels = [("policy", name), ("state", state.label())];
            let help = "Circuit breakers in a state";
            out.gauge("mesh_breakers", help, &labels, count.into());
        }
    }
}

/// Two series for each key rather than one for each state: closed is neither.
fn collect_state(policy: &str, breaker: &Breaker, now: BreakerState, out: &mut dyn Sink) {
    let is_open = matches!(now, BreakerState::Open | BreakerState::ForcedOpen);
    let states = [
        ("open", is_open),
        ("half_open", now == BreakerState::HalfOpen),
    ];
    for (state, is) in states {
        let labels = [("policy", policy), ("key", &*breaker.key), ("state", state)];
        let help = "Whether the circuit breaker of a key is in a state";
        out.gauge("mesh_breaker_state", help, &labels, f64::from(u8::from(is)));
    }
}

// ===== impl Compiled =====

impl Compiled {
    fn of(config: &Option<BreakerConfig>, previous: Option<&Self>) -> Result<Self, ConfigError> {
        let current = match (config, previous) {
            (Some(config), _) => {
                config.validate()?;
                config.clone().in_our_words()
            }
            (None, Some(was)) => was.config.clone(),
            (None, None) => BreakerConfig::default(),
        };
        Ok(Self {
            on: config.is_some(),
            config: current,
        })
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
            adaptive: current.config.adaptive,
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

    /// Adds another one where the breakers are to be kept by another key, or to be of another kind.
    fn renew(&self, config: &Live<Compiled>, maker: &Maker) {
        let newest = self.newest();
        let current = config.get();
        let (key, max_keys) = (&current.config.key, current.config.max_keys);
        let same = key
            .as_ref()
            .map_or(newest.key.is_global(), |key| *key == newest.key);
        let same_kind = match (&newest.adaptive, &current.config.adaptive) {
            (Some(had), Some(has)) => has.has_the_window_of(had),
            (had, has) => had.is_none() && has.is_none(),
        };
        if same && same_kind && max_keys == newest.max_keys {
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
