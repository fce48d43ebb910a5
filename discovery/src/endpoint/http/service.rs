//! The endpoint itself: one address, its connections, as a service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_mesh_layers::transport::TransportError;
use tower_service::Service;

use super::{
    super::{Body, Connectivity},
    future::ResponseFuture,
    pool::{Pool, Reservation},
    response::IncomingBody,
};

/// A pooled HTTP client for one address. See the [module](super).
///
/// Clones share the connections; a clone is one reference count. A reserved connection belongs to
/// the clone that was polled, and goes back when that clone is dropped.
pub struct HttpEndpoint {
    pub(super) pool: Arc<Pool>,
    reservation: Reservation,
}

// ===== impl HttpEndpoint =====

impl HttpEndpoint {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            pool: Arc::new(pool),
            reservation: Reservation::default(),
        }
    }

    /// What is known about the connections right now.
    pub fn connectivity(&self) -> Connectivity {
        self.pool.connectivity()
    }
}

impl Service<Request<Body>> for HttpEndpoint {
    type Response = Response<IncomingBody>;
    type Error = TransportError;
    type Future = ResponseFuture;

    /// Reserves a connection, and opens one if none is free.
    ///
    /// # Errors
    ///
    /// When no connection could be made. The endpoint may be polled again and then tries again.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, if a connection must be opened.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.reservation.poll_hold(&self.pool, cx)
    }

    /// Sends the request on the reserved connection.
    ///
    /// # Panics
    ///
    /// If [`poll_ready`](Self::poll_ready) was not ready before.
    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let lane = self
            .reservation
            .take()
            .expect("`poll_ready` must be ready before `call`");
        ResponseFuture::new(self.pool.clone(), lane, request)
    }
}

impl Clone for HttpEndpoint {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            reservation: Reservation::default(),
        }
    }
}

impl Drop for HttpEndpoint {
    fn drop(&mut self) {
        self.reservation.release(&self.pool);
    }
}

impl fmt::Debug for HttpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpEndpoint")
            .field("address", &format_args!("{}", self.pool.connector()))
            .field("connectivity", &self.connectivity())
            .finish_non_exhaustive()
    }
}
