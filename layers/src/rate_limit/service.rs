//! The service: take a token, wait for one, or refuse.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    config::RateLimitHeaders,
    future::ResponseFuture,
    headers::Fields,
    layer::Seen,
    limit::{Admitted, Refused},
    policy::{Closest, Exceeded, InLine, Policy, Verdict},
};
use crate::vocab::{
    classify::CallKind,
    later::Held,
    rejection::{Reason, Rejection},
    tracked::ResponseBody,
};

/// Refuses calls above a rate. The [module](super) is the page.
#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    seen: Arc<Seen>,
}

// ===== impl RateLimit =====

impl<S> RateLimit<S> {
    pub(super) fn new(inner: S, seen: Arc<Seen>) -> Self {
        Self { inner, seen }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for RateLimit<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    ReqB: Send + 'static,
    ResB: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // NOTE: a spent limit refuses in `call`: a token that is taken here and not used is lost.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let changed;
        let policy = match self.seen.policy() {
            Ok(policy) => policy.as_ref(),
            Err(live) => {
                changed = live.get();
                changed.as_ref()
            }
        };
        let Some(policy) = policy else {
            return ResponseFuture::inner(self.inner.call(request), None);
        };
        let Some(limit) = policy.only() else {
            return call_within_all(&mut self.inner, &self.seen, policy, request);
        };
        let config = &policy.config;
        match limit.charge(&request) {
            Ok(admitted) => {
                if !matches!(admitted, Admitted::Free) {
                    self.seen.shared.admitted.add(1);
                }
                let fields = (config.headers == RateLimitHeaders::Always)
                    .then(|| fields(policy, &Closest::new(config, admitted)));
                ResponseFuture::inner(self.inner.call(request), fields.flatten())
            }
            Err(Refused { wait }) => {
                self.seen.shared.refused.add(1);
                let exceeded = Exceeded { config, wait };
                refuse(policy, &exceeded, CallKind::of(&request))
            }
        }
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimit")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// A call under several limits, or one that callers may wait for.
fn call_within_all<S, B>(
    inner: &mut S,
    seen: &Arc<Seen>,
    policy: &Policy,
    request: Request<B>,
) -> ResponseFuture<S::Future>
where
    S: Service<Request<B>> + Clone + Send + 'static,
    B: Send + 'static,
{
    match policy.check(&request) {
        Verdict::Admitted(closest) => {
            if closest.is_limited() {
                seen.shared.admitted.add(1);
            }
            let fields = fields(policy, &closest);
            ResponseFuture::inner(inner.call(request), fields)
        }
        Verdict::Waits(wait, charges, closest) => {
            let fields = fields(policy, &closest);
            let line = InLine::new(seen, charges, wait);
            // The instance that was polled ready waits with the call, and a clone takes its place.
            let spare = inner.clone();
            let ready = mem::replace(inner, spare);
            ResponseFuture::queued(line, Held::new(ready, request), fields)
        }
        Verdict::Refused(exceeded) => {
            seen.shared.refused.add(1);
            refuse(policy, &exceeded, CallKind::of(&request))
        }
    }
}

#[inline]
fn fields(policy: &Policy, closest: &Closest<'_>) -> Option<Box<Fields>> {
    (policy.config.headers == RateLimitHeaders::Always && closest.is_limited())
        .then(|| Box::new(Fields::new(closest.config, closest.left(), None)))
}

#[cold]
fn refuse<F>(policy: &Policy, exceeded: &Exceeded<'_>, call: CallKind) -> ResponseFuture<F> {
    let Exceeded { config, wait } = *exceeded;
    let detail = format!(
        "the rate limit `{}` of {} is used up",
        config.name, config.rate
    );
    let rejection = Rejection::new("rate_limit", Reason::RateLimited, detail).retry_after(wait);
    let fields = (policy.config.headers != RateLimitHeaders::Off)
        .then(|| Box::new(Fields::new(config, 0, Some(wait))));
    ResponseFuture::rejected(call, rejection, fields)
}
