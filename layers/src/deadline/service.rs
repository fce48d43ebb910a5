//! The service: work out the deadline, refuse what is too late.

use std::{
    fmt,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{ResponseBody, ResponseFuture, config::Seen, layer::Handle, limit::Limit};
use crate::vocab::{classify::CallKind, context::Ambient, role::Role, transport::BoxError};

/// Gives calls a deadline, and passes it on. The [module](super) is the page.
#[derive(Clone)]
pub struct Deadline<S> {
    inner: S,
    shared: Handle,
    role: Role,
    seen: Seen,
}

// ===== impl Deadline =====

impl<S> Deadline<S> {
    pub(super) fn new(inner: S, shared: Handle, role: Role) -> Self {
        Self {
            inner,
            role,
            seen: Seen::now(&shared.config),
            shared,
        }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Deadline<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>> + 'static,
    ReqB: 'static,
    ResB: Body<Data = Bytes>,
    ResB::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<ResB>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqB>) -> Self::Future {
        let call = CallKind::of(&request);
        let terms = self.seen.terms(&self.shared.config);
        let mut ambient = None;
        let limit = Limit::of(
            &self.shared,
            terms,
            self.role,
            call,
            &mut request,
            &mut ambient,
        );
        let has_phases = terms.has_phases;
        let limit = match limit {
            Ok(limit) => limit,
            Err(rejection) => return ResponseFuture::rejected(rejection, call),
        };
        let entered = ambient.as_mut().map(Ambient::entered);
        let future = self.inner.call(request);
        drop(entered);
        if has_phases {
            return ResponseFuture::in_phases(future, call, limit, ambient, &self.shared);
        }
        ResponseFuture::new(future, call, limit, ambient, &self.shared)
    }
}

impl<S: fmt::Debug> fmt::Debug for Deadline<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline")
            .field("inner", &self.inner)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}
