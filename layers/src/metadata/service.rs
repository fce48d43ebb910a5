//! The service: read and remove, make current, write.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    ResponseBody, ResponseFuture,
    around::Around,
    layer::{Marks, Shared},
    receive::{self, Received},
    send::send,
};
use crate::vocab::{
    context::{CallContext, Metadata},
    metrics::Registered,
    role::Role,
    trust::is_internal,
};

/// Passes metadata on from the calls that are handled to those that are made. The [module](super) is
/// the page.
#[derive(Clone)]
pub struct PropagateMetadata<S> {
    inner: S,
    shared: Arc<Registered<Shared>>,
    role: Role,
}

// ===== impl PropagateMetadata =====

impl<S> PropagateMetadata<S> {
    pub(super) fn new(inner: S, shared: Arc<Registered<Shared>>, role: Role) -> Self {
        Self {
            inner,
            shared,
            role,
        }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for PropagateMetadata<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let marks = self.shared.marks();
        let mut around = None;
        if marks.is_on() {
            if self.role.enters() {
                around = Some(self.shared.enter(marks, self.role, &mut request));
            }
            if self.role.tells() {
                self.shared.tell(marks, &mut request);
            }
        }
        let entered = around.as_mut().map(Around::entered);
        let future = self.inner.call(request);
        drop(entered);
        ResponseFuture::new(future, around)
    }
}

impl<S: fmt::Debug> fmt::Debug for PropagateMetadata<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PropagateMetadata")
            .field("inner", &self.inner)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

// ===== impl Shared =====

impl Shared {
    /// Takes in what came with a call, and gives what calls inherit that are made while it is handled.
    fn enter<B>(&self, marks: Marks, role: Role, request: &mut Request<B>) -> Around {
        let mut received = Received::Untrusted;
        if marks.has_others() || request.headers().keys().any(is_internal) {
            received = receive::receive(&self.config.get(), &self.stats, request);
            if role.tells() {
                remove_local(request.headers_mut());
            }
        }
        #[cfg(feature = "otel")]
        let trace = match received {
            Received::Trusted(_) if marks.has_trace_context() => {
                super::otel::extract(request.headers()).map(Box::new)
            }
            _ => None,
        };
        let metadata = match received {
            Received::Trusted(metadata) => metadata,
            Received::Untrusted => None,
        };

        // Around a handler nothing is believed but what came: not even what is in the context already,
        // which is that of a client in this very process.
        let replaces = role == Role::Server || metadata.is_some();
        let extensions = request.extensions_mut();
        let ambient = match extensions.get_mut::<CallContext>() {
            Some(context) => {
                if replaces {
                    context.metadata = metadata;
                }
                context.ambient()
            }
            None if metadata.is_some() => {
                let context = CallContext::get_or_insert(extensions);
                context.metadata = metadata;
                context.ambient()
            }
            // No context without need: it is an allocation. What is set in the handler goes here.
            None => {
                let mut ambient = CallContext::current().unwrap_or_default();
                if replaces {
                    ambient.set_metadata(None);
                }
                ambient
            }
        };
        Around {
            ambient,
            #[cfg(feature = "otel")]
            trace,
        }
    }

    /// Writes what the context has, and the constants, into the headers.
    fn tell<B>(&self, marks: Marks, request: &mut Request<B>) {
        #[cfg(feature = "otel")]
        let injected = if marks.has_trace_context() {
            super::otel::inject(request.headers_mut())
        } else {
            Default::default()
        };
        let metadata = outgoing(request);
        if metadata.is_none() && !marks.has_constants() {
            return;
        }
        #[cfg(feature = "otel")]
        let is_written = |name: &_| injected.contains(name);
        #[cfg(not(feature = "otel"))]
        let is_written = |_: &_| false;
        let (config, headers) = (self.config.get(), request.headers_mut());
        send(
            &config,
            &self.stats,
            metadata.as_deref(),
            headers,
            is_written,
        );
    }
}

/// The metadata that a call is made with, in its context from now on.
#[inline]
fn outgoing<B>(request: &mut Request<B>) -> Option<Arc<Metadata>> {
    let extensions = request.extensions_mut();
    match extensions.get_mut::<CallContext>() {
        Some(context) => {
            if context.metadata.is_none() && CallContext::inherits_shared() {
                // Made outside of the handler that it is sent from.
                context.metadata = CallContext::current()?.metadata().cloned();
            }
            context.metadata.clone()
        }
        None if CallContext::inherits_shared() => {
            CallContext::get_or_insert(extensions).metadata.clone()
        }
        None => None,
    }
}

/// In a gateway the request that came is the one that goes, and what was for this hop goes no further.
#[cold]
fn remove_local(headers: &mut HeaderMap) {
    let is_local = |name: &&http::HeaderName| super::dialect::is_local(name);
    let local: Vec<_> = headers.keys().filter(is_local).cloned().collect();
    for name in &local {
        headers.remove(name);
    }
}
