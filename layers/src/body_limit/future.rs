//! The future: the answer, or the refusal of a request that turned out to be too large.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    LimitedBody, ResponseBody,
    body::{Trip, too_large},
    layer::Shared,
};
use crate::vocab::{
    classify::CallKind, config::ByteSize, metrics::Registered, rejection::Rejection,
    transport::BoxError,
};

pin_project! {
    /// The future of [`BodyLimit`](super::BodyLimit).
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        call: CallKind,
    }
}

/// The limit of the response, and who counts.
pub(super) type ResponseLimit = (ByteSize, Arc<Registered<Shared>>);

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Inner {
            #[pin]
            future: F,
            // Of a request body that is counted.
            trip: Option<Arc<Trip>>,
            response: Option<ResponseLimit>,
        },
        Rejected { rejection: Option<Box<Rejection>> },
    }
}

// ===== impl ResponseFuture =====

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn inner(
        future: F,
        call: CallKind,
        trip: Option<Arc<Trip>>,
        response: Option<ResponseLimit>,
    ) -> Self {
        Self {
            state: State::Inner {
                future,
                trip,
                response,
            },
            call,
        }
    }

    #[cold]
    pub(super) fn rejected(rejection: Rejection, call: CallKind) -> Self {
        let rejection = Some(Box::new(rejection));
        Self {
            state: State::Rejected { rejection },
            call,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let call = *this.call;
        match this.state.project() {
            StateProj::Inner {
                future,
                trip,
                response: limit,
            } => {
                let answer = ready!(future.poll(cx));
                // Whatever the handler made of a body that failed: that was the reason.
                if let Some(trip) = trip.take_if(|trip| trip.is_over()) {
                    return Poll::Ready(Ok(too_large(trip.limit()).into_response(call)));
                }
                let limit = limit.take();
                Poll::Ready(answer.map(|response| {
                    response.map(|body| {
                        ResponseBody::inner(match limit {
                            // Nobody reads the body of an answer to HEAD, whatever it says of its length.
                            Some((limit, shared)) if !call.head => {
                                LimitedBody::response(body, limit, call, shared)
                            }
                            _ => LimitedBody::passing(body),
                        })
                    })
                }))
            }
            StateProj::Rejected { rejection } => {
                let rejection = rejection.take();
                let rejection = rejection.expect("a future must not be polled after it is ready");
                Poll::Ready(Ok(rejection.into_response(call)))
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}
