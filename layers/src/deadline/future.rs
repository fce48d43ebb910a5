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
    limit::{self, Limit},
};
use crate::vocab::{
    classify::CallKind, context::Ambient, rejection::Rejection, tracked, transport::BoxError,
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
        Inner { #[pin] future: F, limit: Option<Limit> },
        Rejected { rejection: Rejection },
        Done,
    }
}

// ===== impl ResponseFuture =====

impl<F> ResponseFuture<F> {
    pub(super) fn new(future: F, call: CallKind, limit: Option<Limit>) -> Self {
        Self {
            state: State::Inner { future, limit },
            call,
        }
    }

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
        let rejection = match this.state.as_mut().project() {
            StateProj::Inner {
                future,
                limit: None,
            } => {
                return future
                    .poll(cx)
                    .map_ok(|response| wrap(response, call, None));
            }
            StateProj::Inner {
                future,
                limit: slot @ Some(_),
            } => {
                let limit = slot.as_mut().expect("just matched");
                // First, so that an answer counts that is there at the deadline.
                let entered = limit.ambient.as_mut().map(Ambient::entered);
                let polled = future.poll(cx);
                drop(entered);
                if let Poll::Ready(result) = polled {
                    let limit = slot.take();
                    return Poll::Ready(result.map(|response| wrap(response, call, limit)));
                }
                ready!(limit.timer.poll_expired(cx));
                limit.timer.owner().stats.before_head.add(1);
                limit::no_answer()
            }
            StateProj::Rejected { rejection } => rejection.clone(),
            StateProj::Done => panic!("a future must not be polled after it is ready"),
        };
        // At once, and not when the caller gets to it: what is below stops working.
        this.state.set(State::Done);
        Poll::Ready(Ok(rejection.into_response(call)))
    }
}

/// Lets the deadline go on over the body, where it covers that.
fn wrap<B: Body>(
    response: Response<B>,
    call: CallKind,
    limit: Option<Limit>,
) -> Response<ResponseBody<B>> {
    // Nobody will poll these, and a timer would wake a task for nothing.
    let limit = limit.filter(|_| !call.head && !response.body().is_end_stream());
    response.map(|body| tracked::ResponseBody::inner(DeadlineBody::new(body, call, limit)))
}
