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

/// What was seen of a body, and is still to be passed on.
#[derive(Debug)]
pub(super) enum Seen<E> {
    Nothing,
    Data(Bytes),
    // Large, and rare: no message came before it.
    Trailers(Box<HeaderMap>),
    Error(Box<E>),
    /// There was nothing to see: the body is at its end.
    End,
}

// ===== impl Seen =====

impl<E> Seen<E> {
    /// Polls a body once.
    #[inline]
    pub(super) fn of<B>(body: &mut B, cx: &mut Context<'_>) -> Self
    where
        B: Body<Data = Bytes, Error = E> + Unpin,
    {
        let Poll::Ready(polled) = Pin::new(body).poll_frame(cx) else {
            return Self::Nothing;
        };
        match polled {
            None => Self::End,
            Some(Err(error)) => Self::Error(Box::new(error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Self::Data(data),
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => Self::Trailers(Box::new(trailers)),
                    Err(_) => Self::Nothing, // there is no third kind
                },
            },
        }
    }

    /// The trailers, where they came first.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        match self {
            Self::Trailers(trailers) => Some(trailers),
            _ => None,
        }
    }
}

// ===== impl PeekedBody =====

impl<B: Body> PeekedBody<B> {
    /// A body of which this much was seen.
    #[inline]
    pub(super) fn new(inner: B, seen: Seen<B::Error>) -> Self {
        Self { inner, seen }
    }

    /// A body that nobody looked into.
    #[inline]
    pub(super) fn untouched(inner: B) -> Self {
        Self::new(inner, Seen::Nothing)
    }

    /// The trailers to change, where they were seen.
    pub(super) fn trailers_mut(&mut self) -> Option<&mut HeaderMap> {
        match &mut self.seen {
            Seen::Trailers(trailers) => Some(trailers),
            _ => None,
        }
    }

    /// Whether they were.
    pub(super) fn has_trailers(&self) -> bool {
        self.seen.trailers().is_some()
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
