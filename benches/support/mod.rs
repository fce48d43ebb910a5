//! The parts of the bench.

pub(crate) mod bar;
pub(crate) mod bars;
pub(crate) mod callgrind;
pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod drive;
pub(crate) mod origin;
pub(crate) mod ours;
pub(crate) mod peers;
pub(crate) mod report;
pub(crate) mod scale;
pub(crate) mod sockets;
pub(crate) mod stats;
pub(crate) mod subjects;
mod tracking;
pub(crate) mod traffic;
