//! One after the other.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::{
    Candidates, Pick,
    weighted::{self, WeightedRoundRobin},
};

/// How many that were tried or failed just now are passed over, before one of them is taken after all.
pub(super) const SKIPS: usize = 8;

/// One endpoint after the other, whatever they cost.
///
/// Where the [weights](crate::instance::Instance::weight) of a set differ, each comes as often as its
/// weight says, and as evenly as can be: 60 and 40 make A B A B A, not A A A B B (the smooth weighted
/// round robin of nginx).
///
/// An endpoint that failed just now is passed over for the penalty's time, and an endpoint that was
/// tried by an earlier attempt of the call is passed over too. All threads share one count, so under
/// load the order is that in which they count.
#[derive(Debug)]
pub struct RoundRobin {
    /// Shared with what it prepares for a set.
    next: Arc<AtomicUsize>,
}

// ===== impl RoundRobin =====

impl RoundRobin {
    /// Starts at a random place, so that processes which start together do not go round in step.
    pub fn new() -> Self {
        Self::starting_at(fastrand::usize(..))
    }

    pub(super) fn starting_at(next: usize) -> Self {
        Self {
            next: Arc::new(next.into()),
        }
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Pick for RoundRobin {
    fn pick(&self, candidates: &Candidates<'_>) -> usize {
        let n = candidates.len();
        let first = self.next.fetch_add(1, Relaxed) % n;
        let turns = (0..n.min(SKIPS)).map(|skip| (skip, (first + skip) % n));
        take_turn(candidates, &self.next, turns).unwrap_or(first)
    }

    fn prepare(&self, candidates: &Candidates<'_>) -> Option<Arc<dyn Pick>> {
        let weights = weighted::differing(candidates)?;
        let picker = WeightedRoundRobin::new(&weights, Arc::clone(&self.next));
        Some(Arc::new(picker))
    }

    /// With one count for several lists, calls that alternate between two arms would see every other
    /// endpoint of each.
    fn for_subset(&self) -> Option<Arc<dyn Pick>> {
        Some(Arc::new(Self::new()))
    }
}

/// The first endpoint of `turns` that may take the call, each with how many turns are skipped to get
/// to it; better one that failed just now than none. `None` where all were tried.
#[inline]
pub(super) fn take_turn(
    candidates: &Candidates<'_>,
    next: &AtomicUsize,
    turns: impl Iterator<Item = (usize, usize)>,
) -> Option<usize> {
    let mut untried = None;
    for (skip, index) in turns {
        if !candidates.is_eligible(index) {
            continue;
        }
        if !candidates.is_penalised(index) {
            if skip > 0 {
                // The next call starts behind it, or it would carry its neighbour's share too.
                next.fetch_add(skip, Relaxed);
            }
            return Some(index);
        }
        untried = untried.or(Some(index));
    }
    untried
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::{super::tests::Set, *};

    fn starting_at(next: usize) -> RoundRobin {
        RoundRobin::starting_at(next)
    }

    fn picks(picker: &RoundRobin, candidates: &Candidates<'_>, calls: usize) -> Vec<usize> {
        (0..calls).map(|_| picker.pick(candidates)).collect()
    }

    #[test]
    fn each_endpoint_has_its_turn() {
        let set = Set::of(3);
        let picker = starting_at(1);
        assert_eq!(picks(&picker, &set.all(), 7), [1, 2, 0, 1, 2, 0, 1]);
        assert_eq!(picks(&picker, &Set::of(1).all(), 3), [0, 0, 0]);
    }

    #[test]
    fn the_count_may_overflow() {
        let set = Set::of(4); // divides the count's range, so the turn shows no seam
        let picker = starting_at(usize::MAX - 1);
        assert_eq!(picks(&picker, &set.all(), 5), [2, 3, 0, 1, 2]);
        // Nor does it matter that one is passed over right at the end.
        set.penalise(3);
        let picker = starting_at(usize::MAX - 1);
        assert_eq!(picks(&picker, &set.all(), 5), [2, 0, 1, 2, 0]);
    }

    #[test]
    fn pickers_start_at_different_places() {
        let set = Set::of(250);
        let starts: std::collections::HashSet<_> = (0..20)
            .map(|_| RoundRobin::new().pick(&set.all()))
            .collect();
        assert!(starts.len() > 10, "{starts:?}");
    }

    #[test]
    fn an_endpoint_that_failed_just_now_is_passed_over_and_the_turn_goes_on_behind_it() {
        let set = Set::of(4);
        set.penalise(1);
        let picker = starting_at(0);
        // Nobody gets the share of the one left out, but all of them together.
        assert_eq!(picks(&picker, &set.all(), 9), [0, 2, 3, 0, 2, 3, 0, 2, 3]);
        // It is back as soon as its penalty is over.
        let later = Candidates {
            now_ms: 120_000,
            ..set.all()
        };
        assert_eq!(picks(&starting_at(0), &later, 5), [0, 1, 2, 3, 0]);
    }

    #[test]
    fn a_second_attempt_passes_over_what_was_tried_and_the_next_call_starts_behind_it() {
        let set = Set::of(4);
        let picker = starting_at(0);
        assert_eq!(picker.pick(&set.without(&[0, 1])), 2);
        assert_eq!(picks(&picker, &set.all(), 2), [3, 0]);
    }

    #[test]
    fn better_one_that_failed_just_now_than_one_that_was_tried() {
        let set = Set::of(3);
        set.penalise(1);
        set.penalise(2);
        for start in 0..3 {
            let picked = starting_at(start).pick(&set.without(&[0]));
            assert_ne!(picked, 0, "from {start}");
        }
        // Where all were tried, or all failed, someone has to take the call.
        assert_eq!(starting_at(1).pick(&set.without(&[0, 1, 2])), 1);
        set.penalise(0);
        assert_eq!(picks(&starting_at(1), &set.all(), 4), [1, 2, 0, 1]);
    }

    #[test]
    fn a_pick_looks_at_a_bounded_number_of_endpoints() {
        let set = Set::of(SKIPS + 2);
        (0..SKIPS).for_each(|index| set.penalise(index));
        assert_eq!(starting_at(0).pick(&set.all()), 0);
        assert_eq!(starting_at(1).pick(&set.all()), SKIPS);
    }

    #[test]
    fn callers_on_many_threads_spread_evenly() {
        const THREADS: usize = 8;
        const CALLS: usize = 20_000; // enough for them to get into each other's way
        let set = Set::of(5);
        let together = Barrier::new(THREADS);
        let picker = starting_at(3);
        let seen: Vec<_> = (0..5).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    together.wait();
                    for index in picks(&picker, &set.all(), CALLS) {
                        seen[index].fetch_add(1, Relaxed);
                    }
                });
            }
        });
        for count in seen {
            assert_eq!(count.into_inner(), THREADS * CALLS / 5);
        }
    }
}
