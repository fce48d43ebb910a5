//! The layer: its shared state.

use std::{fmt, sync::Arc};

use http::Request;
use tower_layer::Layer;

use super::{
    RequestMetrics,
    operation::{Operation, Side},
};
use crate::vocab::{
    classify::{CallKind, Classifier, Classify},
    key::Key,
    keyed::Keyed,
    metrics::{self, Collect, Registered, Sink},
    shard::UpDown,
};

/// A service has tens of operations, and a metric has 200 series.
const MAX_OPERATIONS: usize = 100;

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
    key: Key,
    operations: Keyed<Operation>,
    pub(super) active: UpDown,
}

// ===== impl MetricsLayer =====

impl MetricsLayer {
    /// Around a handler.
    pub fn server() -> Self {
        Self::new(Side::Server, MAX_OPERATIONS)
    }

    /// Around a client of this service.
    pub fn client(service: impl Into<Box<str>>) -> Self {
        Self::new(Side::Client(service.into()), MAX_OPERATIONS)
    }

    fn new(side: Side, max_operations: usize) -> Self {
        let shared = Shared {
            side,
            key: Key::operation(),
            operations: Keyed::new(max_operations, Operation::overflow()),
            active: UpDown::new(),
        };
        Self {
            shared: Arc::new(metrics::register(shared)),
            enabled: true,
            classify: Classifier,
        }
    }
}

impl<C> MetricsLayer<C> {
    /// How many operations are told apart, at least 1. Default 100.
    #[must_use]
    pub fn max_operations(self, operations: usize) -> Self {
        let side = self.shared.side.clone();
        Self {
            shared: MetricsLayer::new(side, operations).shared,
            ..self
        }
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
