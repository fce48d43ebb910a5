//! The layer: its shared state.

use std::{fmt, sync::Arc};

use http::Request;
use tower_layer::Layer;

use super::{
    MetricsConfig, RequestMetrics,
    operation::{Operation, Side},
};
use crate::vocab::{
    classify::{CallKind, Classifier, Classify},
    config::ConfigError,
    key::Key,
    keyed::Keyed,
    live::{Glance, Live},
    metrics::{self, Collect, Registered, Sink},
    shard::UpDown,
};

/// Counts and times calls by operation. The [module](super) is the page.
#[derive(Clone)]
pub struct MetricsLayer<C = Classifier> {
    shared: Arc<Registered<Shared>>,
    enabled: bool,
    classify: C,
}

/// What all clones share.
pub(super) struct Shared {
    side: Side,
    config: Live<Option<MetricsConfig>>,
    glance: Glance,
    key: Key,
    operations: Keyed<Operation>,
    pub(super) active: UpDown,
}

// ===== impl MetricsLayer =====

impl MetricsLayer {
    /// Around a handler.
    pub fn server() -> Self {
        Self::new(Side::Server)
    }

    /// Around a client of this service.
    pub fn client(service: impl Into<Box<str>>) -> Self {
        Self::new(Side::Client(service.into()))
    }

    fn new(side: Side) -> Self {
        let config = Live::new(Some(MetricsConfig::default()));
        Self {
            shared: Shared::register(side, config),
            enabled: true,
            classify: Classifier,
        }
    }
}

impl<C> MetricsLayer<C> {
    /// Takes its options from these, which may change while it runs, in the place of those it has.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(self, config: Live<MetricsConfig>) -> Result<Self, ConfigError> {
        self.optional(config.some())
    }

    /// Takes its options from these, which may come and go as well: without options nothing is counted.
    /// What was counted stays.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(self, config: Live<Option<MetricsConfig>>) -> Result<Self, ConfigError> {
        let config = config.derive(|config| {
            config.as_ref().map_or(Ok(()), MetricsConfig::validate)?;
            Ok(config.clone())
        })?;
        Ok(Self {
            shared: Shared::register(self.shared.side.clone(), config),
            ..self
        })
    }

    /// How many operations are told apart: 1 to 10,000, or whichever is nearer. Default 100.
    #[must_use]
    pub fn max_operations(self, operations: usize) -> Self {
        let max_operations = operations.clamp(1, MetricsConfig::MOST_OPERATIONS);
        let config = Live::new(MetricsConfig { max_operations });
        self.live(config).expect("it is in range")
    }

    /// Whether anything is counted. Default true.
    #[must_use]
    pub fn enabled(self, enabled: bool) -> Self {
        Self { enabled, ..self }
    }

    /// Judges calls by another classifier, as far as their statuses say nothing.
    pub fn classifier<D: Classify>(self, classify: D) -> MetricsLayer<D> {
        MetricsLayer {
            shared: self.shared,
            enabled: self.enabled,
            classify,
        }
    }

    /// Calls whose response body has not ended.
    pub fn active(&self) -> i64 {
        self.shared.active.sum()
    }
}

impl<C> fmt::Debug for MetricsLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsLayer")
            .field("side", &self.shared.side)
            .field("operations", &self.shared.operations.stats())
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}

impl<S, C: Clone> Layer<S> for MetricsLayer<C> {
    type Service = RequestMetrics<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = self.enabled.then(|| self.shared.clone());
        RequestMetrics::new(inner, shared, self.classify.clone())
    }
}

// ===== impl Shared =====

impl Shared {
    fn register(side: Side, config: Live<Option<MetricsConfig>>) -> Arc<Registered<Self>> {
        let most = config.get().as_ref().map(|config| config.max_operations);
        let most = most.unwrap_or_else(|| MetricsConfig::default().max_operations);
        Arc::new(metrics::register(Self {
            side,
            config,
            glance: Glance::default(),
            key: Key::operation(),
            operations: Keyed::new(most, Operation::overflow()),
            active: UpDown::new(),
        }))
    }

    /// Whether calls are counted.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        let look = |config: &Option<MetricsConfig>| match config {
            // The first call after a change gets here.
            Some(config) => {
                self.operations.set_cap(config.max_operations);
                1
            }
            None => 0,
        };
        self.glance.bits(&self.config, look) != 0
    }

    /// Where a call is counted.
    #[inline]
    pub(super) fn operation<B>(&self, call: CallKind, request: &Request<B>) -> Arc<Operation> {
        let key = self.key.extract_for(call, request);
        // A series that was there is there for good, so no operation ever makes room for another.
        let never_idle = |_: &Operation| false;
        self.operations
            .of(&key, never_idle, || Operation::of(call, request))
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.side, Side::Server)
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let (name, peer) = match &self.side {
            Side::Server => ("http_server_active_requests", None),
            Side::Client(service) => ("http_client_active_requests", Some(&**service)),
        };
        let labels: Vec<_> = peer
            .map(|peer| ("server_address", peer))
            .into_iter()
            .collect();
        let active = self.active.sum() as f64;
        out.gauge(
            name,
            "Calls whose response body has not ended",
            &labels,
            active,
        );
        self.operations.overflow().collect(&self.side, out);
        self.operations
            .for_each(|_, operation| operation.collect(&self.side, out));
    }
}
