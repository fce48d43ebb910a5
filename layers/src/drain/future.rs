//! The future: the answer, and whether the connection is to be closed after it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{InFlight, ResponseBody, layer::Shared};
use crate::vocab::{
    classify::{CallKind, Unjudged},
    metrics::Registered,
    rejection::Rejection,
    tracked::{Pending, TrackedFuture},
};

pin_project! {
    /// The future of [`Drain`](super::Drain).
    pub struct ResponseFuture<F> {
        #[pin]
        inner: TrackedFuture<F, Unjudged, InFlight>,
        // Of a call over HTTP/1.
        to_close: Option<Arc<Registered<Shared>>>,
    }
}

// ===== impl ResponseFuture =====

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn counted(
        call: CallKind,
        pending: Pending<InFlight>,
        future: F,
        to_close: Option<Arc<Registered<Shared>>>,
    ) -> Self {
        Self {
            inner: TrackedFuture::begun(call, Unjudged, pending, future),
            to_close,
        }
    }

    #[inline]
    pub(super) fn passing(call: CallKind, future: F) -> Self {
        Self {
            inner: TrackedFuture::passing(call, future),
            to_close: None,
        }
    }

    #[cold]
    pub(super) fn refused(
        call: CallKind,
        rejection: Rejection,
        to_close: Option<Arc<Registered<Shared>>>,
    ) -> Self {
        Self {
            inner: TrackedFuture::rejected(call, rejection),
            to_close,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    E: 'static,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.inner.poll(cx));
        // Asked at the head: it may have been told during the call.
        if this
            .to_close
            .as_ref()
            .is_some_and(|shared| shared.is_told())
            && let Ok(response) = &mut answer
        {
            close(response.headers_mut());
        }
        Poll::Ready(answer)
    }
}

#[cold]
fn close(headers: &mut HeaderMap) {
    // What an upgrade says of its connection stands.
    if !headers.contains_key(header::CONNECTION) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
