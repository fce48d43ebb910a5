//! The future of the rate limit.
//!
//! ```text
//!   Queued ──► its turn ──► Inner ──► answer
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::{headers::Fields, policy::InLine};
use crate::vocab::{classify::CallKind, later::Later, rejection::Rejection, tracked::ResponseBody};

pin_project! {
    /// The future of [`RateLimit`](super::RateLimit).
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        // Boxed: it is there on refusals, and on all responses only where that was asked for.
        fields: Option<Box<Fields>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Inner { #[pin] future: F },
        Queued { queued: Box<Queued<dyn Later<F> + Send>> },
        Rejected { rejection: Option<Box<(CallKind, Rejection)>> },
    }
}

/// A call that waits for its turn.
struct Queued<C: ?Sized> {
    line: InLine,
    sleep: Pin<Box<Sleep>>,
    later: C,
}

// ===== impl ResponseFuture =====

impl<F> ResponseFuture<F> {
    pub(super) fn inner(future: F, fields: Option<Box<Fields>>) -> Self {
        Self {
            state: State::Inner { future },
            fields,
        }
    }

    pub(super) fn queued(
        line: InLine,
        later: impl Later<F> + Send + 'static,
        fields: Option<Box<Fields>>,
    ) -> Self {
        let sleep = Box::pin(line.sleep());
        let queued = Box::new(Queued { line, sleep, later });
        Self {
            state: State::Queued { queued },
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
        let mut this = self.project();
        if let StateProj::Queued { queued } = this.state.as_mut().project() {
            ready!(queued.sleep.as_mut().poll(cx));
            queued.line.serve();
            let future = queued.later.call();
            this.state.set(State::Inner { future });
        }
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
            StateProj::Queued { .. } => unreachable!("it was its turn"),
            StateProj::Rejected { rejection } => {
                let rejected = rejection.take();
                let (call, rejection) =
                    *rejected.expect("a future must not be polled after it is ready");
                Poll::Ready(Ok(with(this.fields, rejection.into_response(call))))
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("is_queued", &matches!(self.state, State::Queued { .. }))
            .finish_non_exhaustive()
    }
}

#[cold]
fn with<B>(fields: &mut Option<Box<Fields>>, mut response: Response<B>) -> Response<B> {
    if let Some(fields) = fields.take() {
        fields.append_to(response.headers_mut());
    }
    response
}
