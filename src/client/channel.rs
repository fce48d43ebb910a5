//! The channel for tonic's generated clients: its errors are statuses, as gRPC names them.

use std::{
    error::Error,
    fmt::{self, Write as _},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_mesh_discovery::endpoint::Body;
use tower_mesh_layers::{
    FailureKind,
    transport::{BoxError, diagnose},
};
use tower_service::Service;

use super::{ClientLayer, Endpoints};

/// Calls the gRPC addresses of a service: goes into tonic's generated clients.
///
/// A call that the transport fails ends with the status that gRPC has for it: UNAVAILABLE where no
/// connection can be made or one breaks, DEADLINE_EXCEEDED where time ran out, and what the error code
/// stands for where the peer reset the stream.
///
/// ```no_run
/// # fn call(mesh: tower_mesh::Mesh) {
/// use tonic_health::pb::health_client::HealthClient;
///
/// let health = HealthClient::new(mesh.channel("greeter"));
/// # }
/// ```
#[derive(Debug)]
pub struct Channel<L: Layer<Endpoints> = ClientLayer> {
    service: L::Service,
}

pin_project! {
    /// The future of [`Channel`].
    pub struct ChannelFuture<F> {
        #[pin]
        inner: F,
    }
}

pin_project! {
    /// The response body of [`Channel`].
    #[derive(Debug, Default)]
    pub struct ChannelBody<B> {
        #[pin]
        inner: B,
    }
}

// ===== impl Channel =====

impl<L: Layer<Endpoints>> Channel<L> {
    pub(crate) fn new(layer: &L, endpoints: Endpoints) -> Self {
        Self {
            service: layer.layer(endpoints),
        }
    }
}

impl<L: Layer<Endpoints, Service: Clone>> Clone for Channel<L> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
        }
    }
}

impl<L, S, B> Service<Request<tonic::body::Body>> for Channel<L>
where
    L: Layer<Endpoints, Service = S>,
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>>,
{
    type Response = Response<ChannelBody<B>>;
    type Error = Status;
    type Future = ChannelFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.service.poll_ready(cx).map_err(status)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        ChannelFuture {
            inner: self.service.call(request.map(Body::new)),
        }
    }
}

// ===== impl ChannelFuture =====

impl<F, B, E> Future for ChannelFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ChannelBody<B>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.project().inner.poll(cx));
        Poll::Ready(match answer {
            Ok(response) => Ok(response.map(|inner| ChannelBody { inner })),
            Err(error) => Err(status(error)),
        })
    }
}

impl<F> fmt::Debug for ChannelFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelFuture").finish_non_exhaustive()
    }
}

// ===== impl ChannelBody =====

impl<B> http_body::Body for ChannelBody<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.project().inner.poll_frame(cx).map_err(status)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// ===== statuses =====

/// The status of a failed transport. Left to tonic, which knows its own transport's errors, ours would
/// be UNKNOWN, and callers could not tell a peer that is down from one with a bug.
fn status(error: impl Into<BoxError>) -> Status {
    let error = match error.into().downcast::<Status>() {
        Ok(status) => return *status,
        Err(error) => error,
    };
    let code = match diagnose(&error).kind {
        FailureKind::Connect => Code::Unavailable,
        FailureKind::Reset => reset_code(&*error),
        FailureKind::Timeout => Code::DeadlineExceeded,
        _ => return Status::from_error(error),
    };
    let mut status = Status::new(code, message(&*error));
    status.set_source(Arc::from(error));
    status
}

/// What an HTTP/2 error code stands for: gRPC over HTTP2, "Errors". Without one, or with one for all
/// streams, the connection broke.
fn reset_code(error: &(dyn Error + 'static)) -> Code {
    let reset = chain(error)
        .filter_map(|error| error.downcast_ref::<h2::Error>())
        .find(|error| !error.is_go_away());
    match reset.and_then(h2::Error::reason) {
        Some(
            h2::Reason::NO_ERROR
            | h2::Reason::PROTOCOL_ERROR
            | h2::Reason::INTERNAL_ERROR
            | h2::Reason::FLOW_CONTROL_ERROR
            | h2::Reason::SETTINGS_TIMEOUT
            | h2::Reason::FRAME_SIZE_ERROR
            | h2::Reason::COMPRESSION_ERROR
            | h2::Reason::CONNECT_ERROR,
        ) => Code::Internal,
        Some(h2::Reason::CANCEL) => Code::Cancelled,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        _ => Code::Unavailable,
    }
}

/// The error with its causes: a status that crosses the wire has no source.
fn message(error: &(dyn Error + 'static)) -> String {
    let mut message = String::new();
    for error in chain(error) {
        let separator = if message.is_empty() { "" } else { ": " };
        let _ = write!(message, "{separator}{error}");
    }
    message
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use std::io;

    use tower_mesh_layers::transport::TransportError;

    use super::*;

    fn code_of(error: impl Into<BoxError>) -> Code {
        status(error).code()
    }

    #[test]
    fn a_broken_transport_is_unavailable_and_says_why() {
        let refused = TransportError::connect(io::Error::from(io::ErrorKind::ConnectionRefused));
        let status = status(refused);
        assert_eq!(status.code(), Code::Unavailable);
        let message = "cannot connect to the endpoint: connection refused";
        assert_eq!(status.message(), message);
        assert!(status.source().unwrap().is::<TransportError>());
        let broken = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(code_of(TransportError::reset(broken)), Code::Unavailable);
        assert_eq!(code_of(TransportError::timeout()), Code::DeadlineExceeded);
    }

    #[test]
    fn a_stream_that_was_reset_has_the_status_of_its_error_code() {
        for (reason, code) in [
            (h2::Reason::REFUSED_STREAM, Code::Unavailable),
            (h2::Reason::CANCEL, Code::Cancelled),
            (h2::Reason::INTERNAL_ERROR, Code::Internal),
            (h2::Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        ] {
            let error = TransportError::reset(h2::Error::from(reason));
            assert_eq!(code_of(error), code);
        }
    }

    #[test]
    fn what_is_a_status_already_stays_and_what_is_none_is_unknown() {
        assert_eq!(code_of(Status::not_found("it")), Code::NotFound);
        assert_eq!(code_of("peculiar"), Code::Unknown);
    }
}
