//! The body of an answer.

use std::{
    fmt, mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::vocab::transport::BoxError;

pin_project! {
    /// The body of an answer: as it comes from the inner service, or what was read of it before and what is to come.
    pub struct AnswerBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<B> {
        Passing { #[pin] inner: B },
        Read { read: Box<Read<B>> },
    }
}

/// What was read of a body.
struct Read<B> {
    data: Bytes,
    then: Then<B>,
}

/// What comes after it.
enum Then<B> {
    Nothing,
    Trailers(HeaderMap),
    Error(BoxError),
    Rest(Pin<Box<B>>),
}

// ===== impl AnswerBody =====

impl<B> AnswerBody<B> {
    /// As it comes.
    #[inline]
    pub(super) fn passing(inner: B) -> Self {
        Self {
            state: State::Passing { inner },
        }
    }

    /// There is nothing to come.
    pub(super) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self::read(data, trailers.map_or(Then::Nothing, Then::Trailers))
    }

    /// There is more to come.
    pub(super) fn with_rest(data: Bytes, rest: Pin<Box<B>>) -> Self {
        Self::read(data, Then::Rest(rest))
    }

    /// It broke off.
    pub(super) fn broken(data: Bytes, error: BoxError) -> Self {
        Self::read(data, Then::Error(error))
    }

    fn read(data: Bytes, then: Then<B>) -> Self {
        let read = Box::new(Read { data, then });
        Self {
            state: State::Read { read },
        }
    }
}

impl<B> Body for AnswerBody<B>
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
        match self.project().state.project() {
            StateProj::Passing { inner } => inner.poll_frame(cx).map_err(Into::into),
            StateProj::Read { read } => read.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Passing { inner } => inner.is_end_stream(),
            State::Read { read } => read.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Passing { inner } => inner.size_hint(),
            State::Read { read } => read.size_hint(),
        }
    }
}

// ===== impl Read =====

impl<B> Read<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.data.is_empty() {
            let data = mem::take(&mut self.data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Then::Rest(rest) = &mut self.then {
            return rest.as_mut().poll_frame(cx).map_err(Into::into);
        }
        Poll::Ready(match mem::replace(&mut self.then, Then::Nothing) {
            Then::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Then::Error(error) => Some(Err(error)),
            Then::Nothing | Then::Rest(_) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty()
            && match &self.then {
                Then::Nothing => true,
                Then::Rest(rest) => rest.is_end_stream(),
                Then::Trailers(_) | Then::Error(_) => false,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.data.len() as u64;
        let rest = match &self.then {
            Then::Nothing => SizeHint::with_exact(0),
            Then::Rest(rest) => rest.size_hint(),
            // NOTE: no exact length: HTTP/1 would send it, and neither trailers nor the error.
            Then::Trailers(_) | Then::Error(_) => SizeHint::default(),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(ahead)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> fmt::Debug for AnswerBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Passing { .. } => "passing",
            State::Read { .. } => "read",
        };
        f.debug_tuple("AnswerBody").field(&state).finish()
    }
}
