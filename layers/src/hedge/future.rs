//! The future: the first attempt, and those that are made beside it.
//!
//! ```text
//!   first ──────────────────────────────► slow ───► dropped
//!              └─ delay ─► second (a clone, made ready) ──► good answer: the call's
//!                            └─ delay ─► third, ... ───────► dropped
//! ```
//!
//! The first good answer ends the call, and the others are dropped in the same poll. A failure ends it
//! when no other attempt is under way.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{attempts::Attempts, policy::Verdict};
use crate::vocab::{
    body::Replay,
    classify::Classify,
    context::{EndpointId, picked},
};

pin_project! {
    /// The future of [`Hedge`](super::Hedge).
    pub struct ResponseFuture<S, B, C>
    where
        S: Service<Request<B>>,
        B: Replay,
    {
        #[pin]
        first: First<S::Future>,
        // `None`: there will be one attempt, and nobody looks at its answer.
        attempts: Option<Attempts<S, C, B>>,
        // Those after the first: nearly every call has none.
        others: Vec<Pin<Box<Other<S, S::Future, B>>>>,
    }
}

pin_project! {
    #[project = FirstProj]
    enum First<F> {
        Running {
            #[pin]
            future: F,
        },
        Over,
    }
}

pin_project! {
    /// An attempt after the first.
    #[project = OtherProj]
    enum Other<S, F, B> {
        Prepare {
            service: S,
            request: Option<Request<B>>,
        },
        Running {
            #[pin]
            future: F,
        },
    }
}

// ===== impl ResponseFuture =====

impl<S, B, C> ResponseFuture<S, B, C>
where
    S: Service<Request<B>>,
    B: Replay,
{
    /// A call that has one attempt.
    pub(super) fn once(future: S::Future) -> Self {
        Self {
            first: First::Running { future },
            attempts: None,
            others: Vec::new(),
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
            first: First::Running { future },
            attempts: Some(attempts),
            others: Vec::new(),
        }
    }
}

impl<S, B, C, R> ResponseFuture<S, B, C>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: 'static,
    B: Replay,
    C: Classify,
{
    /// Polls the attempts after the first: the answer of the call, if one of them has it.
    #[cold]
    fn poll_others(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<R>, S::Error>> {
        let mut this = self.project();
        let attempts = this.attempts.as_mut().expect("more than one attempt");
        let mut nth = 0;
        while let Some(other) = this.others.get_mut(nth) {
            let scope = picked::enter();
            let polled = other.as_mut().poll(cx);
            attempts.picked(scope.leave());
            let Poll::Ready(answer) = polled else {
                nth += 1;
                continue;
            };
            drop(this.others.swap_remove(nth));
            let verdict = attempts.judge(&answer);
            let first_is_over = matches!(*this.first, First::Over);
            match verdict {
                Verdict::Bad(then) if !(first_is_over && this.others.is_empty()) => {
                    attempts.failed(then);
                }
                _ => {
                    if verdict == Verdict::Good {
                        attempts.won_by_other(!first_is_over);
                    }
                    this.others.clear();
                    this.first.set(First::Over);
                    *this.attempts = None;
                    return Poll::Ready(answer);
                }
            }
        }
        Poll::Pending
    }
}

impl<S, B, C, R> Future for ResponseFuture<S, B, C>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: 'static,
    B: Replay,
    C: Classify,
{
    type Output = Result<Response<R>, S::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            if let FirstProj::Running { future } = this.first.as_mut().project() {
                let Some(attempts) = this.attempts else {
                    return future.poll(cx);
                };
                let scope = picked::enter();
                let polled = future.poll(cx);
                attempts.picked(scope.leave());
                if let Poll::Ready(answer) = polled {
                    match attempts.judge(&answer) {
                        Verdict::Bad(then) if !this.others.is_empty() => attempts.failed(then),
                        verdict => {
                            if verdict == Verdict::Good {
                                attempts.first_took();
                            }
                            // The losers, now and not when the caller drops this.
                            this.others.clear();
                            this.first.set(First::Over);
                            *this.attempts = None;
                            return Poll::Ready(answer);
                        }
                    }
                    this.first.set(First::Over);
                }
            }
            if !this.others.is_empty()
                && let Poll::Ready(answer) = self.as_mut().poll_others(cx)
            {
                return Poll::Ready(answer);
            }
            let this = self.as_mut().project();
            let attempts = this.attempts.as_mut().expect("polled after completion");
            ready!(attempts.poll_due(cx));
            if let Some(request) = attempts.next() {
                let service = attempts.core().spare.clone();
                this.others.push(Box::pin(Other::Prepare {
                    service,
                    request: Some(request),
                }));
            }
        }
    }
}

// ===== impl Other =====

impl<S, B> Future for Other<S, S::Future, B>
where
    S: Service<Request<B>>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.as_mut().project() {
                OtherProj::Prepare { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    let request = request.take().expect("an attempt is made once");
                    let future = service.call(request);
                    self.set(Self::Running { future });
                }
                OtherProj::Running { future } => return future.poll(cx),
            }
        }
    }
}

impl<S, B, C> fmt::Debug for ResponseFuture<S, B, C>
where
    S: Service<Request<B>>,
    B: Replay,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("others", &self.others.len())
            .finish_non_exhaustive()
    }
}
