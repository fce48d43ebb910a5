//! A simulator for balancers: many clients, many servers with queues, and a clock that only jumps.
//!
//! It runs the *real* [`Balance`](crate::balance::Balance), with its averages, penalties, ejections and trials, not a
//! model of it, and any other balancer that is a tower service. Only the servers and the network between are made up:
//! a server works on so many calls at once, lets the others wait in the order of their arrival, and takes as long as a
//! [`Law`] says. Calls arrive at random (a Poisson process) at all clients, each of which knows only what its own calls
//! have shown.
//!
//! One seed always tells the same story, since time, servers and our pickers draw from generators of that seed. A
//! simulated minute takes about a second.
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_mesh_discovery::{
//!     balance::Picker,
//!     sim::{Oracle, Ours, Scenario, run},
//! };
//!
//! let scenario = Scenario {
//!     clients: 5,
//!     servers: 10,
//!     duration: Duration::from_secs(2),
//!     warm_up: Duration::from_secs(1),
//!     ..Scenario::default()
//! };
//! let ours = run(&scenario, &Ours::new("p2c-ewma", Picker::p2c_ewma), 1)?;
//! let oracle = run(&scenario, &Oracle, 1)?;
//! assert_eq!(ours.failed, 0);
//! assert!(oracle.quantile(0.99) < ours.quantile(0.99) * 2);
//! # Ok::<_, tower_mesh_layers::config::ConfigError>(())
//! ```
//!
//! # What a scenario says
//!
//! | field | default | |
//! |---|---|---|
//! | `name` | `even` | in tables |
//! | `clients`, `servers` | 50, 100 | each client balances over all servers |
//! | `workers` | 4 | calls that a server works on at once |
//! | `serviceTime`, `law` | 10 ms, `exponential` | the mean work of a call, and how single calls differ from it |
//! | `load` | 0.7 | calls offered, over what all servers can do, those that are slow [counted as slow](Trouble::Slow) |
//! | `duration`, `warmUp` | 30 s, 5 s | the warm-up comes first, is part of the duration, and is not counted |
//! | `trouble` | none | what goes wrong: see [`Trouble`] |
//!
//! # Against whom
//!
//! [`Oracle`] knows every queue and every server's speed at each moment, and sends a call where it will be finished
//! first (ties go to the shortest queue). No client can know that; how far a picker stays behind it is how much there
//! still is to gain.

mod contender;
mod law;
mod outcome;
mod run;
mod scenario;
mod world;

pub use self::{
    contender::{Client, Contender, Oracle, Ours},
    law::Law,
    outcome::Outcome,
    run::run,
    scenario::{Scenario, Trouble},
    world::{Answer, Refused, Server, World},
};

#[cfg(test)]
mod tests;
