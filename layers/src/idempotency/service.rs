//! The service: calls without a key pass, those with one are read first.

use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    body::AnswerBody,
    config::Policy,
    future::{Keyed, ResponseFuture, Terms},
    header,
    layer::Seen,
    read::Reading,
    refusal::Refusal,
};
use crate::vocab::{
    body::Replay, classify::CallKind, headers, idempotent::KEY, tracked::ResponseBody,
    transport::BoxError,
};

/// Makes a call with an idempotency key once, however often it comes. The [module](super) is the page.
#[derive(Clone)]
pub struct Idempotency<S> {
    inner: S,
    seen: Arc<Seen>,
}

// ===== impl Idempotency =====

impl<S> Idempotency<S> {
    pub(super) fn new(inner: S, seen: Arc<Seen>) -> Self {
        Self { inner, seen }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Idempotency<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + Send + 'static,
    ReqB: Replay<Saved: Send> + Send + 'static,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<AnswerBody<ResB>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
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
            return ResponseFuture::inner(self.inner.call(request));
        };
        let has_key = headers::find(request.headers(), &KEY).is_some();
        if !has_key && !policy.config.required {
            return ResponseFuture::inner(self.inner.call(request));
        }
        call_with_key(&mut self.inner, &self.seen, policy, request, has_key)
    }
}

/// A call that has a key, or should have one.
#[inline(never)]
fn call_with_key<S, B, R>(
    inner: &mut S,
    seen: &Arc<Seen>,
    policy: &Policy,
    request: Request<B>,
    has_key: bool,
) -> ResponseFuture<S::Future, R>
where
    S: Service<Request<B>> + Clone + Send + 'static,
    B: Replay<Saved: Send> + Send + 'static,
{
    let call = CallKind::of(&request);
    if !policy.covers(call, &request) {
        return ResponseFuture::inner(inner.call(request));
    }
    let refuse = |refusal: Refusal<'_>| ResponseFuture::rejected(call, refusal.count(&seen.shared));
    if !has_key {
        return refuse(Refusal::Missing);
    }
    let key = match header::find(request.headers()) {
        Ok(key) => key,
        Err(malformed) => return refuse(Refusal::Malformed(malformed)),
    };
    let most = policy.config.max_request;
    if request.body().size_hint().lower() > most.bytes() {
        return refuse(Refusal::TooLarge(most));
    }

    let mut id = seen.shared.seed.digest();
    policy
        .config
        .key
        .extract_for(call, &request)
        .write_to(&mut id);
    key.hash(&mut id);
    let mut fingerprint = seen.shared.seed.digest();
    fingerprint.write_part(request.method().as_str().as_bytes());
    fingerprint.write_part(request.uri().path().as_bytes());
    // With one byte more where there is one: `/a?` is not `/a`.
    let query = request.uri().query().map(|query| format!("?{query}"));
    fingerprint.write_part(query.unwrap_or_default().as_bytes());

    let terms = Terms {
        call,
        id: id.to_u128(),
        bounds: policy.bounds(),
        max_request: most,
        max_answer: policy.max_answer(),
        wait: policy.config.wait,
    };
    // The instance that was polled ready goes with the call, and a clone takes its place.
    let spare = inner.clone();
    let ready = mem::replace(inner, spare);
    let reading = Reading::new(ready, request, fingerprint, most.bytes(), &policy.replay);
    ResponseFuture::keyed(Keyed::new(seen.shared.clone(), terms, Box::pin(reading)))
}

impl<S: fmt::Debug> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
