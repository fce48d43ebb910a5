//! The future of a layer that holds a guard for each call, or refuses it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{CallGuard, Pending, ResponseBody, Tracked};
use crate::vocab::{
    classify::{CallKind, Classify},
    rejection::Rejection,
    transport,
};

pin_project! {
    /// The future of a layer that holds a [`CallGuard`] for each call, or refuses it.
    #[derive(Debug)]
    pub struct TrackedFuture<F, C, G>
    where
        G: CallGuard,
    {
        #[pin]
        state: State<F, C, G>,
        call: CallKind,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F, C, G>
    where
        G: CallGuard,
    {
        Inner { #[pin] future: F, pending: Pending<G>, classify: C },
        Passing { #[pin] future: F },
        Rejected { rejection: Option<Rejection> },
    }
}

// ===== impl TrackedFuture =====

impl<F, C, G: CallGuard> TrackedFuture<F, C, G> {
    /// Holds the guard of a call that has [begun](Pending::begin) until the end of its response body.
    #[inline]
    pub fn begun(call: CallKind, classify: C, mut pending: Pending<G>, future: F) -> Self {
        pending.running = false;
        Self {
            state: State::Inner {
                future,
                pending,
                classify,
            },
            call,
        }
    }

    /// A call that nobody holds a guard for: it passes as it is.
    #[inline]
    pub fn passing(call: CallKind, future: F) -> Self {
        Self {
            state: State::Passing { future },
            call,
        }
    }

    /// Refuses the call.
    pub fn rejected(call: CallKind, rejection: Rejection) -> Self {
        Self {
            state: State::Rejected {
                rejection: Some(rejection),
            },
            call,
        }
    }
}

impl<F, C, G, B, E> Future for TrackedFuture<F, C, G>
where
    F: Future<Output = Result<Response<B>, E>>,
    C: Classify,
    G: CallGuard,
    B: Body<Data = Bytes>,
    E: 'static,
{
    type Output = Result<Response<ResponseBody<Tracked<B, C::End, G>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        const POLLED_AGAIN: &str = "a future must not be polled after it is ready";
        let this = self.project();
        match this.state.project() {
            StateProj::Inner {
                future,
                pending,
                classify,
            } => {
                // NOTE: not through `run`, and the answer looked at where it is: to move one is to
                // copy 150 bytes and more.
                pending.running = true;
                let polled = future.poll(cx);
                pending.running = false;
                let open = match &polled {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(response)) => pending.judge(classify, *this.call, response),
                    Poll::Ready(Err(error)) => {
                        let outcome = classify.error(*this.call, transport::diagnose(error));
                        pending.finish(outcome);
                        None
                    }
                };
                polled.map_ok(|response| {
                    response.map(|inner| ResponseBody::inner(Tracked { inner, open }))
                })
            }
            StateProj::Passing { future } => future.poll(cx).map_ok(|response| {
                response.map(|inner| ResponseBody::inner(Tracked { inner, open: None }))
            }),
            StateProj::Rejected { rejection } => {
                let rejection = rejection.take().expect(POLLED_AGAIN);
                Poll::Ready(Ok(rejection.into_response(*this.call)))
            }
        }
    }
}
