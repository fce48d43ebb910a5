//! The future: the answer, or one in its place.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    CatchPanicBody, ResponseBody,
    layer::{At, Shared},
};
use crate::vocab::{
    classify::CallKind, metrics::Registered, rejection::Rejection, transport::BoxError,
};

pin_project! {
    /// The future of [`CatchPanic`](super::CatchPanic).
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        call: CallKind,
        // None where panics pass.
        shared: Option<Arc<Registered<Shared>>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Inner { #[pin] future: F },
        Rejected { rejection: Box<Rejection> },
        Done,
    }
}

// ===== impl ResponseFuture =====

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn inner(
        future: F,
        call: CallKind,
        shared: Option<Arc<Registered<Shared>>>,
    ) -> Self {
        Self {
            state: State::Inner { future },
            call,
            shared,
        }
    }

    #[cold]
    pub(super) fn rejected(rejection: Rejection, call: CallKind) -> Self {
        let rejection = Box::new(rejection);
        Self {
            state: State::Rejected { rejection },
            call,
            shared: None,
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
        let mut this = self.project();
        let call = *this.call;
        let StateProj::Inner { future } = this.state.as_mut().project() else {
            return Poll::Ready(Ok(this.state.refused(call)));
        };
        let Some(shared) = this.shared.as_ref() else {
            let polled = future.poll(cx);
            return polled.map_ok(|response| {
                response.map(|body| ResponseBody::inner(CatchPanicBody::passing(body)))
            });
        };
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            Ok(Poll::Ready(Ok(response))) => {
                let shared = this.shared.take();
                Poll::Ready(Ok(response.map(|body| {
                    ResponseBody::inner(CatchPanicBody::new(body, call, shared))
                })))
            }
            Err(payload) => {
                let rejection = shared.caught(&*payload, At::Head, call);
                // At once: what is inside gives back what it holds before the caller hears of it. What is left of a
                // future that has panicked may well panic again.
                let done = AssertUnwindSafe(|| this.state.set(State::Done));
                if let Err(payload) = catch_unwind(done) {
                    shared.caught(&*payload, At::Head, call);
                }
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

// ===== impl State =====

impl<F> State<F> {
    #[cold]
    fn refused<B>(mut self: Pin<&mut Self>, call: CallKind) -> Response<ResponseBody<B>> {
        let StateProj::Rejected { rejection } = self.as_mut().project() else {
            panic!("a future must not be polled after it is ready");
        };
        let response = (**rejection).clone().into_response(call);
        self.set(Self::Done);
        response
    }
}
