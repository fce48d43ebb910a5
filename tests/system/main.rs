//! Whole-system tests: real servers and clients over sockets of the loopback.
//!
//! One binary, as linking is most of what a test run costs. Each module is about one promise.

#![allow(
    clippy::print_stdout,
    reason = "what is measured and not asserted is printed"
)]

mod bodies;
mod call_sites;
mod classification;
mod concurrency;
mod deadlines;
mod dns;
mod endpoints;
mod examples;
mod faults;
mod hedges;
mod idempotency;
mod leaving;
mod limits;
mod mesh_file;
mod metadata;
mod on_hyper;
mod panics;
mod presets;
mod prometheus;
mod reloads;
mod restarts;
mod routes;
mod schema;
mod servers;
mod shutdown;
mod support;
mod telemetry;
