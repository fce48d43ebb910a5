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

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::time::Instant;

use super::{
    gcra::{Cell, Gcra},
    limit::{Algorithm, Refused},
    rate::Rate,
};
use crate::vocab::shard::Sharded;

/// More at once saves nothing: what all threads write is then written by one call in a hundred and less.
const LARGEST_BATCH: u32 = 256;

/// A quota. Its state lives in [`Leases`], which outlive it.
#[derive(Debug)]
pub(super) struct Leased {
    gcra: Gcra,
    /// What a thread takes beyond what it needs.
    batch: u32,
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

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn leased(rate: &str, burst: u32) -> Leased {
        Leased::new(rate.parse().unwrap(), burst, None, Instant::now())
    }

    fn admitted(leased: &Leased, leases: &Leases, calls: u32) -> u32 {
        (0..calls)
            .filter(|_| leased.take(leases, ONE).is_ok())
            .count() as u32
    }

    #[test]
    fn threads_together_get_the_burst_and_no_token_is_left_with_one_of_them() {
        let (leased, leases) = (leased("1/h", 1_000), Leases::default());
        assert!(leased.batch > 0);
        let total: u32 = thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| admitted(&leased, &leases, 1_000)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(total, 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_thread_holds_over_a_pause_is_at_most_half_a_burst() {
        let (leased, leases) = (leased("100/s", 100), Leases::default());
        leased.take(&leases, ONE).unwrap(); // and a batch
        advance(Duration::from_secs(60)).await;
        let total = admitted(&leased, &leases, 1_000);
        assert!((101..=150).contains(&total), "{total}");
        assert_eq!(total, 100 + leased.batch);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_too_small_to_share_is_exact() {
        let (leased, leases) = (leased("100/s", 1), Leases::default());
        assert_eq!(leased.batch, 0);
        assert_eq!(admitted(&leased, &leases, 10), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn another_quota_takes_what_threads_hold() {
        let (first, leases) = (leased("1/h", 100), Leases::default());
        first.take(&leases, ONE).unwrap();
        let rate = "1/h".parse().unwrap();
        let second = Leased::new(rate, 10, Some(&first), Instant::now());
        leases.forget();
        assert_eq!(admitted(&second, &leases, 1_000), 10);
    }

    proptest! {
        /// In any span: what GCRA has in it, and half a burst.
        #[test]
        fn no_span_has_more_than_half_a_burst_too_many(
            burst in 1_u32..200,
            steps in proptest::collection::vec((0_u64..300, 0_u32..60), 1..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let (leased, leases) = (leased("100/s", burst), Leases::default());
                let start = Instant::now();
                let mut passed: Vec<(f64, u32)> = Vec::new();
                for (gap, calls) in steps {
                    advance(Duration::from_millis(gap)).await;
                    let now = start.elapsed().as_secs_f64();
                    passed.push((now, admitted(&leased, &leases, calls)));
                    let mut sum = 0;
                    for (at, count) in passed.iter().rev() {
                        sum += count;
                        let most = (now - at) * 100.0 + 1.5 * f64::from(burst) + 1.0;
                        prop_assert!(f64::from(sum) <= most, "{sum} > {most}");
                    }
                }
                Ok(())
            })?;
        }
    }
}
