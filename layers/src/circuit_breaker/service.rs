//! The service: admit or refuse.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{ResponseBody, ResponseFuture, gate::Refused, layer::Shared};
use crate::vocab::{
    classify::{CallKind, Classifier, Classify},
    metrics::Registered,
    rejection::{Reason, Rejection},
    tracked::Pending,
};

/// Refuses calls to a peer that keeps failing. The [module](super) is the page.
#[derive(Clone)]
pub struct CircuitBreaker<S, C = Classifier> {
    inner: S,
    shared: Arc<Registered<Shared>>,
    classify: C,
}

// ===== impl CircuitBreaker =====

impl<S, C> CircuitBreaker<S, C> {
    pub(super) fn new(inner: S, shared: Arc<Registered<Shared>>, classify: C) -> Self {
        Self {
            inner,
            shared,
            classify,
        }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, C, ReqB, ResB> Service<Request<ReqB>> for CircuitBreaker<S, C>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + 'static,
    ReqB: 'static,
    C: Classify,
    ResB: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResB, C>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        // NOTE: an open breaker refuses in `call`: an error from here would end the service for good.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let call = CallKind::of(&request);
        let Some((breaker, extra)) = self.shared.breaker_for(call, &request) else {
            return ResponseFuture::passing(call, self.inner.call(request));
        };
        match breaker.admit(extra) {
            Ok(guard) => {
                let mut pending = Pending::of(guard, &request);
                pending.begin();
                let future = self.inner.call(request);
                ResponseFuture::begun(call, self.classify.clone(), pending, future)
            }
            Err(refused) => ResponseFuture::rejected(call, rejection(refused)),
        }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for CircuitBreaker<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

fn rejection(Refused(wait_us): Refused) -> Rejection {
    let rejection = Rejection::new(
        "circuit_breaker",
        Reason::CircuitOpen,
        "the circuit is open",
    );
    match wait_us {
        Some(wait) => rejection.retry_after(Duration::from_micros(wait)),
        None => rejection,
    }
}
