//! The layer: its shared state, and the ways to make it.

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{
    BodyLimit,
    config::{BodyLimitConfig, Compiled, Limits},
    handle::{BodyLimitHandle, BodyLimitStats},
};
use crate::vocab::{
    config::{ByteSize, ConfigError},
    live::{self, Live},
    metrics::{self, Collect, Registered, Sink},
    shard::Counter,
};

/// Bounds how many bytes a request or a response may have. The [module](super) is the page.
#[derive(Clone)]
pub struct BodyLimitLayer {
    seen: Arc<Seen>,
}

/// Makes a [`BodyLimitLayer`] step by step.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct BodyLimitBuilder {
    config: BodyLimitConfig,
}

/// What all clones share.
pub(super) struct Shared {
    pub(super) config: Live<Compiled>,
    pub(super) requests: Counter,
    pub(super) responses: Counter,
}

/// What all clones share, and the limits as they were seen last: a service keeps those that it was made with.
pub(super) struct Seen {
    pub(super) shared: Arc<Registered<Shared>>,
    config: live::Seen<Compiled>,
}

// ===== impl BodyLimitLayer =====

impl BodyLimitLayer {
    /// Makes the layer from its options.
    ///
    /// # Errors
    ///
    /// When there is no limit at all.
    pub fn new(config: BodyLimitConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs. Bodies that are under way keep the limit that they
    /// began with.
    ///
    /// # Errors
    ///
    /// When there is no limit at all. From then on an invalid change is refused.
    pub fn live(config: Live<BodyLimitConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options bodies pass as they are.
    ///
    /// # Errors
    ///
    /// When there is no limit at all. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<BodyLimitConfig>>) -> Result<Self, ConfigError> {
        let shared = metrics::register(Shared {
            config: config.derive(BodyLimitConfig::compile)?,
            requests: Counter::new(),
            responses: Counter::new(),
        });
        Ok(Self {
            seen: Arc::new(Seen::now(Arc::new(shared))),
        })
    }

    /// Starts without a limit.
    pub fn builder() -> BodyLimitBuilder {
        BodyLimitBuilder::default()
    }

    /// To see what was too large.
    pub fn handle(&self) -> BodyLimitHandle {
        BodyLimitHandle::new(self.seen.shared.clone())
    }
}

impl fmt::Debug for BodyLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyLimitLayer")
            .field("limits", &self.seen.shared.config.get().limits)
            .field("stats", &self.seen.shared.stats())
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = BodyLimit<S>;

    fn layer(&self, inner: S) -> BodyLimit<S> {
        let seen = match self.seen.is_outdated() {
            false => self.seen.clone(),
            true => Arc::new(Seen::now(self.seen.shared.clone())),
        };
        BodyLimit::new(inner, seen)
    }
}

// ===== impl Shared =====

impl Shared {
    pub(super) fn stats(&self) -> BodyLimitStats {
        BodyLimitStats {
            requests: self.requests.sum(),
            responses: self.responses.sum(),
        }
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let config = self.config.get();
        let Some(policy) = config.name.as_deref() else {
            return;
        };
        let stats = self.stats();
        for (body, total) in [("request", stats.requests), ("response", stats.responses)] {
            let labels = [("policy", policy), ("body", body)];
            let help = "Bodies that were too large";
            out.counter("mesh_body_limit_exceeded_total", help, &labels, total);
        }
    }
}

// ===== impl Seen =====

impl Seen {
    fn now(shared: Arc<Registered<Shared>>) -> Self {
        let config = live::Seen::now(&shared.config);
        Self { shared, config }
    }

    fn is_outdated(&self) -> bool {
        self.config.still(&self.shared.config).is_none()
    }

    /// The limits as they are now.
    #[inline]
    pub(super) fn limits(&self) -> Limits {
        let live = &self.shared.config;
        match self.config.still(live) {
            Some(config) => config.limits,
            None => live.get().limits,
        }
    }
}

// ===== impl BodyLimitBuilder =====

impl BodyLimitBuilder {
    /// The most bytes of a request. Default: no limit.
    pub fn request(mut self, limit: ByteSize) -> Self {
        self.config.request = Some(limit);
        self
    }

    /// The most bytes of a response. Default: no limit.
    pub fn response(mut self, limit: ByteSize) -> Self {
        self.config.response = Some(limit);
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
    /// When there is no limit at all.
    pub fn build(self) -> Result<BodyLimitLayer, ConfigError> {
        BodyLimitLayer::new(self.config)
    }
}
