//! Into the registry, and out of it again: an instance that is found for as long as it is there.
//!
//! ```text
//! Registration (handle) --orders--> driver (task) --put, renew, remove--> Register (a registry)
//!       ^                               |
//!       +--------- state (watch) -------+
//! ```
//!
//! A registry that can be written implements [`Register`]: three writes of a [`Lease`], which is a
//! record that is gone unless it is renewed within its TTL. [`Registration::start`], or
//! [`Registry::register`](crate::registry::Registry::register) for a registry that is named by a URL,
//! starts the *driver*, one task that sends heartbeats until the [`Registration`] is closed.
//!
//! ```
//! use tower_mesh_discovery::{
//!     instance::Instance,
//!     register::{RegisterConfig, State},
//!     registry::RegistryUrl,
//! };
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = "memory:example".parse::<RegistryUrl>()?.open();
//!
//! let instance = Instance::new("orders", "orders-1").with_endpoint("http://10.0.0.1:80".parse()?);
//! let registration = registry.register(instance, RegisterConfig::default())?;
//! registration.registered().await;
//! assert_eq!(registration.state(), State::Registered);
//!
//! registration.update(|instance| instance.weight = 50)?;
//! // ... serve, until it is time to go:
//! registration.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # States
//!
//! ```text
//!                           heartbeats                   drain()
//!  Registering ----------> Registered -------------------------------+
//!       |   written         |    ^                                   v
//!       |        TTL over,  v    | written again                 Draining ------> Closed
//!       |        or told   Lapsed                                    ^     close()
//!       +------------------------------------------------------------+
//! ```
//!
//! * **Heartbeats** come every `interval`, up to a fifth of it early, so that many instances do not
//!   beat in step. One that fails is tried again after a random delay that doubles from 200 ms, several
//!   times before the lease is over.
//! * **A lapse** is noticed by the registry's answer, or when the TTL went by without a good one. It
//!   is tried for ever to return, with delays up to 30 s, and without the backlog of a whole fleet
//!   falling on a registry that just came back.
//! * **The same service and id twice**: who registers last owns the record, as a restarted process
//!   must. The other is `Lapsed`, and returns only when the record is free; it takes nothing back, and
//!   on leaving takes nothing away.
//! * **[`close`](Registration::close)** marks the instance as draining, so that callers choose others;
//!   serves on for the drain time; and takes the record out. [`drain`](Registration::drain) is the
//!   first half alone, for a server that finishes its calls in between.
//! * **Dropping** the handle skips the drain time: the heartbeat stops, and the task takes the record
//!   out if its runtime lives long enough.
//!
//! # Options
//!
//! [`RegisterConfig`], with durations as in `1m30s`:
//!
//! | option | default | allowed | what |
//! |---|---|---|---|
//! | `ttl` | `15s` | 1 s to 24 h | how long the record stays without a heartbeat |
//! | `interval` | a third of `ttl` | 100 ms to less than half of `ttl` | the longest time between heartbeats |
//! | `drain` | `5s` | 0 to 1 h | how long it is served on after it was marked as draining |
//! | `deregisterTimeout` | `5s` | 100 ms to 5 min | how long it is tried to take the record out |
//!
//! One write may take 5 s, or `interval` where that is shorter.
//!
//! # Metrics
//!
//! | name | kind | labels | what |
//! |---|---|---|---|
//! | `mesh_registration_state` | gauge | `service_name`, `state` | registrations in each [`State`] |
//! | `mesh_registration_lapses_total` | counter | `service_name` | how often a record was gone although its instance was there |
//! | `mesh_registration_failures_total` | counter | `service_name` | writes that failed |

mod config;
mod driver;
mod lease;
mod metrics;
mod pulse;
mod registration;

pub use self::{
    config::RegisterConfig,
    lease::{Lease, Owner, Register, RegisterError, Written},
    registration::{Registration, State},
};
