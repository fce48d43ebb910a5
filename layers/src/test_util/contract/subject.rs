//! A layer under examination, with its types erased: the rules are compiled once, not once for
//! every layer and every pair.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower_layer::Layer;
use tower_service::Service;

use super::Tally;
use crate::test_util::{BoxError, Probe, TestBody};

pub(super) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;
type BoxFuture = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, BoxError>> + Send>>;

/// One layer, built once.
pub(super) struct Subject {
    pub(super) apply: Box<dyn Fn(Probe) -> Driven>,
    pub(super) held: Option<Box<dyn Fn() -> usize>>,
    pub(super) tally: Option<Box<dyn Fn() -> Tally>>,
}

/// A service that came out of the layer.
pub(super) struct Driven(Box<dyn Erased>);

trait Erased {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>;
    fn call(&mut self, request: Request<TestBody>) -> BoxFuture;
    fn boxed_clone(&self) -> Box<dyn Erased>;
}

struct Typed<S, B> {
    service: S,
    into_body: Arc<dyn Fn(TestBody) -> B>,
}

// ===== impl Subject =====

impl Subject {
    /// The bounds are those that the hosts have: see the table of `Contract::run`.
    pub(super) fn new<L, B, R>(layer: &Arc<L>, into_body: Arc<dyn Fn(TestBody) -> B>) -> Self
    where
        L: Layer<Probe> + Clone + 'static,
        L::Service: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        <L::Service as Service<Request<B>>>::Error: Into<BoxError>,
        <L::Service as Service<Request<B>>>::Future: Send + 'static,
        B: 'static,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let layer = layer.clone();
        let apply = move |probe| {
            // The layer is cloned first, as axum's router does.
            let service = L::clone(&layer).layer(probe);
            Driven(Box::new(Typed {
                service,
                into_body: into_body.clone(),
            }))
        };
        Self {
            apply: Box::new(apply),
            held: None,
            tally: None,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held())
    }
}

// ===== impl Driven =====

impl Service<Request<TestBody>> for Driven {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = BoxFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<TestBody>) -> BoxFuture {
        self.0.call(request)
    }
}

impl Clone for Driven {
    fn clone(&self) -> Self {
        Self(self.0.boxed_clone())
    }
}

// ===== impl Typed =====

impl<S, B, R> Erased for Typed<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<TestBody>) -> BoxFuture {
        let called = self
            .service
            .call(request.map(|body| (self.into_body)(body)));
        Box::pin(async {
            let response = called.await.map_err(Into::into)?;
            Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
        })
    }

    fn boxed_clone(&self) -> Box<dyn Erased> {
        let (service, into_body) = (self.service.clone(), self.into_body.clone());
        Box::new(Self { service, into_body })
    }
}
