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

#[cfg(test)]
mod model;
mod slots;
#[cfg(test)]
mod tests;
mod tokens;

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use self::{
    slots::{SLOTS, Slots, TTL, counts},
    sync::{AtomicU64, Ordering::Relaxed},
    tokens::{TOKEN, Tokens},
};
use super::{config::Ratio, shard::Sharded};

/// What the counting is made of; the tests put loom's in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
}

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
    tokens: Tokens,
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
            tokens: Tokens::default(),
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
        self.0.tokens.set(most, refill);
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
        self.0.tokens.succeeded();
    }

    /// An attempt failed, or its peer said that it must not be repeated.
    pub fn failed(&self) {
        self.0.tokens.failed();
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
            Some(Terms::Tokens { most, .. }) => 2 * self.0.tokens.lost() < most,
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
                (most / 2 - self.0.tokens.lost() + TOKEN - 1) / TOKEN
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
