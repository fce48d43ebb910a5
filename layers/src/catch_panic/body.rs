//! The response body: handed on, or ended where it panics.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::layer::{At, Shared};
use crate::vocab::{classify::CallKind, metrics::Registered, transport::BoxError};

pin_project! {
    /// A response body that ends where it panics.
    ///
    /// There the inner body is dropped. A gRPC body then gives trailers with INTERNAL, any other an error: a body that
    /// just ended would look complete.
    pub struct CatchPanicBody<B> {
        // None after a panic.
        #[pin]
        inner: Option<B>,
        call: CallKind,
        // None where panics pass.
        shared: Option<Arc<Registered<Shared>>>,
    }
}

/// The error of a body that panicked. It says nothing of what the panic said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the handler panicked")]
#[non_exhaustive]
pub struct Panicked;

// ===== impl CatchPanicBody =====

impl<B> CatchPanicBody<B> {
    #[inline]
    pub(super) fn new(inner: B, call: CallKind, shared: Option<Arc<Registered<Shared>>>) -> Self {
        Self {
            inner: Some(inner),
            call,
            shared,
        }
    }

    #[inline]
    pub(super) fn passing(inner: B) -> Self {
        Self::new(inner, CallKind::HTTP, None)
    }
}

impl<B> Body for CatchPanicBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let Some(shared) = this.shared else {
            return inner.poll_frame(cx).map_err(Into::into);
        };
        let payload = match catch_unwind(AssertUnwindSafe(|| inner.poll_frame(cx))) {
            Ok(polled) => return polled.map_err(Into::into),
            Err(payload) => payload,
        };
        let rejection = shared.caught(&*payload, At::Body, *this.call);
        // As in the future.
        let dropped = catch_unwind(AssertUnwindSafe(|| this.inner.set(None)));
        if let Err(payload) = dropped {
            shared.caught(&*payload, At::Body, *this.call);
        }
        Poll::Ready(Some(if this.call.is_grpc() {
            let mut trailers = HeaderMap::new();
            rejection.write_grpc_status(&mut trailers);
            Ok(Frame::trailers(trailers))
        } else {
            Err(Panicked.into())
        }))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let hint = self.inner.as_ref().map(Body::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl<B: fmt::Debug> fmt::Debug for CatchPanicBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatchPanicBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
