//! Endpoints: the services that [`Balance`](crate::balance) picks among.
//!
//! An endpoint is a [`tower_service::Service`] for one address of one [`Instance`]. The balancer has
//! it made by a [`MakeEndpoint`] when the address appears, keeps it while the address stays, and
//! clones it for every call.
//!
//! | made by | feature | endpoint | connects |
//! |---|---|---|---|
//! | [`HttpEndpoints`](http::HttpEndpoints) | `http-client` | our own pooled hyper client: HTTP/1.1 and HTTP/2, TLS, unix sockets | in `poll_ready` |
//! | [`TonicEndpoints`](tonic::TonicEndpoints) | `tonic` | a lazy tonic `Channel` | in `call` |
//! | a closure, [`from_fn`], your own type | | whatever you return | as it likes |
//!
//! # Where an endpoint connects
//!
//! An endpoint that connects in `poll_ready` fails there as well, while the balancer still holds
//! the request, so that a refused connection costs the caller nothing: the balancer picks again.
//! An endpoint that connects in `call` has taken the request by then, and only a retry layer around
//! the balancer can try another one.
//!
//! # Example
//!
//! A closure over the instance is enough where one service serves every address alike:
//!
//! ```
//! use tower_mesh_discovery::{endpoint::MakeEndpoint, instance::Instance};
//!
//! # #[derive(Clone)] struct Stub;
//! # fn my_service(_: &Instance) -> Stub { Stub }
//! fn endpoints() -> impl MakeEndpoint {
//!     |instance: &Instance| my_service(instance)
//! }
//! # let _ = endpoints();
//! ```

use std::convert::Infallible;

use tower_mesh_layers::transport::BoxError;

use crate::instance::{EndpointUrl, Instance};

mod body;
#[cfg(feature = "http-client")]
pub mod http;
#[cfg(feature = "tonic")]
pub mod tonic;

pub use self::body::Body;

/// Makes the service for one address of one instance.
///
/// Closures `Fn(&Instance) -> S` are one, for services that cannot fail to be made and do not ask
/// which of the instance's addresses was chosen; [`from_fn`] is for the others.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make endpoints",
    label = "expected `HttpEndpoints`, `TonicEndpoints` or a closure `|instance: &Instance| service`",
    note = "the service must be `Clone + Send + Sync + 'static`"
)]
pub trait MakeEndpoint: Send + Sync + 'static {
    /// The service: cloned for every call, so a clone should be cheap.
    type Service: Clone + Send + Sync + 'static;

    /// Why no service could be made, for example a name that is no TLS server name.
    type Error: Into<BoxError>;

    /// Makes the service that calls `instance` at `url`, one of its endpoints.
    ///
    /// Nothing is connected here: it is called when the instance appears.
    ///
    /// # Errors
    ///
    /// When the instance or the address cannot be called this way, whatever happens later. The
    /// balancer leaves such an instance out and says so.
    fn make_endpoint(
        &self,
        instance: &Instance,
        url: &EndpointUrl,
    ) -> Result<Self::Service, Self::Error>;

    /// What `service` knows about its connection by itself, without being called.
    ///
    /// The balancer reads it while it picks, so it must cost no more than a load or two.
    fn connectivity(&self, service: &Self::Service) -> Connectivity {
        let _ = service;
        Connectivity::Unknown
    }
}

/// What an endpoint knows about its own connection, in gRPC's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Connectivity {
    /// It does not tell.
    #[default]
    Unknown,
    /// No connection is open and none was refused: the next call will connect.
    Idle,
    /// At least one connection is open.
    Ready,
    /// The last attempt to connect failed, and no connection is open.
    TransientFailure,
}

// ===== impl MakeEndpoint =====

impl<F, S> MakeEndpoint for F
where
    F: Fn(&Instance) -> S + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
{
    type Service = S;
    type Error = Infallible;

    fn make_endpoint(&self, instance: &Instance, _: &EndpointUrl) -> Result<S, Infallible> {
        Ok(self(instance))
    }
}

/// Makes endpoints with a function that sees the chosen address, and may fail.
///
/// ```
/// use std::convert::Infallible;
/// use tower_mesh_discovery::endpoint::{self, MakeEndpoint};
///
/// # #[derive(Clone)] struct Stub;
/// fn endpoints() -> impl MakeEndpoint {
///     endpoint::from_fn(|_instance, url| {
///         let _address = url.to_string();
///         Ok::<_, Infallible>(Stub)
///     })
/// }
/// # let _ = endpoints();
/// ```
pub fn from_fn<F, S, E>(make: F) -> FromFn<F>
where
    F: Fn(&Instance, &EndpointUrl) -> Result<S, E> + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
    E: Into<BoxError>,
{
    FromFn { make }
}

/// A [`MakeEndpoint`] from a function: see [`from_fn`].
#[derive(Debug, Clone, Copy)]
pub struct FromFn<F> {
    make: F,
}

// ===== impl FromFn =====

impl<F, S, E> MakeEndpoint for FromFn<F>
where
    F: Fn(&Instance, &EndpointUrl) -> Result<S, E> + Send + Sync + 'static,
    S: Clone + Send + Sync + 'static,
    E: Into<BoxError>,
{
    type Service = S;
    type Error = E;

    fn make_endpoint(&self, instance: &Instance, url: &EndpointUrl) -> Result<S, E> {
        (self.make)(instance, url)
    }
}
