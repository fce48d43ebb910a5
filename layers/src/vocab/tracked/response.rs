//! The body of every layer's response.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

pin_project! {
    /// The outermost body of every layer's response: the inner one, or a rendered refusal.
    #[project = ResponseBodyProj]
    #[derive(Debug)]
    #[allow(missing_docs)] // pin-project-lite takes no comment on a pinned field
    pub enum ResponseBody<T> {
        /// The body of the inner service's response.
        Inner {
            #[pin]
            body: T,
        },
        /// The body of a [`Rejection`](crate::Rejection).
        Rejected {
            #[pin]
            body: Full<Bytes>,
        },
    }
}

// ===== impl ResponseBody =====

impl<T> ResponseBody<T> {
    /// Wraps the body of the inner service's response.
    pub fn inner(body: T) -> Self {
        Self::Inner { body }
    }
}

/// tonic demands a default body wherever an interceptor wraps a layer of ours.
impl<T> Default for ResponseBody<T> {
    fn default() -> Self {
        Self::Rejected {
            body: Full::default(),
        }
    }
}

impl<T: Body<Data = Bytes>> Body for ResponseBody<T> {
    type Data = Bytes;
    type Error = T::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, T::Error>>> {
        match self.project() {
            ResponseBodyProj::Inner { body } => body.poll_frame(cx),
            ResponseBodyProj::Rejected { body } => {
                body.poll_frame(cx).map_err(|error| match error {})
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { body } => body.is_end_stream(),
            Self::Rejected { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner { body } => body.size_hint(),
            Self::Rejected { body } => body.size_hint(),
        }
    }
}
