//! The storms. Each says what the stock side does, and what protects the other one.

mod half_open;
mod hops;
mod hung;
mod panics;
mod restarts;
mod retries;

use crate::storm::Storm;

pub static ALL: [&Storm; 6] = [
    &retries::STORM,
    &half_open::STORM,
    &hops::STORM,
    &hung::STORM,
    &panics::STORM,
    &restarts::STORM,
];
