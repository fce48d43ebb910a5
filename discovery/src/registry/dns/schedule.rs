//! When to ask again.

use std::time::Duration;

/// A name that has no records is asked for again after this time at the latest, whatever its zone
/// says: somebody waits for it.
const ABSENT: Duration = Duration::from_secs(30);
/// The first and the longest wait after a failure.
const FAILED: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// How much later than told an answer is asked for again, so that clients which share a cache do not
/// all come in the instant that it forgets.
const LATER: Duration = Duration::from_millis(500);

/// What a round of questions came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is an answer, good for so long.
    Found(Duration),
    /// Some questions were answered, others failed.
    Partial(Duration),
    /// There are no records, good for so long if that was said.
    Absent(Option<Duration>),
    Failed,
}

/// When to ask again: after the time to live, within bounds, and after failures ever later.
#[derive(Debug)]
pub(super) struct Schedule {
    min: Duration,
    max: Duration,
    failures: u32,
    rng: fastrand::Rng,
}

// ===== impl Schedule =====

impl Schedule {
    pub(super) fn new(min: Duration, max: Duration, rng: fastrand::Rng) -> Self {
        Self {
            min,
            max: max.max(min),
            failures: 0,
            rng,
        }
    }

    /// How long after the last questions the next are due.
    pub(super) fn next(&mut self, outcome: Outcome) -> Duration {
        match outcome {
            Outcome::Found(ttl) => {
                self.failures = 0;
                self.answered(ttl)
            }
            Outcome::Absent(ttl) => {
                self.failures = 0;
                self.answered(ttl.unwrap_or(ABSENT).min(ABSENT))
            }
            Outcome::Failed => self.failed(),
            Outcome::Partial(ttl) => self.failed().min(self.answered(ttl)),
        }
    }

    fn answered(&mut self, ttl: Duration) -> Duration {
        let ttl = ttl.clamp(self.min, self.max);
        ttl + (ttl / 10).min(LATER).mul_f64(self.rng.f64())
    }

    fn failed(&mut self) -> Duration {
        let [first, longest] = FAILED;
        let wait = first
            .saturating_mul(1 << self.failures.min(16))
            .min(longest);
        self.failures = self.failures.saturating_add(1);
        wait + (wait / 2).mul_f64(self.rng.f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn schedule() -> Schedule {
        schedule_at(1)
    }

    fn schedule_at(seed: u64) -> Schedule {
        Schedule::new(s(1), s(300), fastrand::Rng::with_seed(seed))
    }

    #[test]
    fn an_answer_is_good_for_its_time_to_live_within_bounds() {
        for (ttl, wait) in [(0, 1), (1, 1), (60, 60), (86_400, 300)] {
            let waits: Vec<_> = (0..100)
                .map(|_| schedule_at(wait).next(Outcome::Found(s(ttl))))
                .collect();
            let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!(*least >= s(wait) && *most <= s(wait) + LATER, "{waits:?}");
        }
        let mut schedule = schedule();
        let spread: std::collections::BTreeSet<_> = (0..100)
            .map(|_| schedule.next(Outcome::Found(s(60))))
            .collect();
        assert!(*spread.last().unwrap() - *spread.first().unwrap() > LATER / 2);
    }

    #[test]
    fn what_is_not_there_is_asked_for_soon() {
        for (ttl, wait) in [(None, 30), (Some(3_600), 30), (Some(5), 5), (Some(0), 1)] {
            let next = schedule().next(Outcome::Absent(ttl.map(s)));
            assert!((s(wait)..=s(wait) + LATER).contains(&next), "{next:?}");
        }
    }

    #[test]
    fn failures_are_repeated_ever_later_until_an_answer_comes() {
        let mut schedule = schedule();
        for wait in [1, 2, 4, 8, 16, 30, 30, 30] {
            let next = schedule.next(Outcome::Failed);
            assert!((s(wait)..=s(wait) * 3 / 2).contains(&next), "{next:?}");
        }
        schedule.next(Outcome::Found(s(60)));
        assert!(schedule.next(Outcome::Failed) < s(2));
        schedule.next(Outcome::Absent(None));
        assert!(schedule.next(Outcome::Failed) < s(2));
    }

    #[test]
    fn a_half_answer_is_completed_soon_and_no_later_than_it_is_old() {
        assert!(schedule().next(Outcome::Partial(s(60))) < s(2));
        let mut schedule = schedule();
        for _ in 0..9 {
            schedule.next(Outcome::Failed);
        }
        let next = schedule.next(Outcome::Partial(s(5)));
        assert!((s(5)..s(6)).contains(&next), "{next:?}");
    }

    proptest! {
        /// Row D16 of the promises: at most one query a second, even at a time to live of zero.
        #[test]
        fn never_more_than_once_a_second_and_never_later_than_promised(
            outcomes in proptest::collection::vec((0_u8..4, 0_u64..100_000), 1..50), seed: u64,
        ) {
            let mut schedule = schedule_at(seed);
            for (kind, ttl) in outcomes {
                let next = schedule.next(match kind {
                    0 => Outcome::Found(s(ttl)),
                    1 => Outcome::Partial(s(ttl)),
                    2 => Outcome::Absent(Some(s(ttl))),
                    _ => Outcome::Failed,
                });
                prop_assert!(next >= s(1));
                prop_assert!(next <= s(ttl.clamp(1, 300)) + LATER || kind == 3);
                prop_assert!(next <= s(300) + LATER);
            }
        }
    }
}
