//! A look at what follows a response head, without waiting for it.
//!
//! A gRPC call that fails may send a head first and its status in trailers right behind it, with no
//! message in between. So before a gRPC response is passed up its body is polled, once: trailers that
//! are there already are judged as those of a response without a body. A message commits the call, and
//! so does having to wait: a stream may send its head long before anything else, and whoever called it
//! may have to see that head before the peer goes on.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response that may have been looked into: the peer's own, from its first frame.
    #[derive(Debug)]
    pub struct PeekedBody<B: Body> {
        #[pin]
        inner: B,
        seen: Seen<B::Error>,
    }
}

/// What was seen, and is still to be passed on.
#[derive(Debug)]
enum Seen<E> {
    Nothing,
    Data(Bytes),
    // Large, and rare: no message came before it.
    Trailers(Box<HeaderMap>),
    Error(Box<E>),
    /// There was nothing to see: the body is at its end.
    End,
}

// ===== impl PeekedBody =====

impl<B: Body> PeekedBody<B> {
    /// A body that nobody looked into.
    #[inline]
    pub(super) fn new(inner: B) -> Self {
        Self {
            inner,
            seen: Seen::Nothing,
        }
    }

    /// The trailers, where they were seen.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        match &self.seen {
            Seen::Trailers(trailers) => Some(trailers),
            _ => None,
        }
    }

    /// The same, to change.
    pub(super) fn trailers_mut(&mut self) -> Option<&mut HeaderMap> {
        match &mut self.seen {
            Seen::Trailers(trailers) => Some(trailers),
            _ => None,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> PeekedBody<B> {
    /// Polls the body once. Gives the trailers, where they come first.
    #[inline]
    pub(super) fn peek(&mut self, cx: &mut Context<'_>) -> Option<&HeaderMap> {
        let Poll::Ready(polled) = Pin::new(&mut self.inner).poll_frame(cx) else {
            return None;
        };
        self.seen = match polled {
            None => Seen::End,
            Some(Err(error)) => Seen::Error(Box::new(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Seen::Data(data),
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => Seen::Trailers(Box::new(trailers)),
                    Err(_) => Seen::Nothing, // there is no third kind
                },
            },
        };
        self.trailers()
    }
}

impl<B: Body<Data = Bytes>> Body for PeekedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = match std::mem::replace(this.seen, Seen::Nothing) {
            Seen::Nothing => return this.inner.poll_frame(cx),
            Seen::Data(data) => Ok(Frame::data(data)),
            Seen::Trailers(trailers) => {
                *this.seen = Seen::End;
                Ok(Frame::trailers(*trailers))
            }
            Seen::Error(error) => {
                *this.seen = Seen::End;
                Err(*error)
            }
            Seen::End => {
                *this.seen = Seen::End;
                return Poll::Ready(None);
            }
        };
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        match &self.seen {
            Seen::Nothing => self.inner.is_end_stream(),
            Seen::Data(_) | Seen::Trailers(_) | Seen::Error(_) => false,
            Seen::End => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let ahead = match &self.seen {
            Seen::Nothing | Seen::Error(_) => return hint,
            Seen::Data(data) => data.len() as u64,
            Seen::Trailers(_) | Seen::End => return SizeHint::with_exact(0),
        };
        // As it was before the look: a length that nobody had said is not known now either.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(ahead));
            hint.set_lower(hint.lower().saturating_add(ahead));
        }
        hint
    }
}
