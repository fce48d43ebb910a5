//! The service: calls the inner one, and outlives its panic.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    ResponseBody, ResponseFuture,
    layer::{At, Shared},
};
use crate::vocab::{classify::CallKind, metrics::Registered, transport::BoxError};

/// Answers for a handler that panics. The [module](super) is the page.
#[derive(Clone)]
pub struct CatchPanic<S> {
    inner: S,
    shared: Arc<Registered<Shared>>,
}

// ===== impl CatchPanic =====

impl<S> CatchPanic<S> {
    pub(super) fn new(inner: S, shared: Arc<Registered<Shared>>) -> Self {
        Self { inner, shared }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for CatchPanic<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let call = CallKind::of(&request);
        if !self.shared.is_on() {
            return ResponseFuture::inner(self.inner.call(request), call, None);
        }
        // NOTE: unwind safe in that whoever shares something with the inner service has to bear its panics anyway; the
        // service itself is not called again by hosts that clone it for each call, as axum and hyper's glue do.
        match catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) {
            Ok(future) => ResponseFuture::inner(future, call, Some(self.shared.clone())),
            Err(payload) => {
                let rejection = self.shared.caught(&*payload, At::Head, call);
                ResponseFuture::rejected(rejection, call)
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for CatchPanic<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatchPanic")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
