//! The layer: its shared state, and the ways to make it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tower_layer::Layer;

use super::{
    ConcurrencyLimit, config::ConcurrencyLimitConfig, gates::Gates, handle::ConcurrencyLimitHandle,
    stats::Stats,
};
use crate::vocab::{
    config::ConfigError,
    key::Key,
    live::{self, Live},
    metrics::{self, Collect, Registered, Sink},
    wheel::Wheel,
};

/// Bounds the calls in flight. The [module](super) is the page.
///
/// The limits belong to the layer: however often [`layer`](Layer::layer) is called (axum does for
/// every connection), all services share them.
#[derive(Clone)]
pub struct ConcurrencyLimitLayer {
    seen: Arc<Seen>,
}

/// Makes a [`ConcurrencyLimitLayer`] step by step.
#[derive(Debug, Clone)]
#[must_use]
pub struct ConcurrencyLimitBuilder {
    config: ConcurrencyLimitConfig,
}

/// What all clones share.
pub(super) struct Shared {
    pub(super) policy: Live<Option<Policy>>,
    pub(super) stats: Stats,
    pub(super) wheel: Wheel,
    /// The gates that the last policy was put in force at.
    in_force: Mutex<Option<Arc<Gates>>>,
}

/// What all clones share, and the policy as it was seen last.
pub(super) struct Seen {
    pub(super) shared: Arc<Registered<Shared>>,
    policy: live::Seen<Option<Policy>>,
}

/// A configuration, and the gates that are under it.
pub(super) struct Policy {
    pub(super) config: ConcurrencyLimitConfig,
    /// Handed on from policy to policy, for as long as they are kept by the same key.
    pub(super) gates: Arc<Gates>,
}

// ===== impl ConcurrencyLimitLayer =====

impl ConcurrencyLimitLayer {
    /// Makes the layer from its options.
    ///
    /// There is no default: a number that nobody chose would refuse real traffic.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: ConcurrencyLimitConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Starts with this many calls in flight at once, and the defaults for all else.
    pub fn builder(limit: u32) -> ConcurrencyLimitBuilder {
        ConcurrencyLimitBuilder {
            config: ConcurrencyLimitConfig::new(limit),
        }
    }

    /// Makes the layer from options that may change while it runs.
    ///
    /// A higher limit lets those in who wait, at once; a lower one is reached as calls end. Calls that
    /// wait go on doing so, for as long as they were told. Where `key` or `maxKeys` change, the limits
    /// start anew: calls from before are not counted.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<ConcurrencyLimitConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options there is no limit,
    /// those who wait are let in, and calls pass untouched and uncounted.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<ConcurrencyLimitConfig>>) -> Result<Self, ConfigError> {
        let policy = config.derive_with(|config, previous: Option<&Option<Policy>>| {
            let previous = previous.and_then(Option::as_ref);
            let config = config.as_ref();
            config
                .map(|config| Policy::new(config, previous))
                .transpose()
        })?;
        let shared = Arc::new(metrics::register(Shared {
            policy,
            in_force: Mutex::new(None),
            stats: Stats::default(),
            wheel: Wheel::new(),
        }));
        let changed = Arc::downgrade(&shared);
        shared.policy.on_change(move || {
            if let Some(shared) = changed.upgrade() {
                shared.put_in_force();
            }
        });
        // Now, for what is in force from the start, and since a change until here was not noticed.
        shared.put_in_force();
        Ok(Self {
            seen: Arc::new(Seen::now(shared)),
        })
    }

    /// To see what is in flight and what waits.
    pub fn handle(&self) -> ConcurrencyLimitHandle {
        ConcurrencyLimitHandle::new(self.seen.shared.clone())
    }
}

impl std::fmt::Debug for ConcurrencyLimitLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let policy = self.seen.shared.policy.get();
        f.debug_struct("ConcurrencyLimitLayer")
            .field("config", &policy.as_ref().map(|policy| &policy.config))
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = ConcurrencyLimit<S>;

    fn layer(&self, inner: S) -> ConcurrencyLimit<S> {
        let seen = match self.seen.policy() {
            Ok(_) => self.seen.clone(),
            Err(_) => Arc::new(Seen::now(self.seen.shared.clone())),
        };
        ConcurrencyLimit::new(inner, seen)
    }
}

// ===== impl Shared =====

impl Shared {
    /// What waits at the gates must learn of a change at once, as no call may come or end for long.
    fn put_in_force(&self) {
        let mut in_force = self.in_force.lock();
        let policy = self.policy.get();
        match &*policy {
            // Under another key calls go to other gates; who waits at these gets in as their calls end.
            Some(policy) => {
                policy.gates.follow(&policy.config);
                *in_force = Some(policy.gates.clone());
            }
            None => {
                if let Some(gates) = in_force.take() {
                    gates.open();
                }
            }
        }
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        if let Some(policy) = &*self.policy.get() {
            self.stats.collect(policy, out);
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
    fn new(config: &ConcurrencyLimitConfig, previous: Option<&Self>) -> Result<Self, ConfigError> {
        config.validate()?;
        let previous = previous.filter(|previous| previous.config.shares_gates_with(config));
        Ok(Self {
            config: config.clone(),
            gates: previous.map_or_else(
                || Arc::new(Gates::new(config)),
                |previous| previous.gates.clone(),
            ),
        })
    }
}

// ===== impl ConcurrencyLimitBuilder =====

impl ConcurrencyLimitBuilder {
    /// How many calls may wait. Default 0: a call that finds no room is refused at once.
    pub fn queue(mut self, calls: u32) -> Self {
        self.config.queue = calls;
        self
    }

    /// How long a call may wait, at most up to its deadline. Default 1 s.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.config.queue_timeout = timeout;
        self
    }

    /// How long a call may wait once the queue has not been empty for as long as the queue timeout.
    /// Default: no shorter than before.
    pub fn target_delay(mut self, delay: Duration) -> Self {
        self.config.target_delay = Some(delay);
        self
    }

    /// When refused callers are told to come back; zero tells them nothing. Default 1 s.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.config.retry_after = wait;
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

    /// The label `policy` of the metrics. Default `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn build(self) -> Result<ConcurrencyLimitLayer, ConfigError> {
        ConcurrencyLimitLayer::new(self.config)
    }
}
