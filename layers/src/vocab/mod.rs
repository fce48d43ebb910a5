//! The words that every layer and the balancer speak.

pub mod body;
pub mod classify;
pub mod config;
pub mod context;
pub mod grpc;
pub mod key;
pub mod keyed;
pub mod live;
pub mod metrics;
pub mod outcome;
pub mod rejection;
pub mod request_match;
pub mod shard;
pub mod tracked;
pub mod transport;
pub mod trust;
pub mod wheel;
