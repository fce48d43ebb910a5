//! The future: polls in the span.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tracing::Span;

use super::{TraceBody, guard::SpanGuard};
use crate::vocab::{
    classify::{CallKind, Classify},
    context::picked::Traced,
    tracked::{Pending, TrackedFuture},
};

pin_project! {
    /// The future of [`Trace`](super::Trace).
    #[derive(Debug)]
    pub struct ResponseFuture<F, C> {
        // Before the span, so that it is dropped in time to tell it that the call was cancelled.
        #[pin]
        inner: TrackedFuture<F, C, SpanGuard>,
        // None where nobody listens.
        span: Span,
    }
}

// ===== impl ResponseFuture =====

impl<F, C> ResponseFuture<F, C> {
    #[inline]
    pub(super) fn passing(future: F) -> Self {
        Self {
            inner: TrackedFuture::passing(CallKind::HTTP, future),
            span: Span::none(),
        }
    }

    pub(super) fn traced(
        span: Span,
        call: CallKind,
        classify: C,
        pending: Pending<SpanGuard>,
        future: F,
    ) -> Self {
        Self {
            inner: TrackedFuture::begun(call, classify, pending, future),
            span,
        }
    }
}

impl<F, C, B, E> Future for ResponseFuture<F, C>
where
    F: Future<Output = Result<Response<B>, E>>,
    C: Classify,
    B: Body<Data = Bytes>,
    E: 'static,
{
    type Output = Result<Response<TraceBody<B, C>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.span.is_none() {
            let polled = this.inner.poll(cx);
            return polled
                .map_ok(|response| response.map(|body| TraceBody::new(body, Span::none())));
        }
        let polled = {
            let _entered = this.span.enter();
            let _traced = Traced::set(true);
            this.inner.poll(cx)
        };
        if polled.is_pending() {
            return Poll::Pending;
        }
        let span = std::mem::replace(this.span, Span::none());
        polled.map_ok(|response| response.map(|body| TraceBody::new(body, span)))
    }
}
