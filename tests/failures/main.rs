//! The failure classes: each is one function of its protection, `fn r4_half_open_stampede(p: Protection) ->
//! Measured`. With the protection on it must meet its bounds; with it off it must break one, or it would
//! prove nothing.
//!
//! `tests/run` ends with the table of what was measured. One binary, as linking is most of what a test
//! run costs; a module for each layer that protects.
//!
//! A new class: the function, in the module of its layer; a line below.

mod breaker;
mod harness;
mod panics;

harness::classes! {
    "R4", "half-open stampede" => breaker::r4_half_open_stampede;
    "R23", "panicking handler" => panics::r23_panicking_handler;
}
