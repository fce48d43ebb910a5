//! The bodies: handed on, counted, and cut off at the limit.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Empty, Full};
use pin_project_lite::pin_project;

use super::{
    budget::{Budget, Known},
    layer::Shared,
};
use crate::vocab::{
    body::WrapBody,
    classify::CallKind,
    config::ByteSize,
    metrics::Registered,
    rejection::{Reason, Rejection},
    transport::BoxError,
};

pin_project! {
    /// A body that has at most so many bytes.
    ///
    /// With the frame that would be too much it fails with [`BodyTooLarge`], and the inner body is dropped. A gRPC
    /// response then gives trailers with RESOURCE_EXHAUSTED instead.
    pub struct LimitedBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<B> {
        /// Without a limit, or known to be within it.
        Passing { #[pin] inner: B },
        Counting { #[pin] inner: B, left: Budget, over: Over },
        /// Known to be too large before a byte of it was read.
        Over { over: Over },
        Done,
    }
}

/// The error of a body that is longer than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is larger than {limit}")]
#[non_exhaustive]
pub struct BodyTooLarge {
    /// What it may have.
    pub limit: ByteSize,
}

/// What is to be done where the limit is passed.
enum Over {
    Request(Arc<Trip>),
    Response {
        limit: ByteSize,
        is_grpc: bool,
        shared: Arc<Registered<Shared>>,
    },
}

/// What the body of a request tells the future of its call.
pub(super) struct Trip {
    over: AtomicBool,
    limit: ByteSize,
    shared: Arc<Registered<Shared>>,
}

/// A request body that can be counted while its type stays what it is.
#[diagnostic::on_unimplemented(
    message = "a request body of type `{Self}` cannot be counted by a body limit",
    note = "use a boxed body (axum's, tonic's, reqwest's, `BoxBody` or `UnsyncBoxBody` with a boxed error) or `Full<Bytes>`",
    note = "`hyper::body::Incoming` cannot hold another body: map it with `axum::body::Body::new`"
)]
pub trait LimitBody: Body<Data = Bytes> + Sized {
    /// Counts a body whose length is not known.
    fn counted(self, limit: RequestLimit) -> Self;
}

/// The limit of a request, for [`LimitBody`].
#[derive(Clone)]
pub struct RequestLimit(pub(super) Arc<Trip>);

/// The refusal of a request.
#[cold]
pub(super) fn too_large(limit: ByteSize) -> Rejection {
    let detail = format!("the request body is larger than {limit}");
    Rejection::new("body_limit", Reason::BodyTooLarge, detail).retry_never()
}

// ===== impl Trip =====

impl Trip {
    pub(super) fn new(limit: ByteSize, shared: Arc<Registered<Shared>>) -> Arc<Self> {
        Arc::new(Self {
            over: AtomicBool::new(false),
            limit,
            shared,
        })
    }

    /// Whether the body was too large. It is polled by the call that asks, or has told it that it failed.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    pub(super) fn limit(&self) -> ByteSize {
        self.limit
    }
}

// ===== impl LimitBody =====

impl<B> LimitBody for B
where
    B: Body<Data = Bytes> + WrapBody<LimitedBody<B>>,
{
    fn counted(self, limit: RequestLimit) -> Self {
        Self::wrap(LimitedBody::request(self, limit.0))
    }
}

/// Its length is always known.
impl LimitBody for Full<Bytes> {
    fn counted(self, _: RequestLimit) -> Self {
        self
    }
}

/// Its length is always known.
impl LimitBody for Empty<Bytes> {
    fn counted(self, _: RequestLimit) -> Self {
        self
    }
}

impl fmt::Debug for RequestLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestLimit").field(&self.0.limit).finish()
    }
}

// ===== impl Over =====

impl Over {
    /// Counts, and gives the last frame.
    #[cold]
    fn last(&self) -> Result<Frame<Bytes>, BoxError> {
        match self {
            Self::Request(trip) => {
                trip.shared.requests.add(1);
                trip.over.store(true, Relaxed);
                Err(BodyTooLarge { limit: trip.limit }.into())
            }
            Self::Response {
                limit,
                is_grpc,
                shared,
            } => {
                shared.responses.add(1);
                if !is_grpc {
                    return Err(BodyTooLarge { limit: *limit }.into());
                }
                let detail = format!("the response is larger than {limit}");
                let rejection = Rejection::new("body_limit", Reason::BodyTooLarge, detail);
                let mut trailers = HeaderMap::new();
                rejection.retry_never().write_grpc_status(&mut trailers);
                Ok(Frame::trailers(trailers))
            }
        }
    }
}

// ===== impl LimitedBody =====

impl<B: Body> LimitedBody<B> {
    #[inline]
    pub(super) fn passing(inner: B) -> Self {
        Self {
            state: State::Passing { inner },
        }
    }

    /// A request body whose length is not known.
    pub(super) fn request(inner: B, trip: Arc<Trip>) -> Self {
        Self {
            state: State::Counting {
                inner,
                left: trip.limit.budget(),
                over: Over::Request(trip),
            },
        }
    }

    pub(super) fn response(
        inner: B,
        limit: ByteSize,
        call: CallKind,
        shared: Arc<Registered<Shared>>,
    ) -> Self {
        let left = limit.budget();
        let over = |shared| Over::Response {
            limit,
            is_grpc: call.is_grpc(),
            shared,
        };
        let state = match left.judge(&inner.size_hint()) {
            Known::Fits => State::Passing { inner },
            Known::Nothing => State::Counting {
                inner,
                left,
                over: over(shared),
            },
            // The inner body goes at once, and with it what is on its way.
            Known::TooLarge => State::Over { over: over(shared) },
        };
        Self { state }
    }
}

impl<B> Body for LimitedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.project().state;
        let last = match state.as_mut().project() {
            StateProj::Passing { inner } => return inner.poll_frame(cx).map_err(Into::into),
            StateProj::Counting { inner, left, over } => {
                let polled = ready!(inner.poll_frame(cx));
                let bytes = match &polled {
                    Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
                    _ => 0,
                };
                if left.take(bytes) {
                    return Poll::Ready(polled.map(|frame| frame.map_err(Into::into)));
                }
                over.last()
            }
            StateProj::Over { over } => over.last(),
            StateProj::Done => return Poll::Ready(None),
        };
        // Before the reader gets to it: whoever sends hears of it at once.
        state.set(State::Done);
        Poll::Ready(Some(last))
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Passing { inner } | State::Counting { inner, .. } => inner.is_end_stream(),
            State::Over { .. } => false,
            State::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Passing { inner } => inner.size_hint(),
            State::Counting { inner, left, .. } => left.promise(&inner.size_hint()),
            // NOTE: not zero, or nobody would poll it and learn what is the matter.
            State::Over { .. } => SizeHint::new(),
            State::Done => SizeHint::with_exact(0),
        }
    }
}

impl<B> fmt::Debug for LimitedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Passing { .. } => "passing",
            State::Counting { .. } => "counting",
            State::Over { .. } => "over",
            State::Done => "done",
        };
        f.debug_tuple("LimitedBody").field(&state).finish()
    }
}
