//! What the pickers become for a set whose weights differ.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{
    Candidates, P2cEwma, Pick,
    round_robin::{SKIPS, take_turn},
    turns::{Shares, Turns},
};

/// The weights of a set; `None` where all are the same.
pub(super) fn differing(candidates: &Candidates<'_>) -> Option<Vec<u32>> {
    let weights: Vec<u32> = (0..candidates.len())
        .map(|index| candidates.weight(index))
        .collect();
    let first = *weights.first()?;
    weights
        .iter()
        .any(|&weight| weight != first)
        .then_some(weights)
}

/// Smooth weighted round robin.
#[derive(Debug)]
pub(super) struct WeightedRoundRobin {
    turns: Turns,
    next: Arc<AtomicUsize>,
}

/// How much cheaper a second choice must be. Between endpoints that are alike chance makes one look a
/// little cheaper all the time, and it is the one with fewer calls: it has had fewer slow ones.
const MARGIN: f32 = 2.0;

/// The power of two choices, both drawn by weight.
#[derive(Debug)]
pub(super) struct WeightedP2c {
    base: P2cEwma,
    shares: Shares,
    /// The average weight, divided by each one's.
    scales: Box<[f32]>,
}

// ===== impl WeightedRoundRobin =====

impl WeightedRoundRobin {
    pub(super) fn new(weights: &[u32], next: Arc<AtomicUsize>) -> Self {
        Self {
            turns: Turns::new(weights),
            next,
        }
    }
}

impl Pick for WeightedRoundRobin {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let n = candidates.len();
        let count = self.next.fetch_add(1, Relaxed);
        let first = self.turns.at(count);
        // The next turns may all belong to a heavy one that is to be passed over: then neighbours.
        let turns = (0..SKIPS).map(|skip| (skip, self.turns.at(count.wrapping_add(skip))));
        let neighbours = (1..n.min(SKIPS)).map(|skip| (0, (first + skip) % n));
        take_turn(candidates, &self.next, turns.chain(neighbours)).unwrap_or(first)
    }
}

// ===== impl WeightedP2c =====

impl WeightedP2c {
    pub(super) fn new(weights: &[u32], base: P2cEwma) -> Self {
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let average = total / weights.len() as f64;
        Self {
            base,
            shares: Shares::new(weights),
            scales: weights
                .iter()
                .map(|&weight| (average / f64::from(weight)) as f32)
                .collect(),
        }
    }
}

impl Pick for WeightedP2c {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        if candidates.is_retry() {
            return self.base.pick(candidates);
        }
        let random = self.base.random();
        // 32 bits for each draw: the weights have 16.
        let first = self.shares.owner(random << 32);
        let second = self.shares.other_owner(first, random & !0xffff_ffff);
        let cost = |index: usize| candidates.scaled_cost(index, self.scales[index]);
        if cost(second) * MARGIN < cost(first) {
            second
        } else {
            first
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{Picker, RoundRobin, tests::Set},
        *,
    };

    fn counts(picker: &Picker, set: &Set, calls: usize) -> Vec<usize> {
        let mut counts = vec![0; set.all().len()];
        for _ in 0..calls {
            counts[picker.get().pick(&set.all())] += 1;
        }
        counts
    }

    fn round_robin(set: &Set) -> Picker {
        Picker::new(RoundRobin::starting_at(0)).prepared(&set.all())
    }

    #[test]
    fn weights_are_shares_of_the_turns() {
        let set = Set::weighted(&[60, 40]);
        assert_eq!(counts(&round_robin(&set), &set, 10_000), [6_000, 4_000]);
        let set = Set::weighted(&[1, 2, 300]);
        assert_eq!(counts(&round_robin(&set), &set, 303), [1, 2, 300]);
    }

    #[test]
    fn equal_weights_prepare_nothing() {
        for weights in [&[7, 7, 7][..], &[5]] {
            let set = Set::weighted(weights);
            assert!(RoundRobin::new().prepare(&set.all()).is_none());
            assert!(P2cEwma::new().prepare(&set.all()).is_none());
        }
    }

    #[test]
    fn the_count_goes_on_in_the_next_set() {
        let set = Set::weighted(&[3, 1]);
        let picker = Picker::new(RoundRobin::starting_at(0));
        let picks = |picker: &Picker, calls| -> Vec<usize> {
            (0..calls).map(|_| picker.get().pick(&set.all())).collect()
        };
        assert_eq!(picks(&picker.prepared(&set.all()), 2), [0, 0]);
        assert_eq!(picks(&picker.prepared(&set.all()), 3), [1, 0, 0]);
    }

    #[test]
    fn a_heavy_one_that_failed_just_now_is_passed_over_with_all_its_turns() {
        let set = Set::weighted(&[1_000, 1, 1]);
        set.penalise(0);
        let counts = counts(&round_robin(&set), &set, 1_000);
        assert_eq!(counts[0], 0, "{counts:?}");
        let picked = round_robin(&Set::weighted(&[1_000, 1]));
        let tried = Set::weighted(&[1_000, 1]);
        for _ in 0..100 {
            assert_eq!(picked.get().pick(&tried.without(&[0])), 1);
        }
        // Where all were tried, or all failed, someone has to take the call.
        assert_eq!(picked.get().pick(&tried.without(&[0, 1])), 0);
    }

    #[test]
    fn idle_endpoints_are_drawn_by_weight() {
        let set = Set::weighted(&[60, 30, 10]);
        let picker = Picker::new(P2cEwma::seeded(1)).prepared(&set.all());
        for (count, weight) in counts(&picker, &set, 10_000).into_iter().zip([60, 30, 10]) {
            assert!(count.abs_diff(weight * 100) < 200, "{count} for {weight}%");
        }
    }

    #[test]
    fn a_second_choice_takes_the_call_if_it_is_far_cheaper() {
        let set = Set::weighted(&[90, 10]);
        let picker = Picker::new(P2cEwma::seeded(1)).prepared(&set.all());
        let share = |slower: u64| {
            set.pretend(0, Duration::from_millis(slower), 0);
            set.pretend(1, Duration::from_millis(10), 0);
            counts(&picker, &set, 10_000)[0]
        };
        for slower in [10, 19] {
            let share = share(slower);
            assert!(share.abs_diff(9_000) < 200, "{share} at {slower} ms");
        }
        assert_eq!(share(21), 0);
    }

    #[test]
    fn calls_in_flight_weigh_less_on_a_heavy_endpoint() {
        let set = Set::weighted(&[300, 100]);
        let candidates = set.all();
        let weighted = WeightedP2c::new(&[300, 100], P2cEwma::seeded(1));
        // With three times the calls in flight the heavy one is as good as the light one.
        set.pretend(0, Duration::from_millis(10), 3);
        set.pretend(1, Duration::from_millis(10), 1);
        let cost = |index| candidates.scaled_cost(index, weighted.scales[index]);
        assert_eq!(cost(0), cost(1));
        assert!(candidates.cost(0) > candidates.cost(1));
    }
}
