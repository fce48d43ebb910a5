//! Whole-system tests: real servers and clients over sockets of the loopback.
//!
//! One binary, as linking is most of what a test run costs. Each module is about one promise.

mod call_sites;
mod classification;
mod limits;
mod support;
