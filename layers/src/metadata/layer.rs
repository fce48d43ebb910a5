//! The layer: its shared state, and the ways to make it.

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{
    PropagateMetadata,
    config::{Compiled, MetadataConfig},
    dialect::Dialect,
    stats::{MetadataStats, Stats},
};
use crate::vocab::{
    client_addr::ClientIp,
    config::ConfigError,
    live::{Glance, Live},
    metrics::{self, Collect, Registered, Sink},
    role::Role,
    trust::Trust,
};

/// Passes metadata on from the calls that are handled to those that are made. The [module](super) is
/// the page.
#[derive(Clone)]
pub struct MetadataLayer {
    shared: Arc<Registered<Shared>>,
    role: Role,
}

/// Makes a [`MetadataLayer`] step by step.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct MetadataBuilder {
    config: MetadataConfig,
    role: Role,
}

/// What all clones share.
pub(super) struct Shared {
    pub(super) config: Live<Compiled>,
    pub(super) stats: Stats,
    glance: Glance,
}

/// What every call must know of the options.
#[derive(Clone, Copy)]
pub(super) struct Marks(u8);

// ===== impl MetadataLayer =====

impl MetadataLayer {
    /// Makes the layer from its options, for [`Role::Both`]: a gateway's.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: MetadataConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<MetadataConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options calls pass untouched,
    /// whatever headers they have.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<MetadataConfig>>) -> Result<Self, ConfigError> {
        let shared = Shared {
            config: config.derive(MetadataConfig::compile_optional)?,
            stats: Stats::default(),
            glance: Glance::default(),
        };
        Ok(Self {
            shared: Arc::new(metrics::register(shared)),
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
    pub fn builder() -> MetadataBuilder {
        MetadataBuilder::default()
    }

    /// Says where the layer stands.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// What was counted so far.
    pub fn stats(&self) -> MetadataStats {
        self.shared.stats.read()
    }
}

impl Default for MetadataLayer {
    fn default() -> Self {
        Self::new(MetadataConfig::default()).expect("the default options are in range")
    }
}

impl fmt::Debug for MetadataLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataLayer")
            .field("role", &self.role)
            .field("trust", &self.shared.config.get().trust)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for MetadataLayer {
    type Service = PropagateMetadata<S>;

    fn layer(&self, inner: S) -> PropagateMetadata<S> {
        PropagateMetadata::new(inner, self.shared.clone(), self.role)
    }
}

// ===== impl Shared =====

impl Shared {
    #[inline]
    pub(super) fn marks(&self) -> Marks {
        Marks(self.glance.bits(&self.config, |config| Marks::of(config).0))
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        self.stats.collect(&self.config.get().name, out);
    }
}

// ===== impl Marks =====

impl Marks {
    const ON: u8 = 1;
    const OTHERS: u8 = 2;
    const CONSTANTS: u8 = 4;
    const TRACE_CONTEXT: u8 = 8;

    fn of(config: &Compiled) -> Self {
        let mark = |bit: u8, holds: bool| if holds { bit } else { 0 };
        Self(
            mark(Self::ON, config.on)
                | mark(Self::OTHERS, !config.propagate.is_empty())
                | mark(Self::CONSTANTS, !config.constants.is_empty())
                | mark(Self::TRACE_CONTEXT, config.trace_context),
        )
    }

    /// Whether there are options at all.
    #[inline]
    pub(super) fn is_on(self) -> bool {
        self.0 & Self::ON != 0
    }

    /// Whether other headers are passed on than those that are known to be the mesh's.
    #[inline]
    pub(super) fn has_others(self) -> bool {
        self.0 & Self::OTHERS != 0
    }

    /// Whether traces go on.
    #[cfg(feature = "otel")]
    #[inline]
    pub(super) fn has_trace_context(self) -> bool {
        self.0 & Self::TRACE_CONTEXT != 0
    }

    /// Whether there are entries for each call.
    #[inline]
    pub(super) fn has_constants(self) -> bool {
        self.0 & Self::CONSTANTS != 0
    }
}

// ===== impl MetadataBuilder =====

impl MetadataBuilder {
    /// Whose headers are believed. Default nobody's.
    pub fn trust(mut self, trust: Trust) -> Self {
        self.config.trust = trust;
        self
    }

    /// How the address of a caller is told: behind so many trusted proxies. Default none.
    pub fn behind(mut self, trusted_hops: usize) -> Self {
        self.config.client = ClientIp::behind(trusted_hops);
        self
    }

    /// How callers may spell metadata; where two of them have a key, the first one counts. Default
    /// kratos.
    pub fn accept(mut self, dialects: impl IntoIterator<Item = Dialect>) -> Self {
        self.config.accept = dialects.into_iter().collect();
        self
    }

    /// How metadata is spelt for those that are called. Default kratos.
    pub fn send(mut self, dialects: impl IntoIterator<Item = Dialect>) -> Self {
        self.config.send = dialects.into_iter().collect();
        self
    }

    /// Passes another header on as well: `x-tenant`, `x-app-*`.
    pub fn propagate(mut self, header: impl Into<String>) -> Self {
        self.config.propagate.push(header.into());
        self
    }

    /// Whether `traceparent`, `tracestate` and `baggage` are passed on. Default true.
    pub fn trace_context(mut self, on: bool) -> Self {
        self.config.trace_context = on;
        self
    }

    /// An entry that each call gets which has none of that key, for the whole chain.
    pub fn global(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.global.insert(key.into(), value.into());
        self
    }

    /// An entry that each call gets which has none of that key, for the next hop.
    pub fn local(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.local.insert(key.into(), value.into());
        self
    }

    /// The most entries of a call. Default 64.
    pub fn max_entries(mut self, entries: usize) -> Self {
        self.config.max_entries = entries;
        self
    }

    /// The most bytes of all keys and values of a call. Default 8,192.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.config.max_bytes = bytes;
        self
    }

    /// The longest key in bytes. Default 128.
    pub fn max_key_length(mut self, bytes: usize) -> Self {
        self.config.max_key_length = bytes;
        self
    }

    /// The label `policy` of the metrics. Default `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Where the layer stands. Default both: a gateway's.
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn build(self) -> Result<MetadataLayer, ConfigError> {
        Ok(MetadataLayer::new(self.config)?.role(self.role))
    }
}
