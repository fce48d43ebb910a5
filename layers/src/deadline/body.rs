//! The response body: handed on, or cut off at the deadline.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{
    layer::Handle,
    limit::{self, Limit},
};
use crate::vocab::{
    classify::CallKind,
    context::{Ambient, Covers},
    transport::{BoxError, TransportError},
    wheel::WheelTimer,
};

pin_project! {
    /// A response body that ends at the deadline of its call.
    ///
    /// At the deadline the inner body is dropped. A gRPC body then gives trailers with
    /// DEADLINE_EXCEEDED, any other an error: a body that just ended would look complete.
    #[derive(Debug)]
    pub struct DeadlineBody<B> {
        #[pin]
        inner: Option<B>,
        timer: Option<WheelTimer<Handle>>,
        ambient: Option<Ambient>,
        is_grpc: bool,
        started: bool,
    }
}

// ===== impl DeadlineBody =====

impl<B> DeadlineBody<B> {
    pub(super) fn new(inner: B, call: CallKind, limit: Option<Limit>) -> Self {
        let mut body = Self {
            inner: Some(inner),
            timer: None,
            ambient: None,
            is_grpc: call.is_grpc(),
            started: false,
        };
        if let Some(Limit {
            timer,
            ambient,
            covers,
        }) = limit
        {
            body.ambient = ambient;
            match (covers, &mut body.ambient) {
                (Covers::Call, _) => body.timer = Some(timer),
                // Calls that are made while the body streams have all the time that it has.
                (Covers::Head, Some(ambient)) => ambient.clear_deadline(),
                (Covers::Head, None) => {}
            }
        }
        body
    }
}

impl<B> Body for DeadlineBody<B>
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
        let entered = this.ambient.as_mut().map(Ambient::entered);
        let polled = inner.poll_frame(cx);
        drop(entered);
        let Some(timer) = this.timer else {
            return polled.map_err(Into::into);
        };
        if let Poll::Ready(frame) = polled {
            let is_data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
            // A body that always has data never gets to the timer. The first frame goes free: most
            // bodies have one, and the clock would cost more than the rest of this.
            let overdue = is_data
                && std::mem::replace(this.started, true)
                && timer
                    .deadline()
                    .is_some_and(|deadline| Instant::now() > deadline);
            if !overdue {
                if !is_data {
                    *this.timer = None;
                }
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
        } else {
            ready!(timer.poll_expired(cx));
        }

        timer.owner().stats.in_body.add(1);
        *this.timer = None;
        // Before the caller gets to it: what is below stops working at once.
        this.inner.set(None);
        Poll::Ready(Some(if *this.is_grpc {
            let mut trailers = HeaderMap::new();
            limit::cut_off().write_grpc_status(&mut trailers);
            Ok(Frame::trailers(trailers))
        } else {
            Err(TransportError::timeout().into())
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
