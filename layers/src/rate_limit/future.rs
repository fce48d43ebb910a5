//! The future of the rate limit.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::headers::Fields;
use crate::vocab::{classify::CallKind, rejection::Rejection, tracked::ResponseBody};

pin_project! {
    /// The future of [`RateLimit`](super::RateLimit).
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        // Boxed: it is there on refusals, and on all responses only where that was asked for.
        fields: Option<Box<Fields>>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Inner { #[pin] future: F },
        Rejected { rejection: Option<Box<(CallKind, Rejection)>> },
    }
}

// ===== impl ResponseFuture =====

impl<F> ResponseFuture<F> {
    pub(super) fn inner(future: F, fields: Option<Box<Fields>>) -> Self {
        Self {
            state: State::Inner { future },
            fields,
        }
    }

    pub(super) fn rejected(
        call: CallKind,
        rejection: Rejection,
        fields: Option<Box<Fields>>,
    ) -> Self {
        Self {
            state: State::Rejected {
                rejection: Some(Box::new((call, rejection))),
            },
            fields,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.state.project() {
            StateProj::Inner { future } => {
                let polled = future
                    .poll(cx)
                    .map_ok(|response| response.map(ResponseBody::inner));
                match this.fields {
                    None => polled,
                    Some(_) => polled.map_ok(|response| with(this.fields, response)),
                }
            }
            StateProj::Rejected { rejection } => {
                let rejected = rejection.take();
                let (call, rejection) =
                    *rejected.expect("a future must not be polled after it is ready");
                Poll::Ready(Ok(with(this.fields, rejection.into_response(call))))
            }
        }
    }
}

#[cold]
fn with<B>(fields: &mut Option<Box<Fields>>, mut response: Response<B>) -> Response<B> {
    if let Some(fields) = fields.take() {
        fields.append_to(response.headers_mut());
    }
    response
}
