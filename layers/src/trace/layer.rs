//! The layer.

use std::{fmt, sync::Arc};

use http::Request;
use tower_layer::Layer;
use tracing::Span;

use super::{
    Trace, TraceConfig,
    config::Compiled,
    span::{self, Kind},
};
use crate::vocab::{
    classify::{CallKind, Classifier, Classify},
    client_addr::ClientIp,
    config::ConfigError,
    live::{Glance, Live},
    trust::Trust,
};

/// Makes a span of each call. The [module](super) is the page.
#[derive(Clone)]
pub struct TraceLayer<C = Classifier> {
    shared: Arc<Shared>,
    classify: C,
}

/// What all clones share.
pub(super) struct Shared {
    pub(super) kind: Kind,
    enabled: bool,
    peer: Option<Box<str>>,
    config: Live<Option<TraceConfig>>,
    compiled: Live<Compiled>,
    glance: Glance,
}

// ===== impl TraceLayer =====

impl TraceLayer {
    /// Around a handler: a span of kind `server` for each call.
    pub fn server() -> Self {
        Self::new(Kind::Server)
    }

    /// Around a client: a span of kind `client` for each call, whatever it takes to answer it.
    pub fn client() -> Self {
        Self::new(Kind::Client)
    }

    /// Inside of a retry layer: a span of kind `client` for each attempt of a call.
    pub fn attempt() -> Self {
        Self::new(Kind::Attempt)
    }

    fn new(kind: Kind) -> Self {
        let config = Live::new(Some(TraceConfig::default()));
        let shared = Shared {
            kind,
            enabled: true,
            peer: None,
            compiled: Shared::compile(&config).expect("the default options are in range"),
            config,
            glance: Glance::default(),
        };
        Self {
            shared: Arc::new(shared),
            classify: Classifier,
        }
    }
}

impl<C> TraceLayer<C> {
    /// Takes its options from these, which may change while it runs, in the place of those it has.
    ///
    /// # Errors
    ///
    /// When an option is refused. From then on an invalid change is refused.
    pub fn live(self, config: Live<TraceConfig>) -> Result<Self, ConfigError> {
        self.optional(config.some())
    }

    /// Takes its options from these, which may come and go as well: without options there are no spans.
    ///
    /// # Errors
    ///
    /// When an option is refused. From then on an invalid change is refused.
    pub fn optional(self, config: Live<Option<TraceConfig>>) -> Result<Self, ConfigError> {
        let compiled = Shared::compile(&config)?;
        Ok(self.with(|shared| {
            shared.config = config;
            shared.compiled = compiled;
        }))
    }

    /// Whether there are spans at all. Default true.
    #[must_use]
    pub fn enabled(self, enabled: bool) -> Self {
        self.with(|shared| shared.enabled = enabled)
    }

    /// The name of the service that is called: `peer.service`. Default none.
    #[must_use]
    pub fn peer(self, service: impl Into<Box<str>>) -> Self {
        self.with(|shared| shared.peer = Some(service.into()))
    }

    /// Whose trace is continued, around a handler; the spans of others' calls are linked to theirs.
    /// Default: nobody's.
    #[must_use]
    pub fn trust(self, trust: Trust) -> Self {
        self.overriding(move |config| config.trust = trust.clone())
    }

    /// How `trust` tells a caller's address. Default: it is the connection's peer.
    #[must_use]
    pub fn client_ip(self, client: ClientIp) -> Self {
        self.overriding(move |config| config.client = client)
    }

    /// Whether the trace context of a client's span is written into the request. Default true.
    #[must_use]
    pub fn propagate(self, propagate: bool) -> Self {
        self.overriding(move |config| config.propagate = propagate)
    }

    /// Judges calls by another classifier, as far as their statuses say nothing.
    pub fn classifier<D: Classify>(self, classify: D) -> TraceLayer<D> {
        TraceLayer {
            shared: self.shared,
            classify,
        }
    }

    /// Sets an option for good; the others stay as live as they are.
    fn overriding(self, change: impl Fn(&mut TraceConfig) + Send + Sync + 'static) -> Self {
        let config = self.shared.config.derive(move |config| {
            let mut config = config.clone();
            config.iter_mut().for_each(&change);
            Ok(config)
        });
        self.optional(config.expect("a copy refuses nothing"))
            .expect("what can be refused is as it was")
    }

    fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::make_mut(&mut self.shared));
        self
    }
}

impl<C> fmt::Debug for TraceLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceLayer")
            .field("kind", &self.shared.kind)
            .field("peer", &self.shared.peer)
            .field("config", &*self.shared.config.get())
            .finish_non_exhaustive()
    }
}

impl<S, C: Clone> Layer<S> for TraceLayer<C> {
    type Service = Trace<S, C>;

    fn layer(&self, inner: S) -> Trace<S, C> {
        Trace::new(inner, self.shared.clone(), self.classify.clone())
    }
}

// ===== impl Shared =====

impl Shared {
    fn compile(config: &Live<Option<TraceConfig>>) -> Result<Live<Compiled>, ConfigError> {
        config.derive(TraceConfig::compile_optional)
    }

    /// Whether a call may have a span. Where nobody listens, this is one relaxed load.
    #[inline]
    pub(super) fn is_on<B>(&self, request: &Request<B>) -> bool {
        const ON: u8 = 1;
        const EXCLUDES: u8 = 2;
        if !tracing::level_enabled!(tracing::Level::INFO) || !self.enabled {
            return false;
        }
        let look = |config: &Compiled| {
            let excludes = if config.exclude.is_some() {
                EXCLUDES
            } else {
                0
            };
            if config.on { ON | excludes } else { 0 }
        };
        match self.glance.bits(&self.compiled, look) {
            0 => false,
            ON => true,
            _ => !self.excludes(request),
        }
    }

    #[cold]
    fn excludes<B>(&self, request: &Request<B>) -> bool {
        let config = self.compiled.get();
        let exclude = config.exclude.as_ref();
        exclude.is_some_and(|exclude| exclude.matches(request))
    }

    /// The span of a call; a disabled one where nobody listens.
    pub(super) fn span<B>(&self, call: CallKind, request: &mut Request<B>) -> Span {
        let span = span::make(self.kind, self.peer.as_deref(), call, request);
        #[cfg(feature = "otel")]
        if !span.is_disabled() {
            self.connect(&span, request);
        }
        span
    }

    /// To the caller's trace, and to that of the next hop.
    #[cfg(feature = "otel")]
    fn connect<B>(&self, span: &Span, request: &mut Request<B>) {
        use super::otel;
        match self.kind {
            Kind::Server => {
                let trusted = || {
                    let config = self.compiled.get();
                    config.trust.trusts_request(request, &config.client)
                };
                otel::adopt(span, request.headers(), trusted);
            }
            _ if self.compiled.get().propagate => otel::inject(span, request.headers_mut()),
            _ => {}
        }
    }
}

/// A glance is at one live value, so a copy that may get another one takes its own.
impl Clone for Shared {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind,
            enabled: self.enabled,
            peer: self.peer.clone(),
            config: self.config.clone(),
            compiled: self.compiled.clone(),
            glance: Glance::default(),
        }
    }
}
