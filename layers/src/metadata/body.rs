//! The response body: polled in the context of its call.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::around::Around;

pin_project! {
    /// A response body of which every poll is in the context of its call: a stream that a handler
    /// returns makes its calls there.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<B> {
        Inner {
            #[pin]
            inner: B,
            // None around a client.
            around: Option<Around>,
        },
        Empty,
    }
}

// ===== impl ResponseBody =====

impl<B> ResponseBody<B> {
    #[inline]
    pub(super) fn new(inner: B, around: Option<Around>) -> Self {
        let state = State::Inner { inner, around };
        Self { state }
    }

    fn get(&self) -> Option<&B> {
        match &self.state {
            State::Inner { inner, .. } => Some(inner),
            State::Empty => None,
        }
    }
}

/// tonic demands a default body wherever an interceptor wraps a layer of ours.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        let state = State::Empty;
        Self { state }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().state.project() {
            StateProj::Inner { inner, around } => {
                let _entered = around.as_mut().map(Around::entered);
                inner.poll_frame(cx)
            }
            StateProj::Empty => Poll::Ready(None),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.get().is_none_or(Body::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let hint = self.get().map(Body::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
