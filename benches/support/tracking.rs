//! The least that a layer of ours can be: it watches a call to the end of its body, and does nothing with that.
//!
//! What a layer adds on top is its policy. Where this alone is above a target, no policy can be under it.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service};
use tower_mesh_layers::classify::{CallKind, Classifier, Classify};
use tower_mesh_layers::tracked::{Pending, ResponseBody, Tracked, TrackedFuture};
use tower_mesh_layers::{CallGuard, Outcome};

#[derive(Clone)]
pub(super) struct TrackingLayer;

#[derive(Clone)]
pub(super) struct Watching<S>(S);

/// Told of everything, and keeps none of it.
pub(super) struct Listener;

impl CallGuard for Listener {
    fn end(self, outcome: Outcome) {
        let _ = std::hint::black_box(outcome);
    }
}

impl<S> Layer<S> for TrackingLayer {
    type Service = Watching<S>;

    fn layer(&self, inner: S) -> Watching<S> {
        Watching(inner)
    }
}

impl<S, ReqB, ResB> Service<Request<ReqB>> for Watching<S>
where
    S: Service<Request<ReqB>, Response = Response<ResB>>,
    S::Error: 'static,
    ResB: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<Tracked<ResB, <Classifier as Classify>::End, Listener>>>;
    type Error = S::Error;
    type Future = TrackedFuture<S::Future, Classifier, Listener>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        let call = CallKind::of(&request);
        let mut pending = Pending::of(Listener, &request);
        pending.begin();
        TrackedFuture::begun(call, Classifier, pending, self.0.call(request))
    }
}
