//! The response body, which takes its connection back to the pool.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tower_mesh_layers::transport::TransportError;

use super::{
    error,
    lane::{Lane, Speaks},
    pool::Pool,
};

/// The response body of [`HttpEndpoint`](super::HttpEndpoint).
///
/// At its end the connection is free for the next call. A body that is dropped before closes an
/// HTTP/1 connection, since the rest of it is still on the way; it resets an HTTP/2 stream, and the
/// connection lives on.
#[derive(Default)]
pub struct IncomingBody {
    inner: Option<Incoming>,
    /// Until the end has been seen.
    lane: Option<(Lane, Arc<Pool>)>,
}

// ===== impl IncomingBody =====

impl IncomingBody {
    pub(super) fn complete(inner: Incoming) -> Self {
        Self {
            inner: Some(inner),
            lane: None,
        }
    }

    pub(super) fn streaming(inner: Incoming, lane: Lane, pool: Arc<Pool>) -> Self {
        Self {
            inner: Some(inner),
            lane: Some((lane, pool)),
        }
    }

    fn end(&mut self) {
        if let Some((lane, pool)) = self.lane.take() {
            pool.put(lane);
        }
    }

    fn abandon(&mut self) {
        match self.lane.take() {
            Some((lane, pool)) if lane.speaks() == Speaks::Http2 => pool.put(lane),
            Some((lane, pool)) => pool.forget(lane),
            None => {}
        }
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = TransportError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        match ready!(Pin::new(&mut *inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                // Who reads a body of known length need not ask for its end.
                if inner.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(failed)) => {
                self.abandon();
                Poll::Ready(Some(Err(error::of_body(failed))))
            }
            None => {
                self.end();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl fmt::Debug for IncomingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
