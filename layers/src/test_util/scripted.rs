//! A probe behind a real server.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use super::{Answer, BoxError, Probe, ProbeError, ProbeHandle, TestBody};

/// A [`Probe`] that never fails, as the routers of axum and tonic want their services: for
/// `Router::fallback_service`, for tonic's `Routes::new` (it serves the gRPC service `kit.Test`), and
/// for [`Server::hyper`](super::servers::Server::hyper).
///
/// Where the probe answers with an error, this answers 500 with a body that breaks at once: the
/// client sees its stream, or its connection, reset.
#[derive(Debug, Clone)]
pub struct Scripted(Probe);

// ===== impl Scripted =====

impl Scripted {
    /// The service around a probe.
    pub fn new(probe: Probe) -> Self {
        Self(probe)
    }

    /// As [`Probe::answering`].
    pub fn answering(
        script: impl Fn(u64, &http::request::Parts) -> Answer + Send + Sync + 'static,
    ) -> (Self, ProbeHandle) {
        let (probe, handle) = Probe::answering(script);
        (Self(probe), handle)
    }

    /// As [`Probe::always`].
    pub fn always(answer: Answer) -> (Self, ProbeHandle) {
        let (probe, handle) = Probe::always(answer);
        (Self(probe), handle)
    }
}

impl<B> Service<Request<B>> for Scripted
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<TestBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<TestBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A probe told to fail its readiness is not asked again: its call would panic.
        Service::<Request<B>>::poll_ready(&mut self.0, cx)
            .map(|ready| {
                ready
                    .map_err(|_| ())
                    .expect("a served probe must not fail to be ready")
            })
            .map(Ok)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answered = self.0.call(request);
        Box::pin(async { Ok(answered.await.unwrap_or_else(|_| broken())) })
    }
}

impl NamedService for Scripted {
    const NAME: &'static str = "kit.Test";
}

fn broken() -> Response<TestBody> {
    let mut response = Response::new(TestBody::stream().fail(ProbeError::reset()));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}
