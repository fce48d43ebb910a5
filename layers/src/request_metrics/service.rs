//! The service: times the inner one.

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

use super::{CallTimer, ResponseBody, ResponseFuture, layer::Shared};
use crate::vocab::{
    classify::{CallKind, Classifier, Classify},
    context::CallContext,
    metrics::Registered,
    tracked::Pending,
};

/// Counts and times calls by operation. The [module](super) is the page.
#[derive(Clone)]
pub struct RequestMetrics<S, C = Classifier> {
    inner: S,
    /// `None` where nothing is counted.
    shared: Option<Arc<Registered<Shared>>>,
    classify: C,
}

// ===== impl RequestMetrics =====

impl<S, C> RequestMetrics<S, C> {
    pub(super) fn new(inner: S, shared: Option<Arc<Registered<Shared>>>, classify: C) -> Self {
        Self {
            inner,
            shared,
            classify,
        }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, C, ReqB, ResB> Service<Request<ReqB>> for RequestMetrics<S, C>
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
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let call = CallKind::of(&request);
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.is_on()) else {
            return ResponseFuture::passing(call, self.inner.call(request));
        };
        // The stamp of an outer layer saves a clock read.
        let context = CallContext::get(request.extensions());
        let start = context.map_or_else(Instant::now, |context| context.start);
        let operation = shared.operation(call, &request);
        let timer = CallTimer::new(shared.clone(), operation, call, start);
        let mut pending = Pending::of(timer, &request);
        pending.begin();
        let future = self.inner.call(request);
        ResponseFuture::begun(call, self.classify.clone(), pending, future)
    }
}

impl<S: fmt::Debug, C> fmt::Debug for RequestMetrics<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestMetrics")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
