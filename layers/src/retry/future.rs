//! The future: an attempt, a pause, readiness, another attempt.
//!
//! ```text
//!   Attempt ──► answer, committed ───────────────────────────────► done
//!      ▲   └──► failure ──► Pause (backoff, pushback) ──┐
//!      │          └──────── refused unseen ─────────────┤
//!      └────────── ready ◄── Prepare (a clone) ◄────────┘
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::{
    attempts::{Answer, Attempts, Ended, Next},
    peek::{PeekedBody, Seen},
    policy::{Failed, GaveUp, Wait},
};
use crate::vocab::{
    body::Replay,
    classify::Classify,
    context::{EndpointId, picked},
    tracked::ResponseBody,
};

pin_project! {
    /// The future of [`Retry`](super::Retry).
    pub struct ResponseFuture<S, B, C, R>
    where
        S: Service<Request<B>>,
        B: Replay,
        R: Body,
    {
        #[pin]
        state: State<S, S::Future, B, R, S::Error>,
        // `None`: there will be one attempt, and nobody looks at its answer.
        attempts: Option<Attempts<S, C, B>>,
    }
}

pin_project! {
    // What only a second attempt needs is boxed: nearly every call succeeds at once, and should not
    // have to move it.
    #[project = StateProj]
    enum State<S, F, B, R: Body, E> {
        Attempt {
            #[pin]
            future: F,
        },
        Pause {
            pause: Pin<Box<Pause<B, R, E>>>,
        },
        Prepare {
            prepare: Box<Prepare<S, B>>,
        },
        Done,
    }
}

pin_project! {
    struct Pause<B, R: Body, E> {
        #[pin]
        sleep: Sleep,
        // `None` while an attempt that was dropped still holds it.
        body: Option<B>,
        // Passed up if the body does not become free.
        ended: Option<Ended<Response<PeekedBody<R>>, E>>,
    }
}

struct Prepare<S, B> {
    service: S,
    body: Option<B>,
}

// ===== impl ResponseFuture =====

impl<S, B, C, R> ResponseFuture<S, B, C, R>
where
    S: Service<Request<B>>,
    B: Replay,
    R: Body,
{
    /// A call that has one attempt.
    pub(super) fn once(future: S::Future) -> Self {
        Self {
            state: State::Attempt { future },
            attempts: None,
        }
    }

    /// A call by its first attempt, which went to `endpoint`.
    #[inline]
    pub(super) fn first(
        future: S::Future,
        mut attempts: Attempts<S, C, B>,
        endpoint: Option<EndpointId>,
    ) -> Self {
        attempts.picked(endpoint);
        Self {
            state: State::Attempt { future },
            attempts: Some(attempts),
        }
    }
}

impl<S, B, C, R> ResponseFuture<S, B, C, R>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: 'static,
    B: Replay,
    C: Classify,
    R: Body<Data = Bytes> + Unpin,
{
    /// What follows on a failed attempt, `None` for one that is not retried; gives the answer of the
    /// call where it has none.
    #[cold]
    fn attempt_failed(
        self: Pin<&mut Self>,
        mut ended: Ended<Response<PeekedBody<R>>, S::Error>,
        failed: Option<Failed>,
    ) -> Option<Answer<R, S::Error>> {
        let mut this = self.project();
        let attempts = this.attempts.as_mut().expect("more than one attempt");
        let next = match failed {
            None => Next::Done,
            Some(failed) => attempts.after(&failed, &mut ended, || {
                let unsent = match this.state.as_mut().project() {
                    StateProj::Prepare { prepare } => prepare.body.take(),
                    _ => None,
                };
                this.state.set(State::Done);
                unsent
            }),
        };
        match next {
            Next::Done => {
                this.state.set(State::Done);
                return Some(attempts.finish(ended));
            }
            Next::Retry(Wait::Free, body @ Some(_)) => {
                let prepare = prepare(attempts, body);
                this.state.set(State::Prepare { prepare });
            }
            Next::Retry(wait, body) => {
                let pause = Box::pin(Pause {
                    sleep: sleep(wait.duration()),
                    ended: body.is_none().then_some(ended),
                    body,
                });
                this.state.set(State::Pause { pause });
            }
        }
        None
    }

    /// From a pause to the next attempt; gives the answer of the call where there will be none.
    #[cold]
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Answer<R, S::Error>>> {
        let mut this = self.as_mut().project();
        let attempts = this.attempts.as_mut().expect("more than one attempt");
        match this.state.as_mut().project() {
            StateProj::Pause { pause } => {
                let mut pause = pause.as_mut().project();
                ready!(pause.sleep.as_mut().poll(cx));
                let body = pause.body.take().or_else(|| attempts.body());
                if let (None, Some(mut ended)) = (&body, pause.ended.take()) {
                    attempts.gave_up(GaveUp::Body, &mut ended);
                    this.state.set(State::Done);
                    return Poll::Ready(Some(attempts.finish(ended)));
                }
                let prepare = prepare(attempts, body);
                this.state.set(State::Prepare { prepare });
                Poll::Ready(None)
            }
            StateProj::Prepare { prepare } => match prepare.service.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    let body = prepare.body.take().expect("an attempt begins with a body");
                    let request = attempts.request(body);
                    let scope = picked::enter();
                    let future = prepare.service.call(request);
                    attempts.picked(scope.leave());
                    this.state.set(State::Attempt { future });
                    Poll::Ready(None)
                }
                Poll::Ready(Err(error)) => {
                    let mut answer = Err(error);
                    let failed = attempts.judge::<R, _>(&mut answer, &mut Seen::Nothing, cx);
                    let answer = answer.map(|response| response.map(PeekedBody::untouched));
                    Poll::Ready(self.attempt_failed(Ended::Answered(answer), failed))
                }
                Poll::Pending => {
                    ready!(attempts.poll_timeout(cx));
                    let failed = attempts.timed_out(true);
                    Poll::Ready(self.attempt_failed(Ended::TimedOut, failed))
                }
            },
            StateProj::Attempt { .. } | StateProj::Done => panic!("polled after completion"),
        }
    }
}

impl<S, B, C, R> Future for ResponseFuture<S, B, C, R>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: 'static,
    B: Replay,
    C: Classify,
    R: Body<Data = Bytes> + Unpin,
{
    type Output = Answer<R, S::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            let StateProj::Attempt { future } = this.state.as_mut().project() else {
                match ready!(self.as_mut().poll_next(cx)) {
                    Some(answer) => return Poll::Ready(answer),
                    None => continue,
                }
            };
            let Some(attempts) = this.attempts else {
                return future.poll(cx).map_ok(passed_up);
            };
            let scope = picked::enter();
            let mut polled = future.poll(cx);
            attempts.picked(scope.leave());
            let mut seen = Seen::Nothing;
            let failed = match &mut polled {
                Poll::Ready(answer) => match attempts.judge(answer, &mut seen, cx) {
                    None => {
                        let passed_up = |body| ResponseBody::inner(PeekedBody::new(body, seen));
                        return polled.map_ok(|response| response.map(passed_up));
                    }
                    failed => failed,
                },
                Poll::Pending => {
                    ready!(attempts.poll_timeout(cx));
                    attempts.timed_out(false)
                }
            };
            let ended = match polled {
                Poll::Ready(answer) => {
                    let peeked = |body| PeekedBody::new(body, seen);
                    Ended::Answered(answer.map(|response| response.map(peeked)))
                }
                Poll::Pending => Ended::TimedOut,
            };
            if let Some(answer) = self.as_mut().attempt_failed(ended, failed) {
                return Poll::Ready(answer);
            }
        }
    }
}

fn passed_up<R: Body>(response: Response<R>) -> Response<ResponseBody<PeekedBody<R>>> {
    response.map(|body| ResponseBody::inner(PeekedBody::untouched(body)))
}

/// A fresh clone for the next attempt, whose time runs from now.
fn prepare<S: Clone, C, B: Replay>(
    attempts: &mut Attempts<S, C, B>,
    body: Option<B>,
) -> Box<Prepare<S, B>> {
    attempts.advance();
    let service = attempts.core().spare.clone();
    Box::new(Prepare { service, body })
}

impl<S, B, C, R> fmt::Debug for ResponseFuture<S, B, C, R>
where
    S: Service<Request<B>>,
    B: Replay,
    R: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field(
                "state",
                &match self.state {
                    State::Attempt { .. } => "attempt",
                    State::Pause { .. } => "pause",
                    State::Prepare { .. } => "prepare",
                    State::Done => "done",
                },
            )
            .finish_non_exhaustive()
    }
}
