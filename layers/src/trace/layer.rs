//! The layer.

use std::{fmt, sync::Arc};

use http::Request;
use tower_layer::Layer;
use tracing::Span;

use super::{
    Trace,
    span::{self, Kind},
};
use crate::vocab::{
    classify::{CallKind, Classifier, Classify},
    client_addr::ClientIp,
    trust::Trust,
};

/// Makes a span of each call. The [module](super) is the page.
#[derive(Clone)]
pub struct TraceLayer<C = Classifier> {
    shared: Arc<Shared>,
    classify: C,
}

/// What all clones share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) kind: Kind,
    enabled: bool,
    peer: Option<Box<str>>,
    propagate: bool,
    trust: Trust,
    client: ClientIp,
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
        Self {
            shared: Arc::new(Shared {
                kind,
                enabled: true,
                peer: None,
                propagate: true,
                trust: Trust::None,
                client: ClientIp::default(),
            }),
            classify: Classifier,
        }
    }
}

impl<C> TraceLayer<C> {
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
        self.with(|shared| shared.trust = trust)
    }

    /// How `trust` tells a caller's address. Default: it is the connection's peer.
    #[must_use]
    pub fn client_ip(self, client: ClientIp) -> Self {
        self.with(|shared| shared.client = client)
    }

    /// Whether the trace context of a client's span is written into the request. Default true.
    #[must_use]
    pub fn propagate(self, propagate: bool) -> Self {
        self.with(|shared| shared.propagate = propagate)
    }

    /// Judges calls by another classifier, as far as their statuses say nothing.
    pub fn classifier<D: Classify>(self, classify: D) -> TraceLayer<D> {
        TraceLayer {
            shared: self.shared,
            classify,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::make_mut(&mut self.shared));
        self
    }
}

impl<C> fmt::Debug for TraceLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TraceLayer").field(&self.shared).finish()
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
    /// Whether anybody may listen. Where nobody does, this is one relaxed load.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        tracing::level_enabled!(tracing::Level::INFO) && self.enabled
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
                let trusted = || self.trust.trusts_request(request, &self.client);
                otel::adopt(span, request.headers(), trusted);
            }
            _ if self.propagate => otel::inject(span, request.headers_mut()),
            _ => {}
        }
    }
}
