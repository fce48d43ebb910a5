//! The body: polled in the span, which ends with it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tracing::Span;

use super::guard::SpanGuard;
use crate::vocab::{
    classify::Classify,
    tracked::{ResponseBody, Tracked},
};

pin_project! {
    /// The body of [`Trace`](super::Trace)'s responses.
    pub struct TraceBody<B, C>
    where
        C: Classify,
    {
        #[pin]
        inner: ResponseBody<Tracked<B, C::End, SpanGuard>>,
        // None where nobody listens, and after the end.
        span: Span,
    }
}

// ===== impl TraceBody =====

impl<B, C: Classify> TraceBody<B, C> {
    #[inline]
    pub(super) fn new(inner: ResponseBody<Tracked<B, C::End, SpanGuard>>, span: Span) -> Self {
        let mut body = Self { inner, span };
        if body.is_over() {
            body.span = Span::none();
        }
        body
    }

    fn is_over(&self) -> bool {
        match &self.inner {
            ResponseBody::Inner { body } => body.is_over(),
            ResponseBody::Rejected { .. } => true,
        }
    }
}

impl<B, C> Body for TraceBody<B, C>
where
    B: Body<Data = Bytes>,
    B::Error: 'static,
    C: Classify,
{
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.as_mut().project();
        if this.span.is_none() {
            return this.inner.poll_frame(cx);
        }
        let polled = this.span.in_scope(|| this.inner.poll_frame(cx));
        // NOTE: not when the body is dropped, which may be long after its last frame.
        if self.is_over() {
            *self.project().span = Span::none();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// tonic demands a default body wherever an interceptor wraps a layer of ours.
impl<B, C: Classify> Default for TraceBody<B, C> {
    fn default() -> Self {
        Self {
            inner: ResponseBody::default(),
            span: Span::none(),
        }
    }
}

impl<B, C: Classify> fmt::Debug for TraceBody<B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceBody")
            .field("span", &self.span)
            .finish_non_exhaustive()
    }
}
