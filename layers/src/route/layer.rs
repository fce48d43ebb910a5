//! The layer, and the ways to make it.

use std::sync::Arc;

use tower_layer::Layer;

use super::{
    Route,
    config::{RouteConfig, RuleConfig},
    handle::RouteHandle,
    routes::Routes,
};
use crate::vocab::{
    config::ConfigError,
    live::Live,
    metrics::{self, Registered},
};

/// Decides which arm of a service each call goes to. The [module](super) is the page.
///
/// The counts belong to the layer: however often [`layer`](Layer::layer) is called, all services
/// share them.
#[derive(Clone)]
pub struct RouteLayer {
    routes: Arc<Registered<Routes>>,
}

/// Makes a [`RouteLayer`] step by step.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct RouteBuilder {
    config: RouteConfig,
    seed: Option<u64>,
}

// ===== impl RouteLayer =====

impl RouteLayer {
    /// Makes the layer from its rules.
    ///
    /// # Errors
    ///
    /// For the first thing that cannot work; the error has its path, such as
    /// `rules[2].matches[0].path.regex`.
    pub fn new(config: RouteConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from rules that may change while it runs.
    ///
    /// Each call is routed by the rules of one moment. Arms that keep their names keep their
    /// counts.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new). From then on an invalid change is refused.
    pub fn live(config: Live<RouteConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from rules that may come and go as well: without them no call is routed.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new). From then on an invalid change is refused.
    pub fn optional(config: Live<Option<RouteConfig>>) -> Result<Self, ConfigError> {
        Self::build(&config, None)
    }

    /// Starts with no rules.
    pub fn builder() -> RouteBuilder {
        RouteBuilder::default()
    }

    fn build(config: &Live<Option<RouteConfig>>, seed: Option<u64>) -> Result<Self, ConfigError> {
        let routes = Routes::new(config, seed, |_| Ok(0))?;
        Ok(Self {
            routes: Arc::new(metrics::register(routes)),
        })
    }

    /// To see where calls go.
    pub fn handle(&self) -> RouteHandle {
        RouteHandle::new(self.routes.clone())
    }
}

impl<S> Layer<S> for RouteLayer {
    type Service = Route<S>;

    fn layer(&self, inner: S) -> Route<S> {
        Route::new(inner, self.routes.clone())
    }
}

impl std::fmt::Debug for RouteLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteLayer")
            .field("stats", &self.routes.stats())
            .finish_non_exhaustive()
    }
}

// ===== impl RouteBuilder =====

impl RouteBuilder {
    /// Adds a rule, behind those that are there.
    pub fn rule(mut self, rule: RuleConfig) -> Self {
        self.config.rules.push(rule);
        self
    }

    /// Draws the same sequence for the same seed: for tests. Takes a lock for every draw.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    ///
    /// As [`RouteLayer::new`].
    pub fn build(self) -> Result<RouteLayer, ConfigError> {
        RouteLayer::build(&Live::new(Some(self.config)), self.seed)
    }
}
