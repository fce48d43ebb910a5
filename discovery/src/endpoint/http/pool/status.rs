//! What is known about the connections without the pool's lock.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use crate::endpoint::Connectivity;

/// What is known about the connections without the pool's lock.
#[derive(Debug, Default)]
pub(super) struct Status {
    open: AtomicUsize,
    refused: AtomicBool,
}

/// Lets a connection that is about to be made count as open.
#[derive(Debug)]
pub(in super::super) struct Open(Arc<Status>);

/// A connection that counts as open.
#[derive(Debug)]
pub(in super::super) struct Opened(Arc<Status>);

// ===== impl Status =====

impl Status {
    /// Notes whether the last attempt to connect failed.
    pub(super) fn refused(&self, refused: bool) {
        self.refused.store(refused, Relaxed);
    }

    pub(super) fn connectivity(&self) -> Connectivity {
        if self.open.load(Relaxed) > 0 {
            Connectivity::Ready
        } else if self.refused.load(Relaxed) {
            Connectivity::TransientFailure
        } else {
            Connectivity::Idle
        }
    }
}

// ===== impl Open =====

impl Open {
    pub(super) fn new(status: &Arc<Status>) -> Self {
        Self(status.clone())
    }

    /// Counts from here on.
    pub(in super::super) fn begin(self) -> Opened {
        self.0.open.fetch_add(1, Relaxed);
        Opened(self.0)
    }
}

// ===== impl Opened =====

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
