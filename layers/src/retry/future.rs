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
    attempts::{Attempts, Ended, Next},
    policy::{GaveUp, Wait},
};
use crate::vocab::{body::Replay, classify::Classify, context::picked, tracked::ResponseBody};

pin_project! {
    /// The future of [`Retry`](super::Retry).
    pub struct ResponseFuture<S, B, C>
    where
        S: Service<Request<B>>,
        B: Replay,
    {
        #[pin]
        state: State<S, S::Future, S::Response, S::Error>,
        // `None`: there will be one attempt, and nobody looks at its answer.
        attempts: Option<Attempts<S, C, B>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, R, E> {
        Attempt {
            #[pin]
            future: F,
        },
        Pause {
            #[pin]
            sleep: Sleep,
            // Passed up if the next attempt's body does not become free.
            ended: Option<Ended<R, E>>,
        },
        Prepare {
            service: S,
        },
        Done,
    }
}

// ===== impl ResponseFuture =====

impl<S, B, C> ResponseFuture<S, B, C>
where
    S: Service<Request<B>>,
    B: Replay,
{
    pub(super) fn start(
        mut attempts: Option<Attempts<S, C, B>>,
        call: impl FnOnce() -> S::Future,
    ) -> Self {
        let future = match &mut attempts {
            Some(attempts) => {
                let (future, endpoint) = picked::scope(call);
                attempts.picked(endpoint);
                future
            }
            None => call(),
        };
        Self {
            state: State::Attempt { future },
            attempts,
        }
    }
}

impl<S, B, C, R> Future for ResponseFuture<S, B, C>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: 'static,
    B: Replay,
    C: Classify,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(attempts) = this.attempts else {
            return match this.state.as_mut().project() {
                StateProj::Attempt { future } => future
                    .poll(cx)
                    .map_ok(|response| response.map(ResponseBody::inner)),
                _ => panic!("polled after completion"),
            };
        };
        loop {
            let mut ended = match this.state.as_mut().project() {
                StateProj::Attempt { future } => {
                    let (polled, endpoint) = picked::scope(|| future.poll(cx));
                    attempts.picked(endpoint);
                    match polled {
                        Poll::Ready(answer) => Ended::Answered(answer),
                        Poll::Pending => {
                            ready!(attempts.poll_timeout(cx));
                            Ended::TimedOut { unsent: false }
                        }
                    }
                }
                StateProj::Pause { sleep, ended } => {
                    ready!(sleep.poll(cx));
                    if let (Some(mut ended), false) = (ended.take(), attempts.is_body_free()) {
                        attempts.gave_up(GaveUp::Body, &mut ended);
                        this.state.set(State::Done);
                        return Poll::Ready(attempts.finish(ended));
                    }
                    let service = prepare(attempts);
                    this.state.set(State::Prepare { service });
                    continue;
                }
                StateProj::Prepare { service } => match service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => {
                        let request = attempts.request().expect("an attempt begins with a body");
                        let (future, endpoint) = picked::scope(|| service.call(request));
                        attempts.picked(endpoint);
                        this.state.set(State::Attempt { future });
                        continue;
                    }
                    Poll::Ready(Err(error)) => Ended::Answered(Err(error)),
                    Poll::Pending => {
                        ready!(attempts.poll_timeout(cx));
                        Ended::TimedOut { unsent: true }
                    }
                },
                StateProj::Done => panic!("polled after completion"),
            };
            match attempts.judge(&mut ended, || this.state.set(State::Done)) {
                Next::Done => {
                    this.state.set(State::Done);
                    return Poll::Ready(attempts.finish(ended));
                }
                Next::Retry(Wait::Free) => {
                    let service = prepare(attempts);
                    this.state.set(State::Prepare { service });
                }
                Next::Retry(wait) => this.state.set(pause(wait, None)),
                Next::RetryIfFree(wait) => this.state.set(pause(wait, Some(ended))),
            }
        }
    }
}

/// A fresh clone for the next attempt, whose time runs from now.
fn prepare<S: Clone, C, B: Replay>(attempts: &mut Attempts<S, C, B>) -> S {
    attempts.advance();
    attempts.core().spare.clone()
}

fn pause<S, F, R, E>(wait: Wait, ended: Option<Ended<R, E>>) -> State<S, F, R, E> {
    State::Pause {
        sleep: sleep(wait.duration()),
        ended,
    }
}

impl<S, B, C> fmt::Debug for ResponseFuture<S, B, C>
where
    S: Service<Request<B>>,
    B: Replay,
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
