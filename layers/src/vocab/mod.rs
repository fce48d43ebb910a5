//! The words that every layer and the balancer speak.
//!
//! | a layer asks | and gets |
//! |---|---|
//! | which state is this call kept by? | [`Key`] → [`Keyed`] |
//! | what do its options say now? | [`Live`] |
//! | what travels with the call? | [`CallContext`] |
//! | how did it end? | [`Classify`] → [`Outcome`], told to a [`CallGuard`] by [`Pending`] and [`Tracked`] |
//! | how is it refused? | [`Rejection`] |
//!
//! ```
//! use http::{Request, StatusCode};
//! use tower_mesh_layers::{CallKind, Classifier, Classify, Head, Outcome, Reason, Rejection};
//!
//! // A refusal is rendered for the protocol of its call, and counts against nobody.
//! let call = CallKind::of(&Request::get("/orders/7").body(())?);
//! let refusal = Rejection::new("my_layer", Reason::RateLimited, "enough for now");
//! let response = refusal.into_response::<http_body_util::Empty<bytes::Bytes>>(call);
//! assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
//! assert!(matches!(Classifier.head(call, &response), Head::Decided(Outcome::Ignored)));
//! # Ok::<(), http::Error>(())
//! ```

pub mod body;
pub mod budget;
pub mod classify;
pub mod client_addr;
pub mod config;
pub mod context;
mod decision;
pub mod grpc;
pub(crate) mod headers;
pub mod histogram;
pub mod idempotent;
pub mod key;
pub mod keyed;
#[cfg(any(feature = "concurrency-limit", feature = "rate-limit"))]
pub(crate) mod later;
pub mod live;
pub mod metrics;
pub mod outcome;
pub(crate) mod pattern;
#[cfg(feature = "otel")]
pub(crate) mod propagation;
pub mod rejection;
pub mod request_match;
pub(crate) mod request_ref;
pub mod role;
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub mod schema;
pub(crate) mod semconv;
pub mod shard;
#[cfg(any(feature = "hedge", feature = "retry"))]
pub(crate) mod snapshot;
pub mod tracked;
pub mod transport;
pub mod trust;
pub mod wheel;

#[cfg(feature = "tower-http")]
pub use self::classify::TowerHttp;
pub use self::{
    body::{Replay, ReplayBody, ReplayLimits, WrapBody},
    budget::{Budget, BudgetTerms},
    classify::{CallKind, Classifier, Classify, ClassifyEnd, Head, Protocol, Unjudged},
    client_addr::{ClientAddr, ClientIp, ForwardedHeader, PeerAddr},
    config::{ByteSize, ConfigError, Ratio},
    context::{Ambient, CallContext, Covers, EndpointId},
    histogram::{Histogram, HistogramSnapshot},
    idempotent::Idempotent,
    key::{Extracted, Key, Operation},
    keyed::{Keyed, KeyedStats},
    live::Live,
    outcome::{FailureKind, Outcome, Pushback},
    rejection::{Reason, Rejection},
    request_match::{MatchConfig, RequestMatch, StringMatch},
    role::Role,
    shard::{Counter, Sharded, UpDown},
    tracked::{CallGuard, Pending, ResponseBody, Tracked},
    transport::{BoxError, TransportError},
    trust::{Cidr, Trust},
    wheel::{Wheel, WheelTimer},
};
