//! The future: the answer, or a refusal at the deadline.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    DeadlineBody, ResponseBody,
    body::{Rest, Watch},
    layer::Handle,
    limit::{self, Limit},
};
use crate::vocab::{
    classify::CallKind,
    context::{Ambient, Covers},
    rejection::Rejection,
    transport::BoxError,
    wheel::WheelTimer,
};

pin_project! {
    /// The future of [`Deadline`](super::Deadline).
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        call: CallKind,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Inner {
            #[pin]
            future: F,
            // Both none where there is no deadline.
            timer: Option<WheelTimer<Handle>>,
            ambient: Option<Ambient>,
            covers: Covers,
            // Boxed: few configure it, and all would have to move it.
            rest: Option<Box<Rest>>,
        },
        Rejected { rejection: Rejection },
        Done,
    }
}

// ===== impl ResponseFuture =====

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn new(
        future: F,
        call: CallKind,
        limit: Option<Limit>,
        ambient: Option<Ambient>,
        shared: &Handle,
    ) -> Self {
        let covers = limit.as_ref().map_or(Covers::Head, |limit| limit.covers);
        let timer = limit.map(|limit| WheelTimer::new(shared.clone(), Some(limit.deadline)));
        Self {
            state: State::Inner {
                future,
                timer,
                ambient,
                covers,
                rest: None,
            },
            call,
        }
    }

    /// A call whose head or body has a limit of its own.
    #[cold]
    pub(super) fn in_phases(
        future: F,
        call: CallKind,
        limit: Option<Limit>,
        ambient: Option<Ambient>,
        shared: &Handle,
    ) -> Self {
        let phases = shared.config.get().phases;
        let covers = limit.as_ref().map_or(Covers::Head, |limit| limit.covers);
        let deadline = limit.map(|limit| limit.deadline);
        let timer = WheelTimer::new(shared.clone(), phases.until_head(deadline));
        // Past the head, a deadline that covers no more says nothing.
        let rest = Rest::new(deadline.filter(|_| covers == Covers::Call), phases.idle);
        Self {
            state: State::Inner {
                future,
                timer: Some(timer),
                ambient,
                covers,
                rest: Some(Box::new(rest)),
            },
            call,
        }
    }

    #[cold]
    pub(super) fn rejected(rejection: Rejection, call: CallKind) -> Self {
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
        let mut this = self.project();
        let call = *this.call;
        let StateProj::Inner {
            future,
            timer,
            ambient,
            covers,
            rest,
        } = this.state.as_mut().project()
        else {
            return Poll::Ready(Ok(this.state.refused(call)));
        };
        // First, so that an answer counts that is there at the deadline.
        let entered = ambient.as_mut().map(Ambient::entered);
        let polled = future.poll(cx);
        drop(entered);
        // NOTE: the answer is looked at where it is: to move one is to copy 150 bytes and more.
        let watch = match &polled {
            Poll::Pending => None,
            Poll::Ready(Ok(response)) => match rest.take() {
                None => Watch::from_head(response, call, timer, ambient, *covers),
                Some(rest) => Watch::with_rest(response, call, timer, ambient, rest),
            },
            Poll::Ready(Err(_)) => {
                *timer = None;
                None
            }
        };
        if polled.is_ready() {
            return polled.map_ok(|response| response.map(|body| DeadlineBody::new(body, watch)));
        }
        let Some(timer) = timer else {
            return Poll::Pending;
        };
        ready!(timer.poll_expired(cx));
        timer.owner().stats.before_head.add(1);
        // At once, and not when the caller gets to it: what is below stops working.
        this.state.set(State::Done);
        Poll::Ready(Ok(limit::no_answer().into_response(call)))
    }
}

// ===== impl State =====

impl<F> State<F> {
    #[cold]
    fn refused<B>(mut self: Pin<&mut Self>, call: CallKind) -> Response<ResponseBody<B>> {
        let StateProj::Rejected { rejection } = self.as_mut().project() else {
            panic!("a future must not be polled after it is ready");
        };
        let response = rejection.clone().into_response(call);
        self.set(Self::Done);
        response
    }
}
