//! The balancer itself.

use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_mesh_layers::{CallContext, CallKind, Classifier, Classify, ResponseBody, Tracked};
use tower_service::Service;

use super::{
    builder::{Builder, Source, Unset},
    choice::Plan,
    endpoint::EndpointGuard,
    future::ResponseFuture,
    seek::{Candidate, Seek},
    set::Shared,
    view::{self, EndpointView},
};
use crate::endpoint::MakeEndpoint;

/// Balances calls over the instances of a service. The [module](super) tells how.
///
/// Clones share all state; following the registry stops when the last one is dropped.
pub struct Balance<M: MakeEndpoint, C = Classifier> {
    shared: Arc<Shared<M::Service>>,
    classify: C,
    make: PhantomData<fn() -> M>,
}

// ===== impl Balance =====

impl Balance<Unset> {
    /// Starts to build a balancer over the instances that `source` finds: a
    /// [`Resolver`](crate::resolve::Resolver) or a [`Watch`](crate::resolve::Watch).
    pub fn builder(source: impl Into<Source>) -> Builder<Unset> {
        Builder::new(source.into())
    }
}

impl<M: MakeEndpoint, C> Balance<M, C> {
    pub(super) fn new(shared: Arc<Shared<M::Service>>, classify: C) -> Self {
        shared.start();
        let make = PhantomData;
        Self {
            shared,
            classify,
            make,
        }
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// Every endpoint that is known now, with what calls to it have shown.
    pub fn endpoints(&self) -> Vec<EndpointView> {
        view::endpoints(&self.shared.set.load())
    }
}

impl<M: MakeEndpoint, C: Clone> Clone for Balance<M, C> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            classify: self.classify.clone(),
            make: PhantomData,
        }
    }
}

impl<M: MakeEndpoint, C> fmt::Debug for Balance<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.shared.set.load();
        f.debug_struct("Balance")
            .field("service", &self.shared.service)
            .field("endpoints", &set.members.len())
            .field("ready", &set.ready.len())
            .field("panic", &set.panic)
            .finish_non_exhaustive()
    }
}

impl<M, C, B, ResB> Service<Request<B>> for Balance<M, C>
where
    M: MakeEndpoint,
    M::Service: Service<Request<B>, Response = Response<ResB>>,
    <M::Service as Service<Request<B>>>::Error: 'static,
    B: 'static,
    ResB: Body<Data = Bytes>,
    C: Classify,
{
    type Response = Response<ResponseBody<Tracked<ResB, C::End, EndpointGuard<M::Service>>>>;
    type Error = <M::Service as Service<Request<B>>>::Error;
    type Future = ResponseFuture<M::Service, B, C>;

    /// Always ready: which endpoint is asked depends on the request.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.shared.start();
        let kind = CallKind::of(&request);
        let context = CallContext::get(request.extensions());
        let plan = Plan {
            tried: context
                .map(|context| context.attempt.tried)
                .unwrap_or_default(),
            first: context.is_none_or(|context| context.attempt.number <= 1),
        };
        let deadline = match context {
            Some(context) => context.deadline,
            None => CallContext::current_deadline(),
        };
        let route = context.and_then(|context| context.route.as_ref());
        let now = Instant::now();

        let candidate = match self.shared.pick(&plan, route, now) {
            Ok(picked) => {
                let mut candidate = Candidate::new(picked, deadline);
                let Candidate { service, call, .. } = &mut candidate;
                // The pick mostly is ready, and then the request need not wait in the future. If it is
                // not, or an error comes, the future polls again, with a waker that wakes.
                let mut noop = Context::from_waker(Waker::noop());
                let ready = call.run(|| service.poll_ready(&mut noop));
                if matches!(ready, Poll::Ready(Ok(()))) {
                    call.guard().sent();
                    let future = call.run(|| service.call(request));
                    return ResponseFuture::in_flight(
                        future,
                        candidate.call,
                        kind,
                        self.classify.clone(),
                    );
                }
                match ready {
                    Poll::Ready(Err(error)) => {
                        let mut seek = self.seek(plan, deadline, now, Some(candidate));
                        seek.failed::<B>(error);
                        return ResponseFuture::seeking(request, seek, kind, self.classify.clone());
                    }
                    _ => Some(candidate),
                }
            }
            Err(_) => None,
        };
        let seek = self.seek(plan, deadline, now, candidate);
        ResponseFuture::seeking(request, seek, kind, self.classify.clone())
    }
}

impl<M: MakeEndpoint, C> Balance<M, C> {
    #[cold]
    fn seek<E>(
        &self,
        plan: Plan,
        deadline: Option<Instant>,
        start: Instant,
        candidate: Option<Candidate<M::Service>>,
    ) -> Box<Seek<M::Service, E>> {
        Box::new(Seek::new(
            self.shared.clone(),
            plan,
            deadline,
            start,
            candidate,
        ))
    }
}

#[cfg(test)]
impl<M: MakeEndpoint, C> Balance<M, C> {
    pub(super) fn shared_set(&self) -> Arc<super::set::Set<M::Service>> {
        self.shared.set.load_full()
    }

    /// Where the present set is, to see that another one took its place.
    pub(super) fn set_address(&self) -> *const () {
        Arc::as_ptr(&self.shared.set.load_full()).cast()
    }
}
