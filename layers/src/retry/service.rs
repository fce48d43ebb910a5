//! The service: calls the inner one, and keeps what another attempt would need.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    attempts::{Attempts, Kept},
    future::ResponseFuture,
    layer::{Plan, Shared},
    peek::PeekedBody,
};
use crate::vocab::{
    body::Replay,
    classify::{CallKind, Classifier, Classify},
    context::{CallContext, picked},
    metrics::Registered,
    snapshot::Snapshot,
    tracked::ResponseBody,
    wheel::Wheel,
};

/// Tries calls again. The [module](super) is the page.
#[derive(Clone)]
pub struct Retry<S, C = Classifier> {
    inner: S,
    core: Core<S, C>,
}

/// What calls hold of the service: one handle, since each clone of one costs.
pub(super) struct Core<S, C>(Arc<CoreInner<S, C>>);

pub(super) struct CoreInner<S, C> {
    /// Cloned for second attempts. The first goes to the instance that was polled ready, so that a call
    /// that succeeds at once clones nothing.
    pub(super) spare: S,
    pub(super) shared: Arc<Registered<Shared>>,
    pub(super) classify: C,
}

// ===== impl Retry =====

impl<S: Clone, C> Retry<S, C> {
    pub(super) fn new(inner: S, shared: Arc<Registered<Shared>>, classify: C) -> Self {
        let core = Core(Arc::new(CoreInner {
            spare: inner.clone(),
            shared,
            classify,
        }));
        Self { inner, core }
    }
}

impl<S, C> Retry<S, C> {
    crate::macros::define_inner_service_accessors!();
}

impl<S, C, ReqB, ResB> Service<Request<ReqB>> for Retry<S, C>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + Clone + 'static,
    C: Classify,
    ReqB: Replay + 'static,
    ResB: Body<Data = Bytes> + Unpin,
{
    type Response = Response<ResponseBody<PeekedBody<ResB>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqB, C, ResB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let shared = &self.core.shared;
        let mut plan = Plan::of_others(shared.outlook());
        if !plan.outlook.is_on() {
            return ResponseFuture::once(self.inner.call(request));
        }
        if plan.outlook.has_rules() {
            plan = shared.plan(&request);
        }
        let call = CallKind::of(&request);
        let context = CallContext::get(request.extensions());
        // NOTE: what is a second attempt itself (of a hedge) is not one more call.
        if context.is_none_or(|context| context.attempt.number == 1) {
            // The stamp of an outer layer saves a clock read, and a deposit is good for ten seconds.
            let start = context.map_or_else(Instant::now, |context| context.start);
            shared.budget.deposit(start);
        }

        let mut kept = None;
        if plan.outlook.has_retries() && !call.connect {
            let head = Snapshot::of(&request, context);
            let Some(body) = request.body().save_as_it_is(&shared.limits) else {
                return self.call_wrapped(call, plan, request, head);
            };
            kept = Some(Kept { head, body });
        }
        let Some(attempts) = Attempts::begin(&self.core, call, plan, kept, &mut request) else {
            return ResponseFuture::once(self.inner.call(request));
        };
        let scope = picked::enter();
        let future = self.inner.call(request);
        ResponseFuture::first(future, attempts, scope.leave())
    }
}

impl<S, C> Retry<S, C> {
    /// The same for a request whose body has to be wrapped. Apart, since a request is large to move.
    #[inline(never)]
    fn call_wrapped<B, R>(
        &mut self,
        call: CallKind,
        plan: Plan,
        request: Request<B>,
        head: Snapshot,
    ) -> ResponseFuture<S, B, C, R>
    where
        S: Service<Request<B>>,
        B: Replay,
        R: Body,
    {
        let (parts, body) = request.into_parts();
        let (body, saved) = body.save(&self.core.shared.limits);
        let kept = Some(Kept { head, body: saved });
        let mut request = Request::from_parts(parts, body);
        let Some(attempts) = Attempts::begin(&self.core, call, plan, kept, &mut request) else {
            return ResponseFuture::once(self.inner.call(request));
        };
        let scope = picked::enter();
        let future = self.inner.call(request);
        ResponseFuture::first(future, attempts, scope.leave())
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Retry<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
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
