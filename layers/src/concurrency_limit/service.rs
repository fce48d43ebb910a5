//! The service: in at once, into the queue, or refused.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    ResponseBody,
    future::{ResponseFuture, Waiting},
    gate::Entry,
    layer::Seen,
    waiter::{Permit, Waiter},
};
use crate::vocab::{
    classify::{CallKind, Unjudged},
    rejection::{Reason, Rejection},
    tracked::{Pending, TrackedFuture},
};

/// Bounds the calls in flight. The [module](super) is the page.
#[derive(Clone)]
pub struct ConcurrencyLimit<S> {
    inner: S,
    seen: Arc<Seen>,
}

// ===== impl ConcurrencyLimit =====

impl<S> ConcurrencyLimit<S> {
    pub(super) fn new(inner: S, seen: Arc<Seen>) -> Self {
        Self { inner, seen }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for ConcurrencyLimit<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    ReqB: Send + 'static,
    ResB: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // NOTE: a permit that was taken here would be held by services that nobody calls, and a caller
        // that waits here cannot be refused.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let call = CallKind::of(&request);
        let changed;
        let policy = match self.seen.policy() {
            Ok(policy) => policy.as_ref(),
            Err(live) => {
                changed = live.get();
                changed.as_ref()
            }
        };
        let Some(policy) = policy else {
            let future = self.inner.call(request);
            return ResponseFuture::called(TrackedFuture::passing(call, future));
        };
        let gate = policy.gates.of(call, &request);
        if gate.enter() {
            let permit = Permit::of(gate);
            return ResponseFuture::called(call_with(permit, &mut self.inner, call, request));
        }
        let now = Instant::now();
        match gate.enter_or_wait(now) {
            Entry::Entered => {
                let permit = Permit::of(gate);
                ResponseFuture::called(call_with(permit, &mut self.inner, call, request))
            }
            Entry::Waits(ticket, busy_since) => {
                let waiter = Waiter::new(gate, ticket, now);
                let busy = now.saturating_duration_since(busy_since);
                let until = now + policy.config.patience(busy);
                // The instance that was polled ready waits with the call, and a clone takes its place.
                let spare = self.inner.clone();
                let ready = mem::replace(&mut self.inner, spare);
                let retry_after = policy.config.retry_after;
                let waiting = Waiting::new(&self.seen, waiter, until, retry_after);
                ResponseFuture::queued(waiting, call, ready, request)
            }
            Entry::Full => {
                self.seen.shared.stats.full.add(1);
                let detail = "too many calls are in flight";
                let rejection = rejection(detail, policy.config.retry_after);
                ResponseFuture::called(TrackedFuture::rejected(call, rejection))
            }
        }
    }
}

/// Calls with a permit, which the call holds until its response body ends.
#[inline]
fn call_with<S, B>(
    permit: Permit,
    service: &mut S,
    call: CallKind,
    request: Request<B>,
) -> TrackedFuture<S::Future, Unjudged, Permit>
where
    S: Service<Request<B>>,
{
    let pending = about_to_call(permit);
    let future = service.call(request);
    TrackedFuture::begun(call, Unjudged, pending, future)
}

#[inline]
pub(super) fn about_to_call(permit: Permit) -> Pending<Permit> {
    // Without its deadline: nobody asks how the call ended.
    let mut pending = Pending::new(permit, None);
    pending.begin();
    pending
}

pub(super) fn rejection(detail: &'static str, retry_after: Duration) -> Rejection {
    let rejection = Rejection::new("concurrency_limit", Reason::ConcurrencyLimit, detail);
    if retry_after.is_zero() {
        rejection
    } else {
        rejection.retry_after(retry_after)
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for ConcurrencyLimit<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConcurrencyLimit")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
