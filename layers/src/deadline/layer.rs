//! The layer: its shared state, and the ways to make it.

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{
    Deadline,
    config::{Compiled, DeadlineConfig, Scope, TimeoutHeader},
    header::TimeoutUnit,
    stats::{DeadlineStats, Stats},
};
use crate::vocab::{
    config::ConfigError,
    live::Live,
    metrics::{self, Collect, Registered, Sink},
    role::Role,
    wheel::Wheel,
};

/// Gives calls a deadline, and passes it on. The [module](super) is the page.
#[derive(Clone)]
pub struct DeadlineLayer {
    shared: Handle,
    role: Role,
}

/// Makes a [`DeadlineLayer`] step by step.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct DeadlineBuilder {
    config: DeadlineConfig,
    role: Role,
}

/// What all clones share, as one handle.
#[derive(Clone)]
pub(super) struct Handle(Arc<Registered<Shared>>);

pub(super) struct Shared {
    pub(super) config: Live<Compiled>,
    pub(super) stats: Stats,
    wheel: Wheel,
}

// ===== impl DeadlineLayer =====

impl DeadlineLayer {
    /// Makes the layer from its options, for [`Role::Both`].
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: DeadlineConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs. Calls that are under way keep
    /// the deadline they have.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<DeadlineConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options calls pass untouched.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<DeadlineConfig>>) -> Result<Self, ConfigError> {
        let shared = Shared {
            config: config.derive(DeadlineConfig::compile_optional)?,
            stats: Stats::default(),
            wheel: Wheel::new(),
        };
        Ok(Self {
            shared: Handle(Arc::new(metrics::register(shared))),
            role: Role::Both,
        })
    }

    /// The default options, around a handler.
    pub fn server() -> Self {
        Self::default().role(Role::Server)
    }

    /// The default options, around a client.
    pub fn client() -> Self {
        Self::default().role(Role::Client)
    }

    /// Starts with the default options.
    pub fn builder() -> DeadlineBuilder {
        DeadlineBuilder::default()
    }

    /// Says where the layer stands.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// What was counted so far.
    pub fn stats(&self) -> DeadlineStats {
        self.shared.stats.read()
    }
}

#[cfg(test)]
impl DeadlineLayer {
    pub(super) fn wheel(&self) -> &Wheel {
        &self.shared.wheel
    }
}

impl Default for DeadlineLayer {
    fn default() -> Self {
        Self::new(DeadlineConfig::default()).expect("the default options are in range")
    }
}

impl fmt::Debug for DeadlineLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineLayer")
            .field("role", &self.role)
            .field("timeout", &self.shared.config.get().terms.timeout)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline::new(inner, self.shared.clone(), self.role)
    }
}

// ===== impl Handle =====

impl Deref for Handle {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl AsRef<Wheel> for Handle {
    fn as_ref(&self) -> &Wheel {
        &self.wheel
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        self.stats.collect(&self.config.get().name, out);
    }
}

// ===== impl DeadlineBuilder =====

impl DeadlineBuilder {
    /// How long a call may take. Default: only what the caller says counts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = Some(timeout);
        self
    }

    /// How long the response head may take, where that is less than the call may. Default: none.
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.config.head_timeout = Some(timeout);
        self
    }

    /// How long a reader of the response body may wait for the next frame. Default: none.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.config.idle_timeout = Some(timeout);
        self
    }

    /// What must be over by the deadline. Default: gRPC the whole call, HTTP the response head.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.config.scope = scope;
        self
    }

    /// Reads another header than `grpc-timeout` as well.
    pub fn accept(mut self, header: impl Into<String>, unit: TimeoutUnit) -> Self {
        self.config.accept.push(TimeoutHeader::new(header, unit));
        self
    }

    /// The label `policy` of the metrics. Default `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Where the layer stands. Default anywhere.
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn build(self) -> Result<DeadlineLayer, ConfigError> {
        Ok(DeadlineLayer::new(self.config)?.role(self.role))
    }
}
