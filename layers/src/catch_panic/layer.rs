//! The layer: its shared state, and the ways to make it.

use std::{any::Any, fmt, sync::Arc};

use tower_layer::Layer;

use super::{
    CatchPanic,
    config::CatchPanicConfig,
    handle::{CatchPanicHandle, CatchPanicStats},
    hook,
};
use crate::vocab::{
    classify::CallKind,
    config::ConfigError,
    live::{Glance, Live},
    metrics::{self, Collect, Registered, Sink},
    outcome::{FailureKind, Outcome},
    rejection::{Reason, Rejection},
    shard::Counter,
};

/// Answers for a handler that panics. The [module](super) is the page.
#[derive(Clone)]
pub struct CatchPanicLayer {
    shared: Arc<Registered<Shared>>,
}

/// Makes a [`CatchPanicLayer`] step by step.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct CatchPanicBuilder {
    config: CatchPanicConfig,
}

/// What all clones share.
pub(super) struct Shared {
    config: Live<Option<CatchPanicConfig>>,
    glance: Glance,
    before_head: Counter,
    in_body: Counter,
}

/// When a panic was caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Head,
    Body,
}

// ===== impl CatchPanicLayer =====

impl CatchPanicLayer {
    /// Makes the layer from its options.
    ///
    /// # Errors
    ///
    /// When an option is out of range; the error names it.
    pub fn new(config: CatchPanicConfig) -> Result<Self, ConfigError> {
        Self::live(config.into())
    }

    /// Makes the layer from options that may change while it runs.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn live(config: Live<CatchPanicConfig>) -> Result<Self, ConfigError> {
        Self::optional(config.some())
    }

    /// Makes the layer from options that may come and go as well: without options panics pass.
    ///
    /// # Errors
    ///
    /// When an option is out of range. From then on an invalid change is refused.
    pub fn optional(config: Live<Option<CatchPanicConfig>>) -> Result<Self, ConfigError> {
        let shared = Shared {
            config: config.derive(CatchPanicConfig::compile)?,
            glance: Glance::default(),
            before_head: Counter::new(),
            in_body: Counter::new(),
        };
        Ok(Self {
            shared: Arc::new(metrics::register(shared)),
        })
    }

    /// Starts with the default options.
    pub fn builder() -> CatchPanicBuilder {
        CatchPanicBuilder::default()
    }

    /// To see what was caught.
    pub fn handle(&self) -> CatchPanicHandle {
        CatchPanicHandle::new(self.shared.clone())
    }
}

impl Default for CatchPanicLayer {
    fn default() -> Self {
        Self::new(CatchPanicConfig::default()).expect("the default options are in range")
    }
}

impl fmt::Debug for CatchPanicLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatchPanicLayer")
            .field("config", &*self.shared.config.get())
            .field("stats", &self.shared.stats())
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic::new(inner, self.shared.clone())
    }
}

// ===== impl Shared =====

impl Shared {
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        let is_on = |config: &Option<_>| config.is_some().into();
        self.glance.bits(&self.config, is_on) != 0
    }

    /// Counts and logs a panic, and says what stands in the place of an answer.
    #[cold]
    pub(super) fn caught(&self, payload: &(dyn Any + Send), at: At, call: CallKind) -> Rejection {
        let (counter, at) = match at {
            At::Head => (&self.before_head, "head"),
            At::Body => (&self.in_body, "body"),
        };
        counter.add(1);
        let config = self.config.get();
        // NOTE: that the layer was switched off during the call changes nothing for it.
        let config = config.as_ref();
        let message = hook::text(payload);
        let place = config
            .is_some_and(|config| config.location)
            .then(|| hook::take_place(message))
            .flatten();
        tracing::error!(
            policy = config.map(|config| config.name.as_str()),
            at,
            location = place,
            panic = message.unwrap_or("a payload that is no text"),
            "a handler panicked",
        );
        let kind = if call.is_grpc() {
            FailureKind::Grpc(Reason::Panicked.grpc_code())
        } else {
            FailureKind::Http(Reason::Panicked.http_status())
        };
        let exposed = message.filter(|_| config.is_some_and(|config| config.expose_message));
        let rejection = match exposed {
            Some(message) => {
                let detail = format!("the handler panicked: {message}");
                Rejection::new("catch_panic", Reason::Panicked, detail)
            }
            None => Rejection::new("catch_panic", Reason::Panicked, "the handler panicked"),
        };
        rejection.counts_as(Outcome::Failure(kind))
    }

    pub(super) fn stats(&self) -> CatchPanicStats {
        CatchPanicStats {
            before_head: self.before_head.sum(),
            in_body: self.in_body.sum(),
        }
    }
}

impl Collect for Shared {
    fn collect(&self, out: &mut dyn Sink) {
        let config = self.config.get();
        let Some(config) = &*config else {
            return;
        };
        let stats = self.stats();
        for (at, total) in [("head", stats.before_head), ("body", stats.in_body)] {
            let labels = [("policy", config.name.as_str()), ("at", at)];
            let help = "Panics of handlers that were caught";
            out.counter("mesh_catch_panic_panics_total", help, &labels, total);
        }
    }
}

// ===== impl CatchPanicBuilder =====

impl CatchPanicBuilder {
    /// Whether the log says where a panic was, for which a hook is put in front of the process's panic hook. Default
    /// true.
    pub fn location(mut self, location: bool) -> Self {
        self.config.location = location;
        self
    }

    /// Whether callers are told what a panic says: for development. Default false.
    pub fn expose_message(mut self, expose: bool) -> Self {
        self.config.expose_message = expose;
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
    pub fn build(self) -> Result<CatchPanicLayer, ConfigError> {
        CatchPanicLayer::new(self.config)
    }
}
