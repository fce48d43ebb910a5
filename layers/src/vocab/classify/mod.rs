//! From an answer to its [`Outcome`]: status, gRPC headers *and* trailers, body errors, early drops.
//!
//! A classifier that stops at the response head counts every failing gRPC stream as a success: its
//! status is in the trailers. One that reads the response's content type takes a proxy's HTML error
//! page for HTTP. So a call is gRPC when the *request's* content type says so ([`CallKind`]), and a
//! classifier works in two steps:
//!
//! ```text
//!   head ──► Decided(outcome)              500, 429, trailers-only grpc-status, a Rejection of ours
//!      └───► Open(end) ──► trailers/end    200 with a body, a gRPC stream
//!                     ├──► body error
//!                     └──► dropped
//! ```
//!
//! [`Classifier`] implements the table of [`Outcome`]'s module. Any layer takes another one, and with
//! the feature `tower-http` any classifier of that crate plugs in through `TowerHttp`.
//!
//! ```
//! use http::{Request, Response};
//! use tower_mesh_layers::{CallKind, Classifier, Classify, Head, Outcome};
//!
//! let request = Request::get("/orders/7").body(())?;
//! let response = Response::builder().status(429).header("retry-after", "2").body(())?;
//! let head = Classifier.head(CallKind::of(&request), &response);
//! assert!(matches!(head, Head::Decided(Outcome::Overload(Some(_)))));
//! # Ok::<(), http::Error>(())
//! ```

mod default;
#[cfg(feature = "tower-http")]
mod tower_http;
mod unjudged;

use http::{HeaderMap, Method, Request, Response};

pub use self::default::{Classifier, DefaultEnd, RETRY_MARK, pushback};
#[cfg(feature = "tower-http")]
pub use self::tower_http::{TowerHttp, TowerHttpEnd};
pub use self::unjudged::Unjudged;
use super::{grpc, outcome::Outcome, transport::Diagnosis};

/// The protocol of a call, told by its *request*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain HTTP; grpc-web is plain HTTP too.
    Http,
    /// gRPC: the request's content type is `application/grpc`, `application/grpc+…` or
    /// `application/grpc;…`.
    Grpc,
}

/// What a layer must remember of a request to judge its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallKind {
    /// HTTP or gRPC.
    pub protocol: Protocol,
    /// The method was HEAD: the response has no body, whatever its headers say.
    pub head: bool,
    /// The method was CONNECT: a 2xx turns the connection into a tunnel.
    pub connect: bool,
}

/// What a response's head says.
#[derive(Debug)]
pub enum Head<E> {
    /// The outcome is known.
    Decided(Outcome),
    /// The outcome depends on how the body ends.
    Open(E),
}

/// Maps an answer to its [`Outcome`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a classifier",
    note = "wrap a classifier of tower-http in `tower_mesh_layers::TowerHttp` (feature `tower-http`)"
)]
pub trait Classify: Clone + Send + Sync + 'static {
    /// Judges the end of a body that the head left open.
    type End: ClassifyEnd;

    /// Judges a response's head.
    fn head<B>(&self, call: CallKind, response: &Response<B>) -> Head<Self::End>;

    /// Judges an error of the inner service.
    fn error(&self, call: CallKind, diagnosis: Diagnosis) -> Outcome {
        let _ = call;
        Outcome::Failure(diagnosis.kind)
    }
}

/// Judges the end of a response body.
pub trait ClassifyEnd: Send + 'static {
    /// What the outcome will be unless the body fails; `None` where only the end can tell.
    fn provisional(&self) -> Option<Outcome> {
        None
    }

    /// The body ended, with these trailers.
    fn end(self, trailers: Option<&HeaderMap>) -> Outcome;

    /// The body failed.
    fn error(self, diagnosis: Diagnosis) -> Outcome;

    /// The caller dropped the body before its end.
    fn dropped(self) -> Outcome;
}

// ===== impl Head =====

impl<E: ClassifyEnd> Head<E> {
    /// The outcome of a call whose body has ended.
    #[inline]
    pub(crate) fn end(self, trailers: Option<&HeaderMap>) -> Outcome {
        match self {
            Self::Decided(outcome) => outcome,
            Self::Open(end) => end.end(trailers),
        }
    }
}

// ===== impl CallKind =====

impl CallKind {
    /// A plain HTTP call with a body.
    pub const HTTP: Self = Self {
        protocol: Protocol::Http,
        head: false,
        connect: false,
    };
    /// A gRPC call.
    pub const GRPC: Self = Self {
        protocol: Protocol::Grpc,
        head: false,
        connect: false,
    };

    /// Reads what matters from a request, before it moves on.
    #[inline]
    pub fn of<B>(request: &Request<B>) -> Self {
        let method = request.method();
        let protocol = if grpc::is_call(method, request.headers()) {
            Protocol::Grpc
        } else {
            Protocol::Http
        };
        Self {
            protocol,
            head: *method == Method::HEAD,
            connect: *method == Method::CONNECT,
        }
    }

    /// Whether the call is gRPC.
    #[inline]
    pub const fn is_grpc(self) -> bool {
        matches!(self.protocol, Protocol::Grpc)
    }
}
