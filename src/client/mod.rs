//! Named clients: discovery, balancing and the client preset in one `tower` service.
//!
//! [`Client`] takes `http::Request<Body>` and calls the HTTP addresses of a service; [`Channel`] goes
//! into tonic's generated clients and calls the gRPC addresses. Both are cheap to clone and share
//! everything with their clones.

#[cfg(feature = "tonic")]
mod channel;
mod config;
mod layer;

use std::task::{Context, Poll};

use http::Request;
use tower_layer::Layer;
use tower_mesh_discovery::{
    balance::Balance,
    endpoint::{Body, http::HttpEndpoints},
};
use tower_service::Service;

#[cfg(feature = "tonic")]
pub use self::channel::{Channel, ChannelBody, ChannelFuture};
pub use self::{config::ClientConfig, layer::ClientLayer};

/// What the client preset goes around.
pub type Endpoints = Balance<HttpEndpoints>;

/// Calls the HTTP addresses of a service: a `tower` service over `http::Request<Body>`.
///
/// The authority of the request's URI is ignored, since the balancer picks an address: a path is
/// enough.
///
/// ```no_run
/// # async fn call(mesh: tower_mesh::Mesh) -> Result<(), Box<dyn std::error::Error>> {
/// use http::Request;
/// use tower::{Service, ServiceExt};
/// use tower_mesh::Body;
///
/// let mut orders = mesh.client("orders");
/// let request = Request::get("/orders/7").body(Body::empty())?;
/// let response = orders.ready().await?.call(request).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client<L: Layer<Endpoints> = ClientLayer> {
    service: L::Service,
}

// ===== impl Client =====

impl<L: Layer<Endpoints>> Client<L> {
    pub(crate) fn new(layer: &L, endpoints: Endpoints) -> Self {
        Self {
            service: layer.layer(endpoints),
        }
    }
}

impl<L: Layer<Endpoints, Service: Clone>> Clone for Client<L> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
        }
    }
}

impl<L> Service<Request<Body>> for Client<L>
where
    L: Layer<Endpoints, Service: Service<Request<Body>>>,
{
    type Response = <L::Service as Service<Request<Body>>>::Response;
    type Error = <L::Service as Service<Request<Body>>>::Error;
    type Future = <L::Service as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.service.call(request)
    }
}
