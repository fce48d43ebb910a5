//! The service: a span around the inner one, where anybody listens.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;
use tracing::Span;

use super::{ResponseFuture, TraceBody, guard::SpanGuard, layer::Shared};
use crate::vocab::{
    classify::{CallKind, Classifier, Classify},
    context::picked::Traced,
    tracked::Pending,
};

/// Makes a span of each call. The [module](super) is the page.
#[derive(Clone)]
pub struct Trace<S, C = Classifier> {
    inner: S,
    shared: Arc<Shared>,
    classify: C,
}

// ===== impl Trace =====

impl<S, C> Trace<S, C> {
    pub(super) fn new(inner: S, shared: Arc<Shared>, classify: C) -> Self {
        Self {
            inner,
            shared,
            classify,
        }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, C, ReqB, ResB> Service<Request<ReqB>> for Trace<S, C>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + 'static,
    ReqB: 'static,
    C: Classify,
    ResB: Body<Data = Bytes>,
{
    type Response = Response<TraceBody<ResB, C>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        if self.shared.is_on(&request) {
            let call = CallKind::of(&request);
            let span = self.shared.span(call, &mut request);
            if !span.is_disabled() {
                return self.call_in(span, call, request);
            }
        }
        ResponseFuture::passing(self.inner.call(request))
    }
}

impl<S, C> Trace<S, C> {
    fn call_in<B>(
        &mut self,
        span: Span,
        call: CallKind,
        request: Request<B>,
    ) -> ResponseFuture<S::Future, C>
    where
        S: Service<Request<B>>,
        C: Classify,
    {
        let guard = SpanGuard::new(span.clone(), self.shared.kind, call);
        let mut pending = Pending::of(guard, &request);
        let future = {
            let _entered = span.enter();
            let _traced = Traced::set(true);
            pending.begin();
            self.inner.call(request)
        };
        ResponseFuture::traced(span, call, self.classify.clone(), pending, future)
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Trace<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
