//! GCRA whose tokens threads take by the dozen.
//!
//! One number that all cores write costs each of them ten times what it costs one, since its cache line
//! travels with every call. Here a thread takes a batch of tokens at once and spends it on its own:
//!
//! ```text
//!                 ┌── thread 0: 11 left
//!   GCRA ──batch──┼── thread 1: 3 left          refused by GCRA ──► spend what others have left
//!                 └── thread 2: 0 left ──► a batch
//! ```
//!
//! # How far off it is
//!
//! Every token comes out of the GCRA, so that in the long run no call more passes than the rate has it. But
//! tokens that a thread has left are spent later, when the GCRA has filled up again. Threads hold half of the
//! burst together at most, and so:
//!
//! - in any time span, at most half a burst more calls pass than under the exact limit;
//! - no call is refused while any thread holds a token that it could have.

use std::num::NonZeroU32;

use tokio::time::Instant;

use super::{
    gcra::{Cell, Gcra},
    limit::{Algorithm, Refused},
    rate::Rate,
    sync::{AtomicU32, Ordering::Relaxed, Sharded},
};

/// More at once saves nothing: what all threads write is then written by one call in a hundred and less.
const LARGEST_BATCH: u32 = 256;

/// A quota. Its state lives in [`Leases`], which outlive it.
#[derive(Debug)]
pub(super) struct Leased {
    gcra: Gcra,
    /// What a thread takes beyond what it needs.
    pub(super) batch: u32,
}

/// The tokens of all, and those that threads have taken.
#[derive(Debug, Default)]
pub(super) struct Leases {
    common: Cell,
    held: Sharded<AtomicU32>,
}

// ===== impl Leased =====

impl Leased {
    pub(super) fn new(rate: Rate, burst: u32, previous: Option<&Self>, now: Instant) -> Self {
        let threads = Sharded::<()>::default().iter().count() as u32;
        let gcra = Gcra::new(rate, burst, 0, previous.map(|previous| &previous.gcra), now);
        let batch = (burst / 2 / threads).min(LARGEST_BATCH);
        Self { gcra, batch }
    }

    /// What GCRA has, once this thread has spent all of its own.
    #[cold]
    fn lease(&self, leases: &Leases, tokens: NonZeroU32) -> Result<u32, Refused> {
        let own = leases.held.get();
        let with_batch = tokens.saturating_add(self.batch);
        if self.batch > 0 && self.gcra.take(&leases.common, with_batch).is_ok() {
            // What was too little for this call, or leased by a thread of the same shard just now.
            if let Some(before) = NonZeroU32::new(own.swap(self.batch, Relaxed)) {
                self.gcra.give_back(&leases.common, before);
            }
            return Ok(self.batch);
        }
        match self.gcra.take(&leases.common, tokens) {
            Ok(taken) => Ok(self.gcra.left(&taken)),
            Err(refused) => {
                let found = leases.held.iter().any(|held| spend(held, tokens).is_some());
                found.then_some(0).ok_or(refused)
            }
        }
    }
}

impl Algorithm for Leased {
    type Cell = Leases;
    /// The tokens that this thread knows to be left.
    type Taken = u32;

    #[inline]
    fn take(&self, leases: &Leases, tokens: NonZeroU32) -> Result<u32, Refused> {
        match spend(leases.held.get(), tokens) {
            Some(left) => Ok(left),
            None => self.lease(leases, tokens),
        }
    }

    fn give_back(&self, leases: &Leases, tokens: NonZeroU32) {
        self.gcra.give_back(&leases.common, tokens);
    }

    fn is_idle(&self, leases: &Leases) -> bool {
        self.gcra.is_idle(&leases.common)
    }
}

// ===== impl Leases =====

impl Leases {
    /// What threads hold is lost: too few calls pass then, and not too many.
    pub(super) fn forget(&self) {
        for held in self.held.iter() {
            held.store(0, Relaxed);
        }
    }
}

/// Takes tokens out of those that a thread holds; gives what is left of them.
#[inline]
fn spend(held: &AtomicU32, tokens: NonZeroU32) -> Option<u32> {
    let take = |held: u32| held.checked_sub(tokens.get());
    let before = held.fetch_update(Relaxed, Relaxed, take).ok()?;
    Some(before - tokens.get())
}
