//! The retry budget: how many retries the calls of the last ten seconds have paid for.
//!
//! Source: Finagle's `RetryBudget` (a leaky token bucket): every call deposits a fraction of a token,
//! every retry withdraws a whole one, a reserve is there without deposits, and all of it is forgotten
//! after ten seconds. So retries add at most that fraction to the load of a peer that fails, however
//! many attempts a call may make, and a service with little traffic can still retry.
//!
//! ```text
//!   balance = ratio x calls of the last 10 s + reserve - retries of the last 10 s
//! ```
//!
//! Deposits are the hot side: one addition to a slot of the thread's own shard. Withdrawals happen
//! only after a failure; they sum the shards up under a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::vocab::{config::Ratio, shard::Sharded};

/// How long deposits and withdrawals count: ten whole slots of a second, and the present one.
pub(super) const TTL: Duration = Duration::from_secs(10);
/// A power of two above the eleven that count.
const SLOTS: usize = 16;
/// Tokens are counted in millionths, so that every ratio that can be written is exact.
const TOKEN: i64 = 1_000_000;

/// What every call pays in, and what is there without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Millionths of a token.
    deposit: i64,
    /// Millionths of a token.
    reserve: i64,
}

/// A retry budget. It outlives changes of its [`Terms`]: what was spent stays spent.
#[derive(Debug)]
pub(super) struct Budget {
    origin: Instant,
    deposits: Sharded<Deposits>,
    withdrawals: Mutex<[Spent; SLOTS]>,
}

/// Of one shard: a call touches both, so they are in one place.
#[derive(Debug, Default)]
struct Deposits {
    by_second: Slots,
    all: AtomicU64,
}

/// Deposits by second: the number of the second in the upper half, their count in the lower.
#[derive(Debug, Default)]
struct Slots([AtomicU64; SLOTS]);

#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    second: u32,
    count: u32,
}

// ===== impl Terms =====

impl Terms {
    pub(super) fn new(ratio: Ratio, reserve_per_second: u32) -> Self {
        Self {
            deposit: (ratio.as_f64() * TOKEN as f64).round() as i64,
            reserve: i64::from(reserve_per_second) * TTL.as_secs() as i64 * TOKEN,
        }
    }
}

// ===== impl Budget =====

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            origin: now,
            deposits: Sharded::default(),
            withdrawals: Mutex::default(),
        }
    }

    /// Pays in for one call.
    #[inline]
    pub(super) fn deposit(&self, now: Instant) {
        let deposits = self.deposits.get();
        deposits.all.fetch_add(1, Relaxed);
        deposits.by_second.add(self.second(now));
    }

    /// All deposits there ever were: the calls.
    pub(super) fn calls(&self) -> u64 {
        let all = self.deposits.iter().map(|shard| shard.all.load(Relaxed));
        all.fold(0, u64::wrapping_add)
    }

    /// Takes a token for one retry; `false` when there is none.
    pub(super) fn withdraw(&self, terms: Terms, now: Instant) -> bool {
        let second = self.second(now);
        let mut withdrawals = self.withdrawals.lock();
        if self.balance(terms, second, &withdrawals) < TOKEN {
            return false;
        }
        let slot = &mut withdrawals[second as usize % SLOTS];
        if slot.second != second {
            *slot = Spent { second, count: 0 };
        }
        slot.count += 1;
        true
    }

    /// How many retries could be made now.
    pub(super) fn remaining(&self, terms: Terms, now: Instant) -> u64 {
        let balance = self.balance(terms, self.second(now), &self.withdrawals.lock());
        (balance / TOKEN).max(0) as u64
    }

    fn balance(&self, terms: Terms, second: u32, withdrawals: &[Spent; SLOTS]) -> i64 {
        let calls: u64 = self
            .deposits
            .iter()
            .map(|shard| shard.by_second.sum(second))
            .sum();
        let spent: i64 = withdrawals
            .iter()
            .filter(|spent| counts(spent.second, second))
            .map(|spent| i64::from(spent.count))
            .sum();
        terms.reserve + terms.deposit * calls as i64 - spent * TOKEN
    }

    #[inline]
    fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.origin).as_secs() as u32
    }
}

/// Whether what happened in a second still counts in the present one.
fn counts(then: u32, now: u32) -> bool {
    then <= now && now - then <= TTL.as_secs() as u32
}

// ===== impl Slots =====

impl Slots {
    #[inline]
    fn add(&self, second: u32) {
        let slot = &self.0[second as usize % SLOTS];
        let seen = slot.load(Relaxed);
        if (seen >> 32) as u32 == second {
            slot.fetch_add(1, Relaxed);
        } else {
            Self::begin(slot, seen, second);
        }
    }

    /// The first deposit of a second takes the slot over from sixteen seconds ago.
    #[cold]
    fn begin(slot: &AtomicU64, mut seen: u64, second: u32) {
        let began = u64::from(second) << 32;
        while seen < began {
            match slot.compare_exchange_weak(seen, began | 1, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
        if (seen >> 32) as u32 == second {
            slot.fetch_add(1, Relaxed);
        }
        // Else the caller's clock reading is sixteen seconds old: its deposit has expired.
    }

    fn sum(&self, second: u32) -> u64 {
        let in_slot = |slot: &AtomicU64| {
            let seen = slot.load(Relaxed);
            if counts((seen >> 32) as u32, second) {
                seen & u64::from(u32::MAX)
            } else {
                0
            }
        };
        self.0.iter().map(in_slot).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Withdraws until it is empty.
    fn drain(budget: &Budget, terms: Terms, now: Instant) -> u64 {
        (0..).take_while(|_| budget.withdraw(terms, now)).count() as u64
    }

    #[test]
    fn ratios_are_exact_where_others_truncate() {
        for percent in 0..=100_u8 {
            let now = Instant::now();
            let budget = Budget::new(now);
            let terms = Terms::new(Ratio::percent(percent), 0);
            (0..1_000).for_each(|_| budget.deposit(now));
            let expected = u64::from(percent) * 10;
            assert_eq!(budget.remaining(terms, now), expected);
            assert_eq!(drain(&budget, terms, now), expected, "{percent}%");
        }
    }

    #[test]
    fn the_reserve_comes_back_after_ten_seconds_and_not_before() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let terms = Terms::new(Ratio::percent(20), 10);
        assert_eq!(drain(&budget, terms, start), 100);
        assert_eq!(drain(&budget, terms, start + TTL), 0);
        assert_eq!(drain(&budget, terms, start + TTL + 1_000 * MS), 100);
    }

    #[test]
    fn deposits_expire_after_ten_seconds() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let terms = Terms::new(Ratio::percent(50), 0);
        (0..10).for_each(|_| budget.deposit(start));
        assert_eq!(budget.remaining(terms, start + TTL), 5);
        assert_eq!(budget.remaining(terms, start + TTL + 1_000 * MS), 0);
        // The slot is used again, sixteen seconds later.
        budget.deposit(start + 16_000 * MS);
        budget.deposit(start + 16_000 * MS);
        budget.deposit(start); // too late
        assert_eq!(budget.remaining(terms, start + 16_000 * MS), 1);
    }

    #[test]
    fn deposits_of_all_threads_count_once() {
        let start = Instant::now();
        let budget = Budget::new(start);
        let terms = Terms::new(Ratio::ONE, 0);
        let withdrawn = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for second in 0..8 {
                        for _ in 0..1_000 {
                            budget.deposit(start + second * 1_000 * MS);
                        }
                        let taken = drain(&budget, terms, start + second * 1_000 * MS);
                        withdrawn.fetch_add(taken, Relaxed);
                    }
                });
            }
        });
        let left = drain(&budget, terms, start + 8_000 * MS);
        assert_eq!(withdrawn.load(Relaxed) + left, 4 * 8 * 1_000);
    }

    proptest! {
        /// The reference keeps every event and adds up those that count.
        #[test]
        fn it_does_what_a_list_of_all_events_does(
            ratio in 0..=100_u8,
            reserve in 0..3_u32,
            events in proptest::collection::vec((0..3_000_u64, 0..4_u8), 1..400),
        ) {
            let start = Instant::now();
            let budget = Budget::new(start);
            let terms = Terms::new(Ratio::percent(ratio), reserve);
            let (mut deposits, mut withdrawals) = (Vec::new(), Vec::new());
            let mut at = 0;
            for (pause, kind) in events {
                // Mostly close together, as calls are.
                at += if pause < 2_500 { pause / 50 } else { pause * 3 };
                let now = start + Duration::from_millis(at);
                if kind < 3 {
                    budget.deposit(now);
                    deposits.push(at);
                    continue;
                }
                let counting = |all: &[u64]| {
                    all.iter().filter(|then| at / 1_000 - *then / 1_000 <= 10).count() as i64
                };
                let hundredths = i64::from(ratio) * counting(&deposits)
                    + i64::from(reserve) * 1_000
                    - 100 * counting(&withdrawals);
                let expected = hundredths >= 100;
                prop_assert_eq!(budget.remaining(terms, now), (hundredths / 100).max(0) as u64);
                prop_assert_eq!(budget.withdraw(terms, now), expected);
                if expected {
                    withdrawals.push(at);
                }
            }
        }
    }
}
