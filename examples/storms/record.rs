//! What happens on one side of a storm.

use std::{
    ops::Sub,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Counts one side of a storm; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Record(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    good: AtomicU64,
    attempts: AtomicU64,
}

/// A reading of a [`Record`], or the difference of two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls that users made.
    pub calls: u64,
    /// Those that were answered well and in time.
    pub good: u64,
    /// What reached the last service in the chain.
    pub attempts: u64,
}

// ===== impl Record =====

impl Record {
    pub fn call(&self) {
        self.0.calls.fetch_add(1, Relaxed);
    }

    pub fn good(&self) {
        self.0.good.fetch_add(1, Relaxed);
    }

    pub fn attempt(&self) {
        self.0.attempts.fetch_add(1, Relaxed);
    }

    pub fn tally(&self) -> Tally {
        Tally {
            calls: self.0.calls.load(Relaxed),
            good: self.0.good.load(Relaxed),
            attempts: self.0.attempts.load(Relaxed),
        }
    }
}

// ===== impl Tally =====

impl Tally {
    /// The share of the calls that went well.
    pub fn share(self) -> f64 {
        self.good as f64 / self.calls.max(1) as f64
    }

    /// Attempts for each call.
    pub fn amplification(self) -> f64 {
        self.attempts as f64 / self.calls.max(1) as f64
    }
}

impl Sub for Tally {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            calls: self.calls - before.calls,
            good: self.good - before.good,
            attempts: self.attempts - before.attempts,
        }
    }
}
