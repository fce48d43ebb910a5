//! The service: calls the inner one, and keeps what another attempt would need.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::time::Instant;
use tower_service::Service;

use super::{
    attempts::{Attempts, Kept},
    future::ResponseFuture,
    layer::Shared,
    policy::may_be_sent_twice,
};
use crate::vocab::{
    body::Replay,
    budget::Budget,
    classify::{CallKind, Classifier, Classify},
    context::{CallContext, picked},
    metrics::Registered,
    snapshot::Snapshot,
    wheel::Wheel,
};

/// Makes another attempt beside one that is slow. The [module](super) is the page.
#[derive(Clone)]
pub struct Hedge<S, C = Classifier> {
    inner: S,
    core: Core<S, C>,
}

/// What calls hold of the service: one handle, since each clone of one costs.
pub(super) struct Core<S, C>(Arc<CoreInner<S, C>>);

pub(super) struct CoreInner<S, C> {
    /// Cloned for further attempts. The first goes to the instance that was polled ready.
    pub(super) spare: S,
    pub(super) shared: Arc<Registered<Shared>>,
    /// That of the retries below.
    pub(super) budget: Option<Budget>,
    pub(super) classify: C,
}

// ===== impl Hedge =====

impl<S: Clone, C> Hedge<S, C> {
    pub(super) fn new(
        inner: S,
        shared: Arc<Registered<Shared>>,
        budget: Option<Budget>,
        classify: C,
    ) -> Self {
        let core = Core(Arc::new(CoreInner {
            spare: inner.clone(),
            shared,
            budget,
            classify,
        }));
        Self { inner, core }
    }
}

impl<S, C> Hedge<S, C> {
    crate::macros::define_inner_service_accessors!();
}

impl<S, C, ReqB, ResB> Service<Request<ReqB>> for Hedge<S, C>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + 'static,
    C: Classify,
    ReqB: Replay + 'static,
{
    type Response = Response<ResB>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqB, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let shared = &self.core.shared;
        let outlook = shared.outlook();
        if !outlook.is_on() {
            return ResponseFuture::once(self.inner.call(request));
        }
        let now = Instant::now();
        shared.cap.deposit(now);
        let call = CallKind::of(&request);
        let is_meant = if call.connect {
            false
        } else if outlook.has_matches() {
            shared.policy.get().is_meant(&request)
        } else {
            may_be_sent_twice(&request)
        };
        if !is_meant {
            return ResponseFuture::once(self.inner.call(request));
        }
        let Some(delay) = shared.delay(outlook, now) else {
            // Only its time is wanted.
            let attempts = Attempts::begin(&self.core, call, outlook, None, now, None);
            return self.first(request, attempts);
        };
        let head = Snapshot::of(&request, CallContext::get(request.extensions()));
        let Some(body) = request.body().save_as_it_is(&shared.limits) else {
            let (parts, body) = request.into_parts();
            let (body, saved) = body.save(&shared.limits);
            let kept = Some(Kept { head, body: saved });
            let attempts = Attempts::begin(&self.core, call, outlook, kept, now, Some(delay));
            return self.first(Request::from_parts(parts, body), attempts);
        };
        let kept = Some(Kept { head, body });
        let attempts = Attempts::begin(&self.core, call, outlook, kept, now, Some(delay));
        self.first(request, attempts)
    }
}

impl<S, C> Hedge<S, C> {
    #[inline]
    fn first<B>(
        &mut self,
        request: Request<B>,
        attempts: Attempts<S, C, B>,
    ) -> ResponseFuture<S, B, C>
    where
        S: Service<Request<B>>,
        B: Replay,
    {
        let scope = picked::enter();
        let future = self.inner.call(request);
        ResponseFuture::first(future, attempts, scope.leave())
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Hedge<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

// ===== impl Core =====

impl<S, C> Clone for Core<S, C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, C> std::ops::Deref for Core<S, C> {
    type Target = CoreInner<S, C>;

    fn deref(&self) -> &CoreInner<S, C> {
        &self.0
    }
}

impl<S, C> AsRef<Wheel> for Core<S, C> {
    fn as_ref(&self) -> &Wheel {
        &self.shared.wheel
    }
}
