use std::time::Duration;

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
