//! [`Reqwest`]: a `reqwest::Client` that layers fit around.
//!
//! ```no_run
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_mesh_layers::{reqwest::Reqwest, circuit_breaker::CircuitBreakerLayer};
//!
//! # async fn call() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = ServiceBuilder::new()
//!     .layer(CircuitBreakerLayer::default())
//!     .service(Reqwest::from(reqwest::Client::new()));
//!
//! let request = http::Request::get("http://orders:8080/orders/7").body(reqwest::Body::default())?;
//! let response = client.ready().await?.call(request).await?;
//! let text = reqwest::Response::from(response.map(reqwest::Body::wrap)).text().await?;
//! # Ok(())
//! # }
//! ```
//!
//! It takes one concrete request type, so that `.ready().await?.call(request)` needs no annotation. The
//! URI must be absolute; it is parsed again as a URL for every call, since reqwest has its own type.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use ::reqwest::{Body, Client, Error, Request as ReqwestRequest};
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

/// A `reqwest::Client` as a service over `http::Request<reqwest::Body>`.
#[derive(Debug, Clone, Default)]
pub struct Reqwest(Client);

pin_project! {
    /// The future of [`Reqwest`].
    #[project = ResponseFutureProj]
    #[allow(missing_debug_implementations)] // reqwest's future is opaque
    pub struct ResponseFuture {
        #[pin]
        state: State,
    }
}

pin_project! {
    #[project = StateProj]
    enum State {
        Call { #[pin] future: <Client as Service<ReqwestRequest>>::Future },
        Refused { error: Option<Error> },
    }
}

// ===== impl Reqwest =====

impl Reqwest {
    /// The client.
    pub fn get_ref(&self) -> &Client {
        &self.0
    }
}

impl From<Client> for Reqwest {
    fn from(client: Client) -> Self {
        Self(client)
    }
}

impl Service<Request<Body>> for Reqwest {
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let state = match ReqwestRequest::try_from(request) {
            Ok(request) => State::Call {
                future: self.0.call(request),
            },
            // A relative URI: reqwest has no endpoint of its own to complete it.
            Err(error) => State::Refused { error: Some(error) },
        };
        ResponseFuture { state }
    }
}

// ===== impl ResponseFuture =====

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Call { future } => future.poll(cx).map_ok(Response::from),
            StateProj::Refused { error } => {
                let error = error
                    .take()
                    .expect("a future must not be polled after it is ready");
                Poll::Ready(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;
    use crate::vocab::{outcome::FailureKind, transport::diagnose};

    #[tokio::test]
    async fn a_relative_uri_is_an_error_and_no_panic() {
        let request = Request::get("/orders/7").body(Body::default()).unwrap();
        let error = Reqwest::default().oneshot(request).await.unwrap_err();
        assert!(error.is_builder(), "{error}");
    }

    #[tokio::test]
    async fn a_refused_connection_is_known_for_unsent() {
        // Port 1 of the loopback: nothing listens there.
        let request = Request::get("http://127.0.0.1:1/")
            .body(Body::default())
            .unwrap();
        let error = Reqwest::default().oneshot(request).await.unwrap_err();
        let diagnosis = diagnose(&error);
        assert_eq!(
            (diagnosis.kind, diagnosis.unsent),
            (FailureKind::Connect, true)
        );
    }
}
