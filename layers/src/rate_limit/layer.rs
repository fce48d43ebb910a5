//! The layer: its shared state, and the ways to make it.

use std::{sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    RateLimit,
    config::{CostRule, RateAlgorithm, RateLimitConfig, RateLimitHeaders},
    handle::RateLimitHandle,
    policy::Policy,
    rate::Rate,
};
use crate::vocab::{
    config::ConfigError,
    histogram::Histogram,
    key::Key,
    live::{self, Live},
    metrics::{self, Collect, Registered, Sink},
    request_match::MatchConfig,
    shard::{Counter, UpDown},
};

/// Refuses calls above a rate. The [module](super) is the page.
///
/// The limits belong to the layer: however often [`layer`](Layer::layer) is called (axum does for
/// every connection), all services share them.
#[derive(Clone)]
pub struct RateLimitLayer {
    seen: Arc<Seen>,
}

/// Makes a [`RateLimitLayer`] step by step.
#[derive(Debug, Clone)]
#[must_use]
pub struct RateLimitBuilder {
    config: RateLimitConfig,
}

/// What all clones share.
pub(super) struct Shared {
    pub(super) policy: Live<Option<Policy>>,
    pub(super) admitted: Counter,
    pub(super) refused: Counter,
    pub(super) waiting: UpDown,
    /// How long those waited that were admitted in the end.
    pub(super) waits: Histogram,
}

/// What all clones share, and the policy as it was seen last: a service keeps the one that it was made with.
pub(super) struct Seen {
    pub(super) shared: Arc<Registered<Shared>>,
    policy: live::Seen<Option<Policy>>,
}

// ===== impl RateLimitLayer =====

impl RateLimitLayer {
    /// Lets so many calls per second pass in the long run.
    pub fn per_second(calls: u32) -> RateLimitBuilder {
        Self::rate(Rate::per_second(calls))
    }

    /// Lets so many calls per minute pass in the long run.
    pub fn per_minute(calls: u32) -> RateLimitBuilder {
        Self::rate(Rate::per_minute(calls))
    }

    /// Lets calls pass at this rate in the long run.
    pub fn rate(rate: Rate) -> RateLimitBuilder {
        RateLimitBuilder {
            config: RateLimitConfig::new(rate),
        }
    }

    /// Makes the layer from its options.
    ///
    /// There is no default: a number that nobody chose would refuse real traffic.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: RateLimitConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs.
    ///
    /// Used tokens stay used over a change: each key keeps `min(new burst, tokens left)`. Where `key` or
    /// `maxKeys` change, the limits start anew.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<RateLimitConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options there is no limit,
    /// calls pass untouched, and used tokens are forgotten.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<RateLimitConfig>>) -> Result<Self, ConfigError> {
        let policy = config.derive_with(|config, previous: Option<&Option<Policy>>| {
            let previous = previous.and_then(Option::as_ref);
            let config = config.as_ref();
            config
                .map(|config| Policy::new(config, previous))
                .transpose()
        })?;
        let shared = metrics::register(Shared {
            policy,
            admitted: Counter::new(),
            refused: Counter::new(),
            waiting: UpDown::new(),
            waits: Histogram::default(),
        });
        Ok(Self {
            seen: Arc::new(Seen::now(Arc::new(shared))),
        })
    }

    /// To see what the limits admit and hold.
    pub fn handle(&self) -> RateLimitHandle {
        RateLimitHandle::new(self.seen.shared.clone())
    }
}

impl std::fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let policy = self.seen.shared.policy.get();
        f.debug_struct("RateLimitLayer")
            .field("config", &policy.as_ref().map(|policy| &policy.config))
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        let seen = match self.seen.policy() {
            Ok(_) => self.seen.clone(),
            Err(_) => Arc::new(Seen::now(self.seen.shared.clone())),
        };
        RateLimit::new(inner, seen)
    }
}

// ===== impl Shared =====

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let policy = self.policy.get();
        let Some(policy) = &*policy else {
            return;
        };
        let name = policy.config.name.as_str();
        for (decision, count) in [("admitted", &self.admitted), ("refused", &self.refused)] {
            let labels = [("policy", name), ("decision", decision)];
            let help = "Calls that rate limits decided on";
            out.counter("mesh_rate_limit_calls_total", help, &labels, count.sum());
        }
        if policy.has_queue() {
            let labels = [("policy", name)];
            out.gauge(
                "mesh_rate_limit_waiting",
                "Calls that wait for their turn under a rate limit",
                &labels,
                self.waiting.sum() as f64,
            );
            out.histogram(
                "mesh_rate_limit_wait_seconds",
                "How long calls waited for their turn under a rate limit",
                &labels,
                &self.waits.snapshot(),
            );
        }
        policy.collect(out);
    }
}

// ===== impl Seen =====

impl Seen {
    fn now(shared: Arc<Registered<Shared>>) -> Self {
        let policy = live::Seen::now(&shared.policy);
        Self { shared, policy }
    }

    /// The policy; or where to read it, if it has changed since.
    #[inline]
    pub(super) fn policy(&self) -> Result<&Option<Policy>, &Live<Option<Policy>>> {
        let live = &self.shared.policy;
        self.policy.still(live).ok_or(live)
    }
}

// ===== impl RateLimitBuilder =====

impl RateLimitBuilder {
    /// How many calls may come at once after a pause. Default: as many as the rate names.
    pub fn burst(mut self, calls: u32) -> Self {
        self.config.burst = Some(calls);
        self
    }

    /// How calls are counted. Default GCRA.
    pub fn algorithm(mut self, algorithm: RateAlgorithm) -> Self {
        self.config.algorithm = algorithm;
        self
    }

    /// How many calls may wait for their turn, and for how long. Default: none.
    pub fn queue(mut self, calls: u32, timeout: Duration) -> Self {
        (self.config.queue, self.config.queue_timeout) = (calls, timeout);
        self
    }

    /// The limit is for calls that match this, or another one that is given. Default: for all.
    pub fn matching(mut self, calls: MatchConfig) -> Self {
        self.config.matches.push(calls);
        self
    }

    /// Calls that match this, and nothing that was given before, count as so many. Default: 1.
    pub fn cost(mut self, calls: MatchConfig, cost: u32) -> Self {
        let matches = vec![calls];
        self.config.costs.push(CostRule { matches, cost });
        self
    }

    /// A further limit, with a name of its own: a call has to be within all of them, or is charged to
    /// none.
    pub fn also(mut self, limit: RateLimitConfig) -> Self {
        self.config.also.push(limit);
        self
    }

    /// One limit for each of these. Default: one for all calls.
    pub fn key(mut self, key: Key) -> Self {
        self.config.key = key;
        self
    }

    /// The most limits there can be; further keys share one.
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.config.max_keys = Some(keys);
        self
    }

    /// Which responses carry `RateLimit` headers. Default: refusals.
    pub fn headers(mut self, headers: RateLimitHeaders) -> Self {
        self.config.headers = headers;
        self
    }

    /// The name of the policy in headers and metrics. Default `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn build(self) -> Result<RateLimitLayer, ConfigError> {
        RateLimitLayer::new(self.config)
    }
}
