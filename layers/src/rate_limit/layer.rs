//! The layer: its shared state, and the ways to make it.

use std::sync::Arc;

use http::Request;
use tokio::time::Instant;
use tower_layer::Layer;

use super::{
    RateLimit,
    config::{Rate, RateLimitConfig, RateLimitHeaders},
    handle::RateLimitHandle,
    limiter::{Admitted, Cell, Limiter, Refused},
};
use crate::vocab::{
    config::ConfigError,
    key::Key,
    keyed::Keyed,
    live::{self, Live},
    metrics::{self, Collect, Registered, Sink},
    shard::Counter,
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
}

/// What all clones share, and the policy as it was seen last: a service keeps the one that it was made with.
pub(super) struct Seen {
    pub(super) shared: Arc<Registered<Shared>>,
    policy: live::Seen<Option<Policy>>,
}

/// A configuration, and the limiter made of it.
pub(super) struct Policy {
    pub(super) config: RateLimitConfig,
    pub(super) limiter: Limiter,
    /// Handed on from policy to policy, for as long as it is kept by the same key.
    pub(super) cells: Arc<Cells>,
}

pub(super) enum Cells {
    /// One for all calls.
    One(Cell),
    /// One for each key.
    Keyed { key: Key, cells: Keyed<Cell> },
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

impl Shared {
    pub(super) fn check<B>(
        &self,
        policy: &Policy,
        request: &Request<B>,
    ) -> Result<Admitted, Refused> {
        let checked = policy.check(request);
        match checked {
            Ok(_) => self.admitted.add(1),
            Err(_) => self.refused.add(1),
        }
        checked
    }
}

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
        if let Cells::Keyed { cells, .. } = &*policy.cells {
            let (labels, stats) = ([("policy", name)], cells.stats());
            out.gauge(
                "mesh_rate_limit_keys",
                "Keys that have a limit",
                &labels,
                stats.len as f64,
            );
            let help = "Calls that shared the limit of the keys above the cap";
            let total = stats.overflowed;
            out.counter("mesh_rate_limit_overflowed_total", help, &labels, total);
        }
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

// ===== impl Policy =====

impl Policy {
    fn new(config: &RateLimitConfig, previous: Option<&Self>) -> Result<Self, ConfigError> {
        config.validate()?;
        let previous = previous.filter(|previous| previous.config.shares_cells_with(config));
        let limiter = previous.map(|previous| &previous.limiter);
        Ok(Self {
            config: config.clone(),
            limiter: Limiter::new(config.rate, config.burst(), limiter, Instant::now()),
            cells: previous.map_or_else(
                || Arc::new(Cells::new(config)),
                |previous| previous.cells.clone(),
            ),
        })
    }

    fn check<B>(&self, request: &Request<B>) -> Result<Admitted, Refused> {
        match &*self.cells {
            Cells::One(cell) => self.limiter.check(cell),
            Cells::Keyed { key, cells } => {
                let key = key.extract(request);
                let full = |cell: &Cell| self.limiter.is_full(cell);
                self.limiter.check(&cells.of(&key, full, Cell::default))
            }
        }
    }
}

// ===== impl Cells =====

impl Cells {
    fn new(config: &RateLimitConfig) -> Self {
        if config.key.is_global() {
            return Self::One(Cell::default());
        }
        Self::Keyed {
            key: config.key.clone(),
            cells: Keyed::new(config.most_keys(), Cell::default()),
        }
    }
}

// ===== impl RateLimitBuilder =====

impl RateLimitBuilder {
    /// How many calls may come at once after a pause. Default: as many as the rate names.
    pub fn burst(mut self, calls: u32) -> Self {
        self.config.burst = Some(calls);
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
