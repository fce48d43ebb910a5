//! Boxed bodies that can hold another body.

use bytes::Bytes;
use http_body::Body;
use http_body_util::{
    BodyExt,
    combinators::{BoxBody, UnsyncBoxBody},
};

#[cfg(any(feature = "axum", feature = "tonic", feature = "reqwest"))]
use crate::vocab::transport::BoxError;

/// A boxed body type that can hold a `T`, for every layer that wraps the request body.
///
/// The `T` is a parameter of the trait, since what it must be (`Sync` or not, which error) differs
/// from one boxed body to the next.
#[diagnostic::on_unimplemented(
    message = "a request body of type `{Self}` cannot be wrapped by a layer",
    note = "use a boxed body: axum's, tonic's, reqwest's, `BoxBody` or `UnsyncBoxBody`",
    note = "`hyper::body::Incoming` cannot hold another body: map it with `axum::body::Body::new`"
)]
pub trait WrapBody<T>: Sized {
    /// Boxes `body`.
    fn wrap(body: T) -> Self;
}

impl<T, E> WrapBody<T> for BoxBody<Bytes, E>
where
    T: Body<Data = Bytes> + Send + Sync + 'static,
    T::Error: Into<E>,
    E: 'static,
{
    fn wrap(body: T) -> Self {
        body.map_err(Into::into).boxed()
    }
}

impl<T, E> WrapBody<T> for UnsyncBoxBody<Bytes, E>
where
    T: Body<Data = Bytes> + Send + 'static,
    T::Error: Into<E>,
    E: 'static,
{
    fn wrap(body: T) -> Self {
        body.map_err(Into::into).boxed_unsync()
    }
}

#[cfg(feature = "axum")]
impl<T> WrapBody<T> for axum::body::Body
where
    T: Body<Data = Bytes> + Send + 'static,
    T::Error: Into<BoxError>,
{
    fn wrap(body: T) -> Self {
        Self::new(body)
    }
}

#[cfg(feature = "tonic")]
impl<T> WrapBody<T> for tonic::body::Body
where
    T: Body<Data = Bytes> + Send + 'static,
    T::Error: Into<BoxError>,
{
    fn wrap(body: T) -> Self {
        Self::new(body)
    }
}

#[cfg(feature = "reqwest")]
impl<T> WrapBody<T> for ::reqwest::Body
where
    T: Body<Data = Bytes> + Send + Sync + 'static,
    T::Error: Into<BoxError>,
{
    fn wrap(body: T) -> Self {
        Self::wrap(body)
    }
}
