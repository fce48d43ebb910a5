//! The future: polls what is below in the context of its call.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{ResponseBody, around::Around};

pin_project! {
    /// The future of [`PropagateMetadata`](super::PropagateMetadata).
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        // None around a client.
        around: Option<Around>,
    }
}

// ===== impl ResponseFuture =====

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn new(future: F, around: Option<Around>) -> Self {
        Self { future, around }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let entered = this.around.as_mut().map(Around::entered);
        let polled = this.future.poll(cx);
        drop(entered);
        // NOTE: the answer is looked at where it is: to move one is to copy 150 bytes and more.
        let around = match &polled {
            // What is at its end is not polled again.
            Poll::Ready(Ok(response)) if !response.body().is_end_stream() => this.around.take(),
            _ => None,
        };
        polled.map_ok(|response| response.map(|body| ResponseBody::new(body, around)))
    }
}
