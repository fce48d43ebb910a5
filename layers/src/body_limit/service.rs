//! The service: refuse what says that it is too large, count what does not say.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Body;
use tower_service::Service;

use super::{
    LimitBody, RequestLimit, ResponseBody, ResponseFuture,
    body::{Trip, too_large},
    budget::Known,
    layer::Seen,
};
use crate::vocab::{classify::CallKind, config::ByteSize, headers, transport::BoxError};

/// Bounds how many bytes a request or a response may have. The [module](super) is the page.
#[derive(Clone)]
pub struct BodyLimit<S> {
    inner: S,
    seen: Arc<Seen>,
}

// ===== impl BodyLimit =====

impl<S> BodyLimit<S> {
    pub(super) fn new(inner: S, seen: Arc<Seen>) -> Self {
        Self { inner, seen }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for BodyLimit<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    ReqB: LimitBody,
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
        let limits = self.seen.limits();
        let mut trip = None;
        if let Some(limit) = limits.request {
            match judge(&request, limit) {
                Known::Fits => {}
                Known::Nothing => {
                    let watch = Trip::new(limit, self.seen.shared.clone());
                    trip = Some(watch.clone());
                    request = request.map(|body| body.counted(RequestLimit(watch)));
                }
                Known::TooLarge => {
                    self.seen.shared.requests.add(1);
                    return ResponseFuture::rejected(too_large(limit), call);
                }
            }
        }
        let response = limits
            .response
            .map(|limit| (limit, self.seen.shared.clone()));
        ResponseFuture::inner(self.inner.call(request), call, trip, response)
    }
}

/// What is known of a request's length before it is read.
#[inline]
fn judge<B: Body>(request: &Request<B>, limit: ByteSize) -> Known {
    if request.body().is_end_stream() {
        return Known::Fits;
    }
    match limit.budget().judge(&request.body().size_hint()) {
        // A body that does not know may still have a header that does.
        Known::Nothing if declared(request).is_some_and(|length| length > limit.bytes()) => {
            Known::TooLarge
        }
        known => known,
    }
}

fn declared<B>(request: &Request<B>) -> Option<u64> {
    let length = headers::find(request.headers(), &header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

impl<S: fmt::Debug> fmt::Debug for BodyLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyLimit")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
