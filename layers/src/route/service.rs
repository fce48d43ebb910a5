//! The service: decides, and calls the inner one.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use tower_service::Service;

use super::routes::Routes;
use crate::vocab::metrics::Registered;

/// Decides which arm of a service each call goes to. The [module](super) is the page.
#[derive(Clone)]
pub struct Route<S> {
    inner: S,
    routes: Arc<Registered<Routes>>,
}

// ===== impl Route =====

impl<S> Route<S> {
    pub(super) fn new(inner: S, routes: Arc<Registered<Routes>>) -> Self {
        Self { inner, routes }
    }

    crate::macros::define_inner_service_accessors!();
}

impl<S, B> Service<Request<B>> for Route<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if self.routes.is_on() {
            self.routes.route(&mut request);
        }
        self.inner.call(request)
    }
}

impl<S: std::fmt::Debug> std::fmt::Debug for Route<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
