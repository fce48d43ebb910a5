//! Thin layers around peers that are no layers themselves. Their futures are named and not boxed: the glue must cost
//! the peer nothing.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use failsafe_peer::backoff::EqualJittered;
use failsafe_peer::futures::CircuitBreaker;
use failsafe_peer::{Any, Config, StateMachine, failure_policy, futures};
use governor::clock::DefaultClock;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use http::uri::PathAndQuery;
use http::{Request, Response};
use tower::retry::Policy;
use tower::retry::budget::{Budget, TpsBudget};
use tower::{Layer, Service};

use crate::support::origin::OriginBody;
use crate::support::traffic::RequestBody;

// ===== failsafe =====

type FailsafePolicy = failure_policy::OrElse<
    failure_policy::SuccessRateOverTimeWindow<EqualJittered>,
    failure_policy::ConsecutiveFailures<EqualJittered>,
>;

#[derive(Clone)]
pub(super) struct FailsafeLayer(StateMachine<FailsafePolicy, ()>);

#[derive(Clone)]
pub(super) struct Failsafe<S> {
    inner: S,
    machine: StateMachine<FailsafePolicy, ()>,
}

impl Default for FailsafeLayer {
    fn default() -> Self {
        Self(Config::new().build())
    }
}

impl<S> Layer<S> for FailsafeLayer {
    type Service = Failsafe<S>;

    fn layer(&self, inner: S) -> Failsafe<S> {
        Failsafe {
            inner,
            machine: self.0.clone(),
        }
    }
}

impl<S: Service<R>, R> Service<R> for Failsafe<S> {
    type Response = S::Response;
    type Error = failsafe_peer::Error<S::Error>;
    type Future = futures::ResponseFuture<S::Future, FailsafePolicy, (), Any>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(failsafe_peer::Error::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        CircuitBreaker::call(&self.machine, self.inner.call(request))
    }
}

// ===== governor =====

type Direct = RateLimiter<NotKeyed, InMemoryState, DefaultClock>;
type Keyed = RateLimiter<PathAndQuery, DefaultKeyedStateStore<PathAndQuery>, DefaultClock>;

#[derive(Clone)]
pub(super) struct DirectGovernorLayer(Arc<Direct>);

#[derive(Clone)]
pub(super) struct DirectGovernor<S> {
    inner: S,
    limiter: Arc<Direct>,
}

/// One bucket per path, which is the nearest thing to an operation that governor alone can see.
#[derive(Clone)]
pub(super) struct KeyedGovernorLayer(Arc<Keyed>);

#[derive(Clone)]
pub(super) struct KeyedGovernor<S> {
    inner: S,
    limiter: Arc<Keyed>,
}

impl DirectGovernorLayer {
    pub(super) fn new(quota: Quota) -> Self {
        Self(Arc::new(RateLimiter::direct(quota)))
    }
}

impl KeyedGovernorLayer {
    pub(super) fn new(quota: Quota) -> Self {
        Self(Arc::new(RateLimiter::keyed(quota)))
    }
}

impl<S> Layer<S> for DirectGovernorLayer {
    type Service = DirectGovernor<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DirectGovernor {
            inner,
            limiter: Arc::clone(&self.0),
        }
    }
}

impl<S> Layer<S> for KeyedGovernorLayer {
    type Service = KeyedGovernor<S>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyedGovernor {
            inner,
            limiter: Arc::clone(&self.0),
        }
    }
}

// A refusal is not rendered: no call of this bench is refused, and the driver would notice.
impl<S: Service<R>, R> Service<R> for DirectGovernor<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        assert!(self.limiter.check().is_ok(), "the quota is out of reach");
        self.inner.call(request)
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for KeyedGovernor<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request
            .uri()
            .path_and_query()
            .expect("a request has a path");
        assert!(
            self.limiter.check_key(path).is_ok(),
            "the quota is out of reach"
        );
        self.inner.call(request)
    }
}

// ===== tower retry =====

/// The policy of tower's own guide: server errors, a number of attempts, a shared budget.
#[derive(Clone)]
pub(super) struct ServerErrors {
    left: usize,
    budget: Arc<TpsBudget>,
}

impl ServerErrors {
    pub(super) fn new(attempts: usize, budget: Arc<TpsBudget>) -> Self {
        Self {
            left: attempts - 1,
            budget,
        }
    }
}

impl<E> Policy<Request<RequestBody>, Response<OriginBody>, E> for ServerErrors {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<RequestBody>,
        result: &mut Result<Response<OriginBody>, E>,
    ) -> Option<Ready<()>> {
        if result
            .as_ref()
            .is_ok_and(|response| !response.status().is_server_error())
        {
            self.budget.deposit();
            return None;
        }
        if self.left == 0 || !self.budget.withdraw() {
            return None;
        }
        self.left -= 1;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
        Some(request.clone())
    }
}
