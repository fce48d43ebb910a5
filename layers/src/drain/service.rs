//! The service: counts a call, or refuses it.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body;
use tower_service::Service;

use super::{InFlight, ResponseBody, ResponseFuture, layer::Shared};
use crate::vocab::{
    classify::CallKind,
    metrics::Registered,
    rejection::{Reason, Rejection},
    tracked::Pending,
};

/// Takes no new calls once it is told to, and finishes those that there are. The [module](super) is the page.
#[derive(Clone)]
pub struct Drain<S> {
    inner: S,
    shared: Arc<Registered<Shared>>,
}

// ===== impl Drain =====

impl<S> Drain<S> {
    pub(super) fn new(inner: S, shared: Arc<Registered<Shared>>) -> Self {
        Self { inner, shared }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Drain<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + 'static,
    ReqB: 'static,
    ResB: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let call = CallKind::of(&request);
        let shared = &self.shared;
        if !shared.is_on() {
            return ResponseFuture::passing(call, self.inner.call(request));
        }
        // HTTP/2 has no such header; there it is the server that says so.
        let to_close = (request.version() < Version::HTTP_2).then(|| shared.clone());
        // Counted first: see `Shared`.
        let guard = InFlight::new(shared.clone());
        if shared.refuses() {
            shared.refused.add(1);
            return ResponseFuture::refused(call, refusal(), to_close);
        }
        let mut pending = Pending::new(guard, None);
        pending.begin();
        let future = self.inner.call(request);
        ResponseFuture::counted(call, pending, future, to_close)
    }
}

#[cold]
fn refusal() -> Rejection {
    Rejection::new("drain", Reason::Draining, "this instance is shutting down")
}

impl<S: fmt::Debug> fmt::Debug for Drain<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
