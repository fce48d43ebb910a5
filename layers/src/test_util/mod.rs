//! A kit to test layers with: your own as well as ours.
//!
//! | to test | use |
//! |---|---|
//! | everything a layer must keep, in one line | [`contract`] |
//! | what reaches the inner service, and when | [`Probe`], [`Answer`], [`Gate`] |
//! | ends of bodies | [`TestBody`], [`BodyCase`], [`exchange`](exchange::exchange) |
//! | drops, panics and timers at every poll | [`drive`] |
//! | real sockets: axum, tonic, hyper | [`servers`], [`clients`], [`Scripted`] |
//! | gRPC without generated code | [`grpc`] |
//! | what is traced, while other tests run | [`listen`](fn@listen) |
//! | networks that refuse, hang, reset, delay and cut | [`FaultProxy`] |
//!
//! ```
//! use tower_mesh_layers::test_util::contract::Contract;
//! use tower_layer::Identity; // your layer
//!
//! // #[test]
//! fn keeps_the_contract() {
//!     Contract::new(Identity::new).clones_per_call(0).check();
//! }
//! # keeps_the_contract();
//! ```
//!
//! Nothing here belongs into a running service: the feature `test-util` is for `[dev-dependencies]`.

mod answer;
pub mod bodies;
mod body;
pub mod clients;
pub mod contract;
pub mod drive;
mod error;
pub mod exchange;
mod fault_proxy;
mod gate;
pub mod grpc;
mod listen;
mod probe;
mod scripted;
pub mod servers;
#[cfg(test)]
mod tests;

pub use self::{
    answer::Answer,
    bodies::{BodyCase, Verdict},
    body::TestBody,
    error::{InjectedPanic, ProbeError},
    exchange::{End, Exchange, Read},
    fault_proxy::{Fault, FaultProxy},
    gate::Gate,
    listen::listen,
    probe::{Probe, ProbeFuture, ProbeHandle, Received},
    scripted::Scripted,
};

/// A boxed error, as tower has it.
type BoxError = Box<dyn std::error::Error + Send + Sync>;
