//! Placeholder, until the retry layer lands.
use serde::{Deserialize, Serialize};
/// Stub.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RetryConfig {}
/// Stub.
#[derive(Debug, Clone, Default)]
pub struct RetryLayer {}
impl RetryLayer {
    /// Stub.
    pub fn new(_: RetryConfig) -> Result<Self, crate::ConfigError> {
        Ok(Self {})
    }
}
impl<S> tower_layer::Layer<S> for RetryLayer {
    type Service = Retry<S>;
    fn layer(&self, s: S) -> Retry<S> {
        Retry { inner: s }
    }
}

/// Stub
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
}
impl<S, R> tower_service::Service<R> for Retry<S>
where
    S: tower_service::Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;
    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }
    fn call(&mut self, r: R) -> S::Future {
        self.inner.call(r)
    }
}
