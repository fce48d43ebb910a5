//! The future: the call, perhaps after a wait.
//!
//! ```text
//!   Queued ──► its turn ──► Called ──► answer
//!      └─────► too late ──► Called (refused)
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    ResponseBody,
    layer::Seen,
    service::{about_to_call, rejection},
    waiter::{Permit, Waiter},
};
use crate::vocab::{
    classify::{CallKind, Unjudged},
    context::CallContext,
    later::{Held, Later},
    rejection::{Reason, Rejection},
    tracked::TrackedFuture,
    wheel::{Wheel, WheelTimer},
};

pin_project! {
    /// The future of [`ConcurrencyLimit`](super::ConcurrencyLimit).
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Called {
            #[pin]
            future: TrackedFuture<F, Unjudged, Permit>,
        },
        // Boxed: a call that finds room at once should not have to move it.
        Queued {
            queued: Box<Queued<dyn Later<F> + Send>>,
        },
    }
}

/// A call that waits for its turn, with all that it needs then.
struct Queued<C: ?Sized> {
    waiting: Waiting,
    call: CallKind,
    later: C,
}

/// The wait of a call.
pub(super) struct Waiting {
    waiter: Waiter,
    timer: WheelTimer<Wheel>,
    /// Whether the timer is that of the call's own deadline.
    to_deadline: bool,
    retry_after: Duration,
    seen: Arc<Seen>,
}

// ===== impl ResponseFuture =====

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn called(future: TrackedFuture<F, Unjudged, Permit>) -> Self {
        Self {
            state: State::Called { future },
        }
    }

    /// A call that waits, and then goes to `service`, which has been polled ready.
    pub(super) fn queued<S, B>(
        mut waiting: Waiting,
        call: CallKind,
        service: S,
        request: Request<B>,
    ) -> Self
    where
        S: Service<Request<B>, Future = F> + Send + 'static,
        B: Send + 'static,
    {
        let context = CallContext::get(request.extensions());
        if let Some(deadline) = context.and_then(|context| context.deadline) {
            waiting.shorten(deadline);
        }
        let queued = Box::new(Queued {
            waiting,
            call,
            later: Held::new(service, request),
        });
        Self {
            state: State::Queued { queued },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: 'static,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProj::Queued { queued } = state.as_mut().project() {
            let turn = ready!(queued.waiting.poll_turn(cx));
            let call = queued.call;
            let future = match turn {
                Ok(permit) => {
                    let pending = about_to_call(permit);
                    TrackedFuture::begun(call, Unjudged, pending, queued.later.call())
                }
                Err(rejection) => TrackedFuture::rejected(call, rejection),
            };
            state.set(State::Called { future });
        }
        match state.project() {
            StateProj::Called { future } => future.poll(cx),
            StateProj::Queued { .. } => unreachable!("it has been called"),
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

// ===== impl Waiting =====

impl Waiting {
    pub(super) fn new(
        seen: &Arc<Seen>,
        waiter: Waiter,
        until: Instant,
        retry_after: Duration,
    ) -> Self {
        Self {
            waiter,
            timer: WheelTimer::new(seen.shared.wheel.clone(), Some(until)),
            to_deadline: false,
            retry_after,
            seen: seen.clone(),
        }
    }

    fn shorten(&mut self, deadline: Instant) {
        if self.timer.deadline().is_some_and(|until| deadline < until) {
            self.timer.reset(Some(deadline));
            self.to_deadline = true;
        }
    }

    /// The permit, once it is this call's turn, or a refusal once it has waited for too long.
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<Result<Permit, Rejection>> {
        let permit = match self.waiter.poll_permit(cx) {
            Poll::Ready(permit) => permit,
            Poll::Pending => {
                ready!(self.timer.poll_expired(cx));
                // It may have come since.
                match self.waiter.give_up() {
                    Some(permit) => permit,
                    None => return Poll::Ready(Err(self.too_late())),
                }
            }
        };
        let waited = Instant::now().saturating_duration_since(self.waiter.since);
        self.seen.shared.stats.waits.record(waited);
        Poll::Ready(Ok(permit))
    }

    #[cold]
    fn too_late(&self) -> Rejection {
        let stats = &self.seen.shared.stats;
        if self.to_deadline {
            stats.past_deadline.add(1);
            let detail = "the deadline passed while the call waited for its turn";
            return Rejection::new("concurrency_limit", Reason::DeadlineExceeded, detail);
        }
        stats.timed_out.add(1);
        let detail = "too many calls are in flight, and the call waited for too long";
        rejection(detail, self.retry_after)
    }
}
