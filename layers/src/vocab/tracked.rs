//! When a call ends, and telling so exactly once.
//!
//! A call ends when its *body* ends, and hyper does not poll a body that is at its end: it asks
//! `is_end_stream` first, stops once `content-length` bytes are out, and never polls the body of a
//! HEAD, 1xx, 204 or 304. A wrapper that waits for `None` would count every ordinary response as
//! cancelled. So [`Tracked`] knows five ends:
//!
//! 1. on wrapping: HEAD, 1xx, 204, 304, `content-length: 0` (not over gRPC, where trailers follow), a
//!    body already at its end, an upgrade
//! 2. after the data frame that completes the body
//! 3. at the trailers
//! 4. at `None`, or an error
//! 5. on drop: what the head decided stands; a gRPC stream without `grpc-status` is cancelled; at or
//!    after the deadline it is a timeout
//!
//! Before the head there is no body, so the guard waits in the layer's future as [`Pending`]: its drop
//! is a cancellation (or a timeout), a panic below it a failure. [`Pending::track`] moves the guard
//! from the one into the other.
//!
//! ```
//! use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
//! use tower_mesh_layers::{CallGuard, Outcome, tracked::Pending};
//!
//! /// Gives one permit back, however the call ends.
//! struct Permit(Arc<AtomicUsize>);
//!
//! impl CallGuard for Permit {
//!     fn end(self, _: Outcome) {
//!         self.0.fetch_add(1, Ordering::Relaxed);
//!     }
//! }
//!
//! let free = Arc::new(AtomicUsize::new(0));
//! let pending = Pending::new(Permit(free.clone()), None);
//! drop(pending); // the caller gave up before the response head
//! assert_eq!(free.load(Ordering::Relaxed), 1);
//! ```

mod future;
mod response;

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

pub use self::{future::TrackedFuture, response::ResponseBody};
use super::{
    classify::{CallKind, Classify, ClassifyEnd, Head},
    context::{CallContext, Covers},
    outcome::{FailureKind, Outcome},
    transport,
};

/// Held for one call; told how it went, and told the end exactly once.
pub trait CallGuard {
    /// The response head arrived; right before [`head`](Self::head) tells what it means.
    #[inline]
    fn answer<B>(&mut self, response: &Response<B>) {
        let _ = response;
    }

    /// The trailers arrived; right before the call ends with them.
    #[inline]
    fn trailers(&mut self, trailers: &HeaderMap) {
        let _ = trailers;
    }

    /// The response head arrived. `outcome` is what it decided, or what it will have decided unless
    /// the body fails (a 200 over plain HTTP); `None` for an open gRPC stream.
    fn head(&mut self, outcome: Option<Outcome>) {
        let _ = outcome;
    }

    /// The first data frame, or the trailers where there is no data, passed.
    fn first_frame(&mut self) {}

    /// The call is over.
    fn end(self, outcome: Outcome);
}

/// A [`CallGuard`] before the response head, held by the layer's future.
///
/// Dropped without an end, it tells its guard a cancellation, a timeout (at or after the deadline),
/// or a failure (when the inner service panicked).
#[derive(Debug)]
pub struct Pending<G: CallGuard> {
    guard: Option<G>,
    deadline: Option<Instant>,
    covers: Covers,
    running: bool,
}

pin_project! {
    /// A response body that tells its [`CallGuard`] how the call ended. The [module](self) has the rules.
    #[derive(Debug)]
    pub struct Tracked<B, E, G>
    where
        E: ClassifyEnd,
        G: CallGuard,
    {
        #[pin]
        inner: B,
        open: Option<OpenCall<E, G>>,
    }

    impl<B, E: ClassifyEnd, G: CallGuard> PinnedDrop for Tracked<B, E, G> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(open) = this.project().open.take() {
                open.dropped();
            }
        }
    }
}

/// What will be read of a response after its head.
enum Rest {
    Nothing,
    /// So many bytes; `u64::MAX` where nothing says how many.
    Body(u64),
    /// A connection that was upgraded.
    Tunnel,
}

/// A call whose body has not ended.
#[derive(Debug)]
struct OpenCall<E, G> {
    guard: G,
    verdict: Head<E>,
    deadline: Option<Instant>,
    /// What `content-length` still promises; `u64::MAX` where it says nothing.
    left: u64,
    started: bool,
    /// Set while the inner body is polled: found set on drop, the inner body panicked.
    polling: bool,
}

// ===== impl Pending =====

impl<G: CallGuard> Pending<G> {
    /// Starts a call. With a `deadline`, a drop at or after it counts as a timeout.
    #[inline]
    pub fn new(guard: G, deadline: Option<Instant>) -> Self {
        Self {
            guard: Some(guard),
            deadline,
            covers: Covers::Call,
            running: false,
        }
    }

    /// Starts a call with the deadline that the request's [`CallContext`] gives it, if any.
    #[inline]
    pub fn of<B>(guard: G, request: &Request<B>) -> Self {
        let mut pending = Self::new(guard, None);
        if let Some(context) = CallContext::get(request.extensions()) {
            (pending.deadline, pending.covers) = (context.deadline, context.deadline_covers);
        }
        pending
    }

    /// The guard.
    pub fn guard(&mut self) -> &mut G {
        self.guard
            .as_mut()
            .expect("a pending call has its guard until it ends")
    }

    /// The inner service is about to be called: until there is a
    /// [future](TrackedFuture::begun), a drop shows that it panicked. As [`run`](Self::run) does, without
    /// a closure that would have to take the request in.
    #[inline]
    pub fn begin(&mut self) {
        self.running = true;
    }

    /// Runs the inner service (its `call`, or a poll of its future), so that a panic in there is told
    /// from a cancellation.
    #[inline]
    pub fn run<T>(&mut self, run: impl FnOnce() -> T) -> T {
        self.running = true;
        let result = run();
        self.running = false;
        result
    }

    /// Ends the call before there was a head, as with an error of the inner service.
    pub fn end(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    /// The same in place; there must be no call on this any more.
    fn finish(&mut self, outcome: Outcome) {
        self.take().end(outcome);
    }

    #[inline]
    fn take(&mut self) -> G {
        let guard = self.guard.take();
        guard.expect("a pending call has its guard until it ends")
    }

    /// Moves the guard into the body of the response.
    #[inline]
    pub fn track<C: Classify, B: Body>(
        mut self,
        classify: &C,
        call: CallKind,
        response: Response<B>,
    ) -> Response<Tracked<B, C::End, G>> {
        let open = self.judge(classify, call, &response);
        response.map(|inner| Tracked { inner, open })
    }

    /// What becomes of the call after its head; `None` where it is over.
    #[inline]
    fn judge<C: Classify, B: Body>(
        &mut self,
        classify: &C,
        call: CallKind,
        response: &Response<B>,
    ) -> Option<OpenCall<C::End, G>> {
        let mut guard = self.take();
        guard.answer(response);
        let verdict = classify.head(call, response);
        guard.head(match &verdict {
            Head::Decided(outcome) => Some(*outcome),
            Head::Open(end) => end.provisional(),
        });
        match Rest::of(call, response) {
            Rest::Body(left) => {
                return Some(OpenCall {
                    guard,
                    verdict,
                    // Past a head that was in time, a deadline that covers no more says nothing.
                    deadline: self.deadline.filter(|_| self.covers == Covers::Call),
                    left,
                    started: false,
                    polling: false,
                });
            }
            Rest::Nothing => guard.end(verdict.end(None)),
            // NOTE: the tunnel is not ours to watch; the call was opening it.
            Rest::Tunnel => guard.end(Outcome::Success),
        }
        None
    }
}

impl<G: CallGuard> Drop for Pending<G> {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.end(if self.running {
                Outcome::Failure(FailureKind::Other)
            } else if has_passed(self.deadline) {
                Outcome::Failure(FailureKind::Timeout)
            } else {
                Outcome::Cancelled
            });
        }
    }
}

// ===== impl Rest =====

impl Rest {
    #[inline]
    fn of<B: Body>(call: CallKind, response: &Response<B>) -> Self {
        let status = response.status();
        let upgraded = status == StatusCode::SWITCHING_PROTOCOLS
            || (call.connect && status.is_success() && !call.is_grpc());
        if upgraded {
            return Self::Tunnel;
        }
        // In gRPC trailers follow the last promised byte, with the status in them.
        let length = if call.is_grpc() {
            None
        } else {
            length(response)
        };
        let no_body = call.head
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || length == Some(0)
            || response.body().is_end_stream();
        if no_body {
            Self::Nothing
        } else {
            Self::Body(length.unwrap_or(u64::MAX))
        }
    }
}

// ===== impl OpenCall =====

impl<E: ClassifyEnd, G: CallGuard> OpenCall<E, G> {
    fn ended(mut self, trailers: Option<&HeaderMap>) {
        if let Some(trailers) = trailers {
            self.guard.trailers(trailers);
        }
        self.guard.end(self.verdict.end(trailers));
    }

    fn failed<X: 'static>(self, error: &X) {
        self.guard.end(match self.verdict {
            Head::Decided(outcome) if !outcome.is_success() => outcome,
            Head::Decided(_) => match transport::diagnose(error).kind {
                FailureKind::Other => Outcome::Failure(FailureKind::Reset),
                kind => Outcome::Failure(kind),
            },
            Head::Open(end) => end.error(transport::diagnose(error)),
        });
    }

    fn dropped(self) {
        let late = has_passed(self.deadline);
        let outcome = match self.verdict {
            Head::Decided(outcome) if !outcome.is_success() => outcome,
            _ if self.polling => Outcome::Failure(FailureKind::Other),
            _ if late => Outcome::Failure(FailureKind::Timeout),
            Head::Decided(outcome) => outcome,
            Head::Open(end) => end.dropped(),
        };
        self.guard.end(outcome);
    }
}

// ===== impl Tracked =====

impl<B, E: ClassifyEnd, G: CallGuard> Tracked<B, E, G> {
    /// The inner body.
    pub fn get_ref(&self) -> &B {
        &self.inner
    }

    /// Whether the call has ended; the body itself may not have been read to its end.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.open.is_none()
    }
}

impl<B, E, G> Body for Tracked<B, E, G>
where
    B: Body,
    B::Error: 'static,
    E: ClassifyEnd,
    G: CallGuard,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(open) = this.open.as_mut() else {
            return this.inner.poll_frame(cx);
        };
        open.polling = true;
        let polled = this.inner.as_mut().poll_frame(cx);
        open.polling = false;
        let polled = ready!(polled);

        match &polled {
            Some(Ok(frame)) => {
                if !open.started {
                    open.started = true;
                    open.guard.first_frame();
                }
                if let Some(data) = frame.data_ref() {
                    open.left = open.left.saturating_sub(data.remaining() as u64);
                    if (open.left == 0 || this.inner.is_end_stream())
                        && let Some(open) = this.open.take()
                    {
                        open.ended(None);
                    }
                } else if let (Some(trailers), Some(open)) =
                    (frame.trailers_ref(), this.open.take())
                {
                    open.ended(Some(trailers));
                }
            }
            Some(Err(error)) => {
                if let Some(open) = this.open.take() {
                    open.failed(error);
                }
            }
            None => {
                if let Some(open) = this.open.take() {
                    open.ended(None);
                }
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How many bytes the body will have. hyper knows it of a body without a look at the headers; only
/// where it does not, a header may still promise it.
fn length<B: Body>(response: &Response<B>) -> Option<u64> {
    let exact = response.body().size_hint().exact();
    exact.or_else(|| content_length(response.headers()))
}

#[cold]
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

#[cfg(test)]
mod tests;
