//! The words that every layer and the balancer speak.

pub mod body;
pub mod classify;
pub mod client_addr;
pub mod config;
pub mod context;
pub mod grpc;
pub(crate) mod headers;
pub mod histogram;
pub mod key;
pub mod keyed;
pub mod live;
pub mod metrics;
pub mod outcome;
mod pattern;
pub mod rejection;
pub mod request_match;
mod request_ref;
pub mod shard;
pub mod tracked;
pub mod transport;
pub mod trust;
pub mod wheel;

#[cfg(feature = "tower-http")]
pub use self::classify::TowerHttp;
pub use self::{
    body::{Replay, ReplayBody, ReplayLimits, WrapBody},
    classify::{CallKind, Classifier, Classify, ClassifyEnd, Head, Protocol},
    client_addr::{ClientAddr, ClientIp, ForwardedHeader, PeerAddr},
    config::{ConfigError, Ratio},
    context::{Ambient, CallContext, Covers, EndpointId},
    histogram::{Histogram, HistogramSnapshot},
    key::{Extracted, Key, Operation},
    keyed::{Keyed, KeyedStats},
    live::Live,
    outcome::{FailureKind, Outcome, Pushback},
    rejection::{Reason, Rejection},
    request_match::{MatchConfig, RequestMatch, StringMatch},
    shard::{Counter, Sharded, UpDown},
    tracked::{CallGuard, Pending, ResponseBody, Tracked},
    transport::{BoxError, TransportError},
    trust::{Cidr, Trust},
    wheel::{Wheel, WheelTimer},
};
