//! Calling a service later, without naming it.

use http::Request;
use tower_service::Service;

/// A call that has not been made yet.
///
/// Futures of layers with a queue hold it as a `dyn`: one that named the service as well as the future of
/// that would make the type of a stack twice as long with each such layer.
pub(crate) trait Later<F> {
    /// Makes the call, once.
    fn call(&mut self) -> F;
}

/// A service that has been polled ready, and its request.
pub(crate) struct Held<S, B> {
    service: S,
    request: Option<Request<B>>,
}

// ===== impl Held =====

impl<S, B> Held<S, B> {
    pub(crate) fn new(service: S, request: Request<B>) -> Self {
        Self {
            service,
            request: Some(request),
        }
    }
}

impl<S: Service<Request<B>>, B> Later<S::Future> for Held<S, B> {
    fn call(&mut self) -> S::Future {
        let request = self.request.take().expect("a call is made once");
        self.service.call(request)
    }
}
