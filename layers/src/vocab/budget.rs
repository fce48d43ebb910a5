//! How many attempts a layer may add to the calls that are made anyway: the budget of retry and hedging.
//!
//! A [`Budget`] is a handle: whoever has a clone draws on the same budget, so a hedge and a retry of one
//! client together stay within it. Two sets of [`BudgetTerms`] can be in force, or none:
//!
//! **Ratio**, Finagle's `RetryBudget` (a leaky token bucket): every call deposits a fraction of a token,
//! every added attempt withdraws a whole one, a reserve is there without deposits, and all of it is
//! forgotten after ten seconds. So attempts add at most that fraction to the load of a peer that fails,
//! however many a call may make, and a service with little traffic can still retry.
//!
//! ```text
//!   balance = ratio x calls of the last 10 s + reserve - attempts added in the last 10 s
//! ```
//!
//! **Tokens**, gRPC's `retryThrottling` ([gRFC A6]): a failed attempt costs a token, a good one gives
//! back a fraction of one, and nothing is added while half of them or more are gone. It knows no load
//! and no time: it measures how well the peer does.
//!
//! Deposits are the hot side: one addition to a slot of the thread's own shard. Tokens are touched by
//! failures, and by successes until what failures cost is made good. Withdrawals happen only where an
//! attempt is to be added; they sum the shards up under a lock.
//!
//! ```
//! use tokio::time::Instant;
//! use tower_mesh_layers::{Budget, BudgetTerms, Ratio};
//!
//! let (budget, now) = (Budget::new(), Instant::now());
//! budget.set_terms(Some(BudgetTerms::ratio(Ratio::percent(20), 0)));
//! (0..10).for_each(|_| budget.deposit(now));
//! assert!(budget.withdraw(now) && budget.withdraw(now)); // a fifth of ten calls
//! assert!(!budget.withdraw(now));
//! ```
//!
//! [gRFC A6]: https://github.com/grpc/proposal/blob/master/A6-client-retries.md

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{config::Ratio, shard::Sharded};

/// How long deposits and withdrawals count: ten whole slots of a second, and the present one.
const TTL: Duration = Duration::from_secs(10);
/// A power of two above the eleven that count.
const SLOTS: usize = 16;
/// Tokens are counted in millionths, so that every ratio that can be written is exact.
const TOKEN: i64 = 1_000_000;

/// How many attempts may be added; clones are handles to the same budget. The [module](self) says how
/// it is counted.
///
/// It outlives changes of its [terms](BudgetTerms): what was spent stays spent.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

/// What calls pay into a [`Budget`], and what is there without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetTerms(Terms);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Terms {
    /// Millionths of a token, both.
    Ratio { deposit: i64, reserve: i64 },
    /// Millionths of a token, both.
    Tokens { most: i64, refill: i64 },
}

struct Inner {
    origin: Instant,
    deposits: Sharded<Deposits>,
    ledger: Mutex<Ledger>,
    /// Millionths of tokens that failures have cost and successes not given back; stays 0 where no
    /// tokens are counted.
    lost: AtomicI64,
    /// The most that can be lost, and what a success gives back: 0 where no tokens are counted.
    most: AtomicI64,
    refill: AtomicI64,
}

#[derive(Debug, Default)]
struct Ledger {
    terms: Option<Terms>,
    withdrawals: [Spent; SLOTS],
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

// ===== impl BudgetTerms =====

impl BudgetTerms {
    /// `ratio` attempts for each call of the last ten seconds, and `reserve` a second without any calls.
    pub fn ratio(ratio: Ratio, reserve: u32) -> Self {
        Self(Terms::Ratio {
            deposit: millionths(ratio),
            reserve: i64::from(reserve) * TTL.as_secs() as i64 * TOKEN,
        })
    }

    /// `most` tokens at first, of which a failed attempt costs one and a good one gives back `refill`.
    /// While half of them or fewer are there, no attempts are added.
    pub fn tokens(most: u32, refill: Ratio) -> Self {
        Self(Terms::Tokens {
            most: i64::from(most) * TOKEN,
            refill: millionths(refill),
        })
    }
}

fn millionths(ratio: Ratio) -> i64 {
    (ratio.as_f64() * TOKEN as f64).round() as i64
}

// ===== impl Budget =====

impl Budget {
    /// A budget without terms: it limits nothing.
    pub fn new() -> Self {
        Self::from(Instant::now())
    }

    /// Seconds are counted from here.
    fn from(origin: Instant) -> Self {
        Self(Arc::new(Inner {
            origin,
            deposits: Sharded::default(),
            ledger: Mutex::default(),
            lost: AtomicI64::new(0),
            most: AtomicI64::new(0),
            refill: AtomicI64::new(0),
        }))
    }

    /// Sets other terms, or none. What was withdrawn or lost under the former stays so.
    pub fn set_terms(&self, terms: Option<BudgetTerms>) {
        let terms = terms.map(|terms| terms.0);
        let (most, refill) = match terms {
            Some(Terms::Tokens { most, refill }) => (most, refill),
            _ => (0, 0),
        };
        let mut ledger = self.0.ledger.lock();
        ledger.terms = terms;
        self.0.most.store(most, Relaxed);
        self.0.refill.store(refill, Relaxed);
        self.0.lost.fetch_min(most, Relaxed);
    }

    /// Pays in for one call.
    #[inline]
    pub fn deposit(&self, now: Instant) {
        let deposits = self.0.deposits.get();
        deposits.all.fetch_add(1, Relaxed);
        deposits.by_second.add(self.second(now));
    }

    /// An attempt succeeded.
    #[inline]
    pub fn succeeded(&self) {
        // Nothing was lost nearly always, and then no cache line is written to.
        if self.0.lost.load(Relaxed) > 0 {
            self.give_back();
        }
    }

    #[cold]
    fn give_back(&self) {
        let refill = self.0.refill.load(Relaxed);
        let given = |lost: i64| (lost > 0).then(|| (lost - refill).max(0));
        let _ = self.0.lost.fetch_update(Relaxed, Relaxed, given);
    }

    /// An attempt failed, or its peer said that it must not be repeated.
    pub fn failed(&self) {
        let most = self.0.most.load(Relaxed);
        if most > 0 {
            let lost = |lost: i64| Some((lost + TOKEN).min(most));
            let _ = self.0.lost.fetch_update(Relaxed, Relaxed, lost);
        }
    }

    /// All deposits there ever were: the calls.
    pub fn calls(&self) -> u64 {
        let shards = self.0.deposits.iter();
        let all = shards.map(|shard| shard.all.load(Relaxed));
        all.fold(0, u64::wrapping_add)
    }

    /// Asks for one more attempt, and takes what it costs; `false` when there must be none.
    pub fn withdraw(&self, now: Instant) -> bool {
        let second = self.second(now);
        let mut ledger = self.0.ledger.lock();
        match ledger.terms {
            None => true,
            Some(Terms::Tokens { most, .. }) => 2 * self.0.lost.load(Relaxed) < most,
            Some(Terms::Ratio { deposit, reserve }) => {
                if self.balance(deposit, reserve, second, &ledger) < TOKEN {
                    return false;
                }
                ledger.withdraw(second);
                true
            }
        }
    }

    /// How many attempts could be added now, were all of them to fail; 0 where there are no terms.
    pub fn remaining(&self, now: Instant) -> u64 {
        let ledger = self.0.ledger.lock();
        let left = match ledger.terms {
            None => 0,
            // Each of them may cost a token.
            Some(Terms::Tokens { most, .. }) => {
                (most / 2 - self.0.lost.load(Relaxed) + TOKEN - 1) / TOKEN
            }
            Some(Terms::Ratio { deposit, reserve }) => {
                self.balance(deposit, reserve, self.second(now), &ledger) / TOKEN
            }
        };
        left.max(0) as u64
    }

    fn balance(&self, deposit: i64, reserve: i64, second: u32, ledger: &Ledger) -> i64 {
        let shards = self.0.deposits.iter();
        let calls: u64 = shards.map(|shard| shard.by_second.sum(second)).sum();
        reserve + deposit * calls as i64 - ledger.withdrawn(second) * TOKEN
    }

    #[inline]
    fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.0.origin).as_secs() as u32
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("terms", &self.0.ledger.lock().terms)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

// ===== impl Ledger =====

impl Ledger {
    fn withdraw(&mut self, second: u32) {
        let slot = &mut self.withdrawals[second as usize % SLOTS];
        if slot.second != second {
            *slot = Spent { second, count: 0 };
        }
        slot.count += 1;
    }

    fn withdrawn(&self, second: u32) -> i64 {
        let counting = |spent: &&Spent| counts(spent.second, second);
        let counting = self.withdrawals.iter().filter(counting);
        counting.map(|spent| i64::from(spent.count)).sum()
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

    fn budget(start: Instant, terms: BudgetTerms) -> Budget {
        let budget = Budget::from(start);
        budget.set_terms(Some(terms));
        budget
    }

    fn ratio(start: Instant, percent: u8, reserve: u32) -> Budget {
        budget(start, BudgetTerms::ratio(Ratio::percent(percent), reserve))
    }

    /// Withdraws until it is empty.
    fn drain(budget: &Budget, now: Instant) -> u64 {
        (0..).take_while(|_| budget.withdraw(now)).count() as u64
    }

    #[test]
    fn ratios_are_exact_where_others_truncate() {
        for percent in 0..=100_u8 {
            let now = Instant::now();
            let budget = ratio(now, percent, 0);
            (0..1_000).for_each(|_| budget.deposit(now));
            let expected = u64::from(percent) * 10;
            assert_eq!(budget.remaining(now), expected);
            assert_eq!(drain(&budget, now), expected, "{percent}%");
        }
    }

    #[test]
    fn the_reserve_comes_back_after_ten_seconds_and_not_before() {
        let start = Instant::now();
        let budget = ratio(start, 20, 10);
        assert_eq!(drain(&budget, start), 100);
        assert_eq!(drain(&budget, start + TTL), 0);
        assert_eq!(drain(&budget, start + TTL + 1_000 * MS), 100);
    }

    #[test]
    fn deposits_expire_after_ten_seconds() {
        let start = Instant::now();
        let budget = ratio(start, 50, 0);
        (0..10).for_each(|_| budget.deposit(start));
        assert_eq!(budget.remaining(start + TTL), 5);
        assert_eq!(budget.remaining(start + TTL + 1_000 * MS), 0);
        // The slot is used again, sixteen seconds later.
        budget.deposit(start + 16_000 * MS);
        budget.deposit(start + 16_000 * MS);
        budget.deposit(start); // too late
        assert_eq!(budget.remaining(start + 16_000 * MS), 1);
    }

    #[test]
    fn deposits_of_all_threads_count_once() {
        let start = Instant::now();
        let budget = ratio(start, 100, 0);
        let withdrawn = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for second in 0..8 {
                        for _ in 0..1_000 {
                            budget.deposit(start + second * 1_000 * MS);
                        }
                        let taken = drain(&budget, start + second * 1_000 * MS);
                        withdrawn.fetch_add(taken, Relaxed);
                    }
                });
            }
        });
        let left = drain(&budget, start + 8_000 * MS);
        assert_eq!(withdrawn.load(Relaxed) + left, 4 * 8 * 1_000);
    }

    #[test]
    fn failures_cost_tokens_and_nothing_is_added_below_half_of_them() {
        let now = Instant::now();
        let budget = budget(now, BudgetTerms::tokens(10, Ratio::percent(10)));
        for left in (0..5).rev() {
            assert!(budget.withdraw(now), "more than half is there");
            budget.failed();
            assert_eq!(budget.remaining(now), left);
        }
        assert!(!budget.withdraw(now), "half of them are gone");
        budget.succeeded();
        assert!(budget.withdraw(now), "a tenth of one is back");
        (0..100).for_each(|_| budget.failed());
        (0..50).for_each(|_| budget.succeeded());
        assert!(
            !budget.withdraw(now),
            "no more than all of them can be lost"
        );
        budget.succeeded();
        assert!(budget.withdraw(now));
        (0..1_000).for_each(|_| budget.succeeded());
        assert_eq!(budget.remaining(now), 5, "nor more gained than there were");
    }

    #[test]
    fn what_was_lost_stays_lost_over_other_terms_and_without_terms_there_is_no_limit() {
        let now = Instant::now();
        let budget = budget(now, BudgetTerms::tokens(10, Ratio::ONE));
        (0..4).for_each(|_| budget.failed());
        budget.set_terms(Some(BudgetTerms::tokens(8, Ratio::ONE)));
        assert!(!budget.withdraw(now), "4 of 8 are lost");
        budget.set_terms(Some(BudgetTerms::tokens(20, Ratio::ONE)));
        assert_eq!(budget.remaining(now), 6);
        budget.set_terms(None);
        budget.failed();
        assert_eq!((budget.withdraw(now), budget.remaining(now)), (true, 0));
        budget.set_terms(Some(BudgetTerms::tokens(10, Ratio::ONE)));
        assert_eq!(budget.remaining(now), 5);
    }

    #[test]
    fn clones_are_one_budget() {
        let now = Instant::now();
        let budget = ratio(now, 0, 1);
        assert_eq!(drain(&budget.clone(), now), 10);
        assert_eq!(budget.remaining(now), 0);
    }

    proptest! {
        /// The rule of gRFC A6, with a plain count.
        #[test]
        fn tokens_are_counted_as_in_grfc_a6(
            most in 1..50_u32,
            refill in 1..=100_u8,
            outcomes in proptest::collection::vec(any::<bool>(), 1..300),
        ) {
            let budget = budget(Instant::now(), BudgetTerms::tokens(most, Ratio::percent(refill)));
            let most = i64::from(most) * 100;
            let mut tokens = most;
            for good in outcomes {
                if good {
                    budget.succeeded();
                    tokens = (tokens + i64::from(refill)).min(most);
                } else {
                    budget.failed();
                    tokens = (tokens - 100).max(0);
                }
                prop_assert_eq!(budget.withdraw(Instant::now()), 2 * tokens > most);
            }
        }

        /// The reference keeps every event and adds up those that count.
        #[test]
        fn it_does_what_a_list_of_all_events_does(
            percent in 0..=100_u8,
            reserve in 0..3_u32,
            events in proptest::collection::vec((0..3_000_u64, 0..4_u8), 1..400),
        ) {
            let start = Instant::now();
            let budget = ratio(start, percent, reserve);
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
                let hundredths = i64::from(percent) * counting(&deposits)
                    + i64::from(reserve) * 1_000
                    - 100 * counting(&withdrawals);
                let expected = hundredths >= 100;
                prop_assert_eq!(budget.remaining(now), (hundredths / 100).max(0) as u64);
                prop_assert_eq!(budget.withdraw(now), expected);
                if expected {
                    withdrawals.push(at);
                }
            }
        }
    }
}
