//! The states, and when one becomes the next: no clock of its own.

use std::time::Duration;

use tokio::time::Instant;

/// How far a process is on its way out. Later states are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DrainState {
    /// Calls are taken.
    Serving,
    /// Calls are taken, and callers are asked to go elsewhere.
    LameDuck,
    /// New calls are refused, and those in flight are finished.
    Draining,
    /// Nothing is in flight any more, or the limit is over.
    Drained,
}

/// Where the process is, as far as time tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    Serving,
    /// `None`: until it is told to refuse.
    LameDuck {
        until: Option<(Instant, Duration)>,
    },
    /// Calls in flight have until then.
    Refusing {
        until: Instant,
    },
}

// ===== impl DrainState =====

impl DrainState {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Serving, Self::LameDuck, Self::Draining, Self::Drained];

    /// A short, fixed label for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::LameDuck => "lame_duck",
            Self::Draining => "draining",
            Self::Drained => "drained",
        }
    }
}

// ===== impl Course =====

impl Course {
    /// As of now: time alone makes a lame duck refuse.
    pub(super) fn at(self, now: Instant) -> Self {
        match self {
            Self::LameDuck {
                until: Some((until, limit)),
            } if until <= now => Self::refusing(until, limit),
            course => course,
        }
    }

    /// Starts to leave. What has begun goes on as it was begun.
    pub(super) fn start(self, now: Instant, lame_duck: Duration, limit: Duration) -> Self {
        match self.at(now) {
            Self::Serving | Self::LameDuck { until: None } if lame_duck.is_zero() => {
                Self::refusing(now, limit)
            }
            Self::Serving | Self::LameDuck { until: None } => Self::LameDuck {
                until: Some((later(now, lame_duck), limit)),
            },
            course => course,
        }
    }

    /// Asks callers to go elsewhere, until it is told to refuse.
    pub(super) fn lame_duck(self) -> Self {
        match self {
            Self::Serving => Self::LameDuck { until: None },
            course => course,
        }
    }

    /// Refuses from now on.
    pub(super) fn refuse(self, now: Instant, limit: Duration) -> Self {
        match self.at(now) {
            Self::Serving | Self::LameDuck { .. } => Self::refusing(now, limit),
            course => course,
        }
    }

    fn refusing(since: Instant, limit: Duration) -> Self {
        Self::Refusing {
            until: later(since, limit),
        }
    }
}

fn later(time: Instant, by: Duration) -> Instant {
    // The options are a day at most.
    time.checked_add(by).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rank(course: Course) -> u8 {
        match course {
            Course::Serving => 0,
            Course::LameDuck { .. } => 1,
            Course::Refusing { .. } => 2,
        }
    }

    #[test]
    fn a_lame_duck_refuses_after_its_time_however_late_that_is_looked_at() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let course = Course::Serving.start(start, 5 * second, 10 * second);
        assert_eq!(rank(course.at(start + 4 * second)), 1);
        for late in [5, 6, 100] {
            let until = start + 15 * second;
            assert_eq!(course.at(start + late * second), Course::Refusing { until });
        }
    }

    proptest! {
        #[test]
        fn there_is_no_way_back_and_no_limit_grows(
            steps in proptest::collection::vec((0..4_u8, 0..20_u64, 0..20_u64, 0..20_u64), 1..30),
        ) {
            let seconds = Duration::from_secs;
            let (mut now, mut course) = (Instant::now(), Course::Serving);
            for (what, wait, lame_duck, limit) in steps {
                now += seconds(wait);
                let next = match what {
                    0 => course.at(now),
                    1 => course.start(now, seconds(lame_duck), seconds(limit)),
                    2 => course.lame_duck(),
                    _ => course.refuse(now, seconds(limit)),
                };
                prop_assert!(rank(next) >= rank(course));
                if let Course::Refusing { .. } = course {
                    prop_assert_eq!(next, course);
                }
                course = next;
            }
        }
    }
}
