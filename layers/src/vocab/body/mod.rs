//! Request bodies: keeping the caller's own body type, and sending a body again.
//!
//! A layer that must wrap the *request* body (replay, limits) would change its type, and a tonic
//! `Channel` accepts only tonic's body. So it asks the caller's type to hold the wrapper:
//! [`WrapBody`]. It is implemented for the boxed bodies of axum, tonic, reqwest and http-body-util,
//! so a layer fits around each of their clients as it is. [`Replay`] stands on it: it keeps the frames
//! of a body as they pass, and sends them again.

pub mod replay;
mod wrap;

pub use self::{
    replay::{Again, Replay, ReplayBody, ReplayConfig, ReplayLimits, Saved, SavedFull},
    wrap::WrapBody,
};
