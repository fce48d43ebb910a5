//! A place in a preset that a layer may take, or leave empty.
//!
//! A preset is one type whatever is configured, so that it can be named, cloned and put anywhere. What
//! an empty slot costs a call is one branch on a value that never changes.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_mesh_layers::{BoxError, ConfigError};
use tower_service::Service;

/// A place in a preset that the layer `L` takes, or that is empty.
#[derive(Debug, Clone)]
pub struct Slot<L>(Option<L>);

/// The service of a [`Slot`].
#[derive(Debug, Clone)]
pub enum SlotService<A, S> {
    /// The layer's service.
    Taken(A),
    /// What is below an empty slot.
    Empty(S),
}

pin_project! {
    /// The future of a [`SlotService`].
    #[project = SlotFutureProj]
    #[derive(Debug)]
    #[allow(missing_docs)] // pin-project-lite takes no comment on a pinned field
    pub enum SlotFuture<A, S> {
        /// That of the layer's service.
        Taken { #[pin] future: A },
        /// That of the service below.
        Empty { #[pin] future: S },
    }
}

pin_project! {
    /// The response body of a [`SlotService`].
    #[project = SlotBodyProj]
    #[derive(Debug)]
    #[allow(missing_docs)] // pin-project-lite takes no comment on a pinned field
    pub enum SlotBody<A, S> {
        /// That of the layer's service.
        Taken { #[pin] body: A },
        /// That of the service below.
        Empty { #[pin] body: S },
    }
}

// ===== impl Slot =====

impl<L> Slot<L> {
    /// An empty slot.
    pub const EMPTY: Self = Self(None);

    /// A slot that is taken where its section of the configuration is there.
    pub(crate) fn configured<C: Clone>(
        section: &str,
        config: &Option<C>,
        make: impl FnOnce(C) -> Result<L, ConfigError>,
    ) -> Result<Self, ConfigError> {
        let layer = config.clone().map(make).transpose();
        layer.map(Self).map_err(|error| error.at(section))
    }

    /// The layer that took it.
    pub fn get(&self) -> Option<&L> {
        self.0.as_ref()
    }
}

impl<L> From<Option<L>> for Slot<L> {
    fn from(layer: Option<L>) -> Self {
        Self(layer)
    }
}

impl<S, L: Layer<S>> Layer<S> for Slot<L> {
    type Service = SlotService<L::Service, S>;

    fn layer(&self, inner: S) -> Self::Service {
        match &self.0 {
            Some(layer) => SlotService::Taken(layer.layer(inner)),
            None => SlotService::Empty(inner),
        }
    }
}

// ===== impl SlotService =====

impl<A, S, ReqB, BodyA, BodyS> Service<Request<ReqB>> for SlotService<A, S>
where
    A: Service<Request<ReqB>, Response = Response<BodyA>>,
    S: Service<Request<ReqB>, Response = Response<BodyS>, Error = A::Error>,
{
    type Response = Response<SlotBody<BodyA, BodyS>>;
    type Error = A::Error;
    type Future = SlotFuture<A::Future, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), A::Error>> {
        match self {
            Self::Taken(service) => service.poll_ready(cx),
            Self::Empty(service) => service.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<ReqB>) -> Self::Future {
        match self {
            Self::Taken(service) => SlotFuture::Taken {
                future: service.call(request),
            },
            Self::Empty(service) => SlotFuture::Empty {
                future: service.call(request),
            },
        }
    }
}

// ===== impl SlotFuture =====

impl<A, S, BodyA, BodyS, E> Future for SlotFuture<A, S>
where
    A: Future<Output = Result<Response<BodyA>, E>>,
    S: Future<Output = Result<Response<BodyS>, E>>,
{
    type Output = Result<Response<SlotBody<BodyA, BodyS>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project() {
            SlotFutureProj::Taken { future } => {
                Ok(ready!(future.poll(cx))?.map(|body| SlotBody::Taken { body }))
            }
            SlotFutureProj::Empty { future } => {
                Ok(ready!(future.poll(cx))?.map(|body| SlotBody::Empty { body }))
            }
        })
    }
}

// ===== impl SlotBody =====

impl<A: Default, S> Default for SlotBody<A, S> {
    fn default() -> Self {
        Self::Taken { body: A::default() }
    }
}

impl<A, S> Body for SlotBody<A, S>
where
    A: Body<Data = Bytes, Error: Into<BoxError>>,
    S: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            SlotBodyProj::Taken { body } => body.poll_frame(cx).map_err(Into::into),
            SlotBodyProj::Empty { body } => body.poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Taken { body } => body.is_end_stream(),
            Self::Empty { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Taken { body } => body.size_hint(),
            Self::Empty { body } => body.size_hint(),
        }
    }
}
