//! The layer: its shared state, and the ways to make it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tower_layer::Layer;

use super::{
    Hedge,
    config::{HedgeConfig, HedgeDelay},
    handle::HedgeHandle,
    latency::Latencies,
    policy::Policy,
    stats::Stats,
};
use crate::vocab::{
    body::ReplayLimits,
    budget::Budget,
    classify::{Classifier, Classify},
    config::{ConfigError, Ratio},
    live::{Glance, Live},
    metrics::{self, Collect, Registered, Sink},
    request_match::MatchConfig,
    wheel::Wheel,
};

/// Makes another attempt beside one that is slow. The [module](super) is the page.
///
/// The cap on extra load and the observed latencies belong to the layer: however often
/// [`layer`](Layer::layer) is called, all services share them. So make one layer per peer.
#[derive(Clone)]
pub struct HedgeLayer<C = Classifier> {
    pub(super) shared: Arc<Registered<Shared>>,
    budget: Option<Budget>,
    classify: C,
}

/// Makes a [`HedgeLayer`] step by step.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct HedgeBuilder {
    config: HedgeConfig,
}

/// What all clones share.
pub(super) struct Shared {
    pub(super) policy: Live<Policy>,
    glance: Glance,
    pub(super) limits: ReplayLimits,
    /// How much load may be added.
    pub(super) cap: Budget,
    pub(super) latencies: Latencies,
    /// The delay in ns, where it is fixed.
    fixed: AtomicU64,
    pub(super) wheel: Wheel,
    pub(super) stats: Stats,
}

/// What the beginning of a call needs of the policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlook(u8);

// ===== impl HedgeLayer =====

impl HedgeLayer {
    /// Makes the layer from its options.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: HedgeConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs.
    ///
    /// Attempts that were added stay counted over a change, and so do the observed latencies. A call
    /// that has begun goes on with the options it began with, unless it lasts over two changes.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<HedgeConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options nothing is hedged,
    /// and calls pass untouched.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<HedgeConfig>>) -> Result<Self, ConfigError> {
        let shared = Shared {
            policy: config.derive(Policy::compile)?,
            glance: Glance::default(),
            limits: ReplayLimits::default(),
            cap: Budget::new(),
            latencies: Latencies::new(Instant::now()),
            fixed: AtomicU64::new(0),
            wheel: Wheel::new(),
            stats: Stats::default(),
        };
        Ok(Self {
            shared: Arc::new(metrics::register(shared)),
            budget: None,
            classify: Classifier,
        })
    }

    /// Starts with the default options.
    pub fn builder() -> HedgeBuilder {
        HedgeBuilder::default()
    }
}

impl<C> HedgeLayer<C> {
    /// Draws on another layer's budget as well, as each of its attempts would: that of the retry layer
    /// below, so that both together add no more than it allows, and nothing is hedged while its peer
    /// fails.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Judges answers by another classifier: a failure does not end a call while another attempt is
    /// under way.
    pub fn classifier<D: Classify>(self, classify: D) -> HedgeLayer<D> {
        HedgeLayer {
            shared: self.shared,
            budget: self.budget,
            classify,
        }
    }

    /// To watch the hedges.
    pub fn handle(&self) -> HedgeHandle {
        HedgeHandle::new(self.shared.clone())
    }
}

impl Default for HedgeLayer {
    fn default() -> Self {
        Self::new(HedgeConfig::default()).expect("the default options are valid")
    }
}

impl<C> std::fmt::Debug for HedgeLayer<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HedgeLayer")
            .field("policy", &self.shared.policy.get().name)
            .field("stats", &self.handle().stats())
            .finish()
    }
}

impl<S: Clone, C: Clone> Layer<S> for HedgeLayer<C> {
    type Service = Hedge<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let (shared, budget) = (self.shared.clone(), self.budget.clone());
        Hedge::new(inner, shared, budget, self.classify.clone())
    }
}

// ===== impl Shared =====

impl Shared {
    /// What a call that begins now may come to.
    #[inline]
    pub(super) fn outlook(&self) -> Outlook {
        Outlook(
            self.glance
                .bits(&self.policy, |policy| self.begin(policy).0),
        )
    }

    /// Other options count from now on.
    #[cold]
    fn begin(&self, policy: &Policy) -> Outlook {
        self.limits.set(policy.replay.per_call, policy.replay.total);
        self.cap.set_terms(Some(policy.cap));
        match policy.delay {
            HedgeDelay::Fixed(delay) => self.fixed.store(delay.as_nanos() as u64, Relaxed),
            HedgeDelay::Percentile(_) => self.latencies.expire(),
        }
        Outlook::new(policy)
    }

    /// How long a first attempt is waited for; `None` where that is not known yet.
    #[inline]
    pub(super) fn delay(&self, outlook: Outlook, now: Instant) -> Option<Duration> {
        if !outlook.has_percentile() {
            return Some(Duration::from_nanos(self.fixed.load(Relaxed)));
        }
        self.latencies.percentile(now, || {
            let policy = self.policy.get();
            match policy.delay {
                HedgeDelay::Percentile(share) => (share, policy.min_samples),
                // Changed since the outlook: the next call sees it.
                HedgeDelay::Fixed(_) => (Ratio::ONE, u32::MAX),
            }
        })
    }

    pub(super) fn known_delay(&self) -> Option<Duration> {
        let policy = self.policy.get();
        match policy.delay {
            _ if !policy.on => None,
            HedgeDelay::Fixed(delay) => Some(delay),
            HedgeDelay::Percentile(_) => self.latencies.known(),
        }
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let name = &self.policy.get().name;
        self.stats.collect(name, self.cap.calls(), out);
        let labels = [("policy", name.as_str())];
        if let Some(delay) = self.known_delay() {
            let help = "How long an attempt is waited for before another is made beside it";
            out.gauge(
                "mesh_hedge_delay_seconds",
                help,
                &labels,
                delay.as_secs_f64(),
            );
        }
        let kept = self.limits.kept();
        let help = "Bytes of request bodies that are kept to send them again";
        out.gauge("mesh_hedge_kept_bytes", help, &labels, kept as f64);
    }
}

// ===== impl Outlook =====

impl Outlook {
    const ON: u8 = 1;
    const PERCENTILE: u8 = 2;
    const MATCHES: u8 = 4;

    fn new(policy: &Policy) -> Self {
        if !policy.on {
            return Self(0);
        }
        let percentile = matches!(policy.delay, HedgeDelay::Percentile(_));
        let percentile = u8::from(percentile) * Self::PERCENTILE;
        let matches = u8::from(policy.has_matches()) * Self::MATCHES;
        Self(Self::ON | percentile | matches)
    }

    /// Whether the layer does anything at all.
    #[inline]
    pub(super) fn is_on(self) -> bool {
        self.0 & Self::ON != 0
    }

    /// Whether the delay comes of observed latencies.
    #[inline]
    pub(super) fn has_percentile(self) -> bool {
        self.0 & Self::PERCENTILE != 0
    }

    /// Whether the configuration says of some requests whether they are hedged.
    #[inline]
    pub(super) fn has_matches(self) -> bool {
        self.0 & Self::MATCHES != 0
    }
}

// ===== impl HedgeBuilder =====

impl HedgeBuilder {
    /// How long an attempt is waited for before another is made beside it: a time, or a
    /// [percentile](HedgeDelay::Percentile). Default `p95`.
    pub fn delay(mut self, delay: impl Into<HedgeDelay>) -> Self {
        self.config.delay = delay.into();
        self
    }

    /// How many attempts a call may come to, the first included. Default 2.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.config.max_attempts = attempts;
        self
    }

    /// How many attempts may be added, for each call of the last 10 s. Default 5%.
    pub fn extra_load(mut self, ratio: Ratio) -> Self {
        self.config.extra_load = ratio;
        self
    }

    /// Adds requests that may be sent twice although their method does not say so.
    pub fn idempotent(mut self, requests: MatchConfig) -> Self {
        self.config.idempotent.push(requests);
        self
    }

    /// Hedges these requests and no others; each call of this adds some.
    pub fn only(mut self, requests: MatchConfig) -> Self {
        self.config.only.push(requests);
        self
    }

    /// How many answers a percentile must be taken from. Default 100.
    pub fn min_samples(mut self, samples: u32) -> Self {
        self.config.min_samples = samples;
        self
    }

    /// The label `policy` of its metrics. Default `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn build(self) -> Result<HedgeLayer, ConfigError> {
        HedgeLayer::new(self.config)
    }
}
