//! Deadlines.
mod body;
mod config;
mod future;
mod header;
mod layer;
mod limit;
mod service;
mod stats;
#[cfg(test)]
mod tests;

pub use self::{
    body::DeadlineBody,
    config::{DeadlineConfig, Scope, TimeoutHeader},
    future::ResponseFuture,
    header::TimeoutUnit,
    layer::{DeadlineBuilder, DeadlineLayer, Role},
    service::Deadline,
    stats::DeadlineStats,
};
use crate::vocab::tracked;

/// The body of [`Deadline`]'s responses.
pub type ResponseBody<B> = tracked::ResponseBody<DeadlineBody<B>>;
