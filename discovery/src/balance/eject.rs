//! Whether an endpoint gets calls: the state machine of one endpoint, without a clock of its own.
//!
//! ```text
//!            failures in a row             its time is over
//!   In ───────────────────────► Out ───────────────────────► Trial ──► In, on a success
//!    ▲      a refused connection  ▲   one call is let through   │
//!    │                            └─────────────────────────────┘ longer, on a failure
//!    └──────────────────────────── a success of a later call (all were out, so it was called)
//! ```
//!
//! Ejection by consecutive failures is Envoy's *outlier detection*: the time out grows with every
//! ejection, and shrinks again while the endpoint behaves. What we do otherwise: an endpoint returns
//! by one trial call and not by time alone, so a peer that still hangs costs one call and not many;
//! timeouts have a threshold of their own, since each of them costs its caller all the time it had.
//!
//! Time is in milliseconds of a clock that the caller owns.

use std::time::Duration;

/// The first wait after a refused connection is drawn up to this.
const REFUSED_BASE_MS: u64 = 200;

/// When to eject, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Policy {
    /// Failures in a row; 0 never ejects.
    pub(super) failures: u32,
    /// Timeouts in a row; 0 never ejects.
    pub(super) timeouts: u32,
    pub(super) base_ms: u64,
    pub(super) max_ms: u64,
    pub(super) refused_max_ms: u64,
    /// A trial call that has no outcome after this long: a stream.
    pub(super) probation_ms: u64,
}

/// Why an endpoint is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It failed too often.
    Ejected,
    /// No connection could be made.
    Refused,
}

/// How an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    In,
    Out {
        cause: Cause,
        since: u64,
        until: u64,
    },
    Trial {
        cause: Cause,
        since: u64,
        answered: bool,
    },
}

/// What an event means for the set of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Verdict {
    /// Nothing.
    Stay,
    /// Too many failures: [`Health::take_out`] it, if enough others remain.
    Condemned,
    /// It takes calls again.
    Returned,
}

/// What a due endpoint gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Due {
    /// Nothing: something happened since the date was set.
    Stale,
    /// The next call, as a trial; due again at this time if that call has no outcome.
    Trial(u64),
    /// Its trial was answered and goes on as a stream: it takes calls again.
    Returned,
}

/// The health of one endpoint.
#[derive(Debug)]
pub(super) struct Health {
    standing: Standing,
    failures: u32,
    timeouts: u32,
    ejections: u32,
    refusals: u32,
    returned_at: u64,
}

// ===== impl Health =====

impl Health {
    pub(super) const fn new() -> Self {
        Self {
            standing: Standing::In,
            failures: 0,
            timeouts: 0,
            ejections: 0,
            refusals: 0,
            returned_at: 0,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Failures since the last success.
    pub(super) fn consecutive(&self) -> u32 {
        self.failures
    }

    /// Whether a success must be told to [`success`](Self::success), or would change nothing.
    pub(super) fn is_troubled(&self) -> bool {
        self.standing != Standing::In || self.failures > 0 || self.refusals > 0
    }

    /// A call that began at `started` succeeded.
    pub(super) fn success(&mut self, started: u64, now: u64) -> Verdict {
        match self.standing {
            Standing::In => {
                self.clear();
                Verdict::Stay
            }
            // It was called although it is out, since nothing else was left, and it works.
            Standing::Out { since, .. } if started > since => self.restore(now),
            Standing::Out { .. } => Verdict::Stay,
            Standing::Trial { since, .. } if started >= since => self.restore(now),
            Standing::Trial { .. } => Verdict::Stay,
        }
    }

    /// A call that began at `started` failed.
    pub(super) fn failure(&mut self, timeout: bool, started: u64, policy: &Policy) -> Verdict {
        match self.standing {
            Standing::In => {
                self.failures = self.failures.saturating_add(1);
                self.timeouts = if timeout {
                    self.timeouts.saturating_add(1)
                } else {
                    0
                };
                let reached = |count, limit| limit > 0 && count >= limit;
                if reached(self.failures, policy.failures)
                    || reached(self.timeouts, policy.timeouts)
                {
                    Verdict::Condemned
                } else {
                    Verdict::Stay
                }
            }
            Standing::Trial { since, .. } if started >= since => Verdict::Condemned,
            // Calls that were under way when it was taken out say nothing new.
            Standing::Out { .. } | Standing::Trial { .. } => Verdict::Stay,
        }
    }

    /// Takes it out; gives the time at which it is due for a trial.
    pub(super) fn take_out(
        &mut self,
        cause: Cause,
        now: u64,
        policy: &Policy,
        rng: &mut fastrand::Rng,
    ) -> u64 {
        let wait = match cause {
            Cause::Ejected => {
                // Each stretch of good behaviour as long as the first ejection takes one back.
                let good = now.saturating_sub(self.returned_at) / (2 * policy.base_ms).max(1);
                let forgiven = if self.standing == Standing::In {
                    good
                } else {
                    0
                };
                self.ejections = self
                    .ejections
                    .saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
                    .saturating_add(1);
                policy
                    .base_ms
                    .saturating_mul(self.ejections.into())
                    .min(policy.max_ms)
            }
            Cause::Refused => {
                // Full jitter, so that the clients of a host that comes back do not arrive together.
                let ceiling = (REFUSED_BASE_MS << self.refusals.min(16)).min(policy.refused_max_ms);
                self.refusals = self.refusals.saturating_add(1);
                rng.u64(0..=ceiling)
            }
        };
        let until = now.saturating_add(wait);
        self.standing = Standing::Out {
            cause,
            since: now,
            until,
        };
        until
    }

    /// The time that [`take_out`](Self::take_out) or a trial named has come.
    pub(super) fn due(&mut self, now: u64, policy: &Policy) -> Due {
        match self.standing {
            Standing::Out { cause, until, .. } if until <= now => {
                self.standing = Standing::Trial {
                    cause,
                    since: now,
                    answered: false,
                };
                Due::Trial(now + policy.probation_ms)
            }
            Standing::Trial {
                since,
                answered,
                cause,
            } if since + policy.probation_ms <= now => {
                if answered {
                    let _ = self.restore(now);
                    return Due::Returned;
                }
                self.standing = Standing::Trial {
                    cause,
                    since: now,
                    answered,
                };
                Due::Trial(now + policy.probation_ms)
            }
            _ => Due::Stale,
        }
    }

    /// The trial call has a response head, and its outcome is open.
    pub(super) fn trial_answered(&mut self) {
        if let Standing::Trial { answered, .. } = &mut self.standing {
            *answered = true;
        }
    }

    /// The trial call ended without an outcome (cancelled); gives the time of the next one.
    ///
    /// That is not at once: the caller may have given up because the peer hangs.
    pub(super) fn trial_abandoned(&mut self, now: u64, policy: &Policy) -> Option<u64> {
        let Standing::Trial { cause, .. } = self.standing else {
            return None;
        };
        let until = now + policy.base_ms;
        self.standing = Standing::Out {
            cause,
            since: now,
            until,
        };
        Some(until)
    }

    /// A connection could be made again.
    pub(super) fn reachable(&mut self, now: u64) -> Verdict {
        match self.standing {
            // NOTE: `refusals` stays until a call succeeds: a peer may accept and then break.
            Standing::Out {
                cause: Cause::Refused,
                ..
            } => {
                self.standing = Standing::In;
                self.returned_at = now;
                Verdict::Returned
            }
            _ => Verdict::Stay,
        }
    }

    fn restore(&mut self, now: u64) -> Verdict {
        self.standing = Standing::In;
        self.returned_at = now;
        self.clear();
        Verdict::Returned
    }

    fn clear(&mut self) {
        (self.failures, self.timeouts, self.refusals) = (0, 0, 0);
    }
}

/// Whether one more of `all` endpoints may be ejected when `ejected` are: the share is that *after*
/// the ejection, one may always go (a share of three would allow none), and one always stays.
pub(super) fn may_eject(ejected: usize, all: usize, allowed: usize) -> bool {
    ejected < allowed.max(1).min(all.saturating_sub(1))
}

/// How long an endpoint is passed over after a failure: `base`, doubled for every failure in a row
/// above `threshold` (where it may not be ejected), at most `max`.
pub(super) fn penalty(base: Duration, consecutive: u32, threshold: u32, max: Duration) -> Duration {
    let over = consecutive.saturating_sub(threshold.max(1)).min(16);
    base.saturating_mul(1 << over).min(max.max(base))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        failures: 5,
        timeouts: 3,
        base_ms: 3_000,
        max_ms: 60_000,
        refused_max_ms: 10_000,
        probation_ms: 10_000,
    };

    fn rng() -> fastrand::Rng {
        fastrand::Rng::with_seed(7)
    }

    fn eject(health: &mut Health, now: u64) -> u64 {
        health.take_out(Cause::Ejected, now, &POLICY, &mut rng())
    }

    #[test]
    fn five_failures_or_three_timeouts_in_a_row_condemn() {
        for (timeout, limit) in [(false, 5), (true, 3)] {
            let mut health = Health::new();
            for n in 1..limit {
                assert_eq!(health.failure(timeout, 0, &POLICY), Verdict::Stay, "{n}");
            }
            assert_eq!(health.failure(timeout, 0, &POLICY), Verdict::Condemned);
        }
    }

    #[test]
    fn a_success_between_starts_the_count_anew() {
        let mut health = Health::new();
        for _ in 0..20 {
            for _ in 0..4 {
                assert_eq!(health.failure(false, 0, &POLICY), Verdict::Stay);
            }
            assert_eq!(health.success(0, 0), Verdict::Stay);
        }
        assert!(!health.is_troubled());
    }

    #[test]
    fn it_returns_by_one_trial_and_stays_out_longer_when_that_fails() {
        let mut health = Health::new();
        assert_eq!(eject(&mut health, 1_000), 4_000);
        assert_eq!(health.due(3_999, &POLICY), Due::Stale);
        assert_eq!(health.due(4_000, &POLICY), Due::Trial(14_000));
        assert_eq!(health.due(4_001, &POLICY), Due::Stale, "one call, not two");
        assert_eq!(health.failure(true, 4_000, &POLICY), Verdict::Condemned);
        assert_eq!(eject(&mut health, 5_000), 11_000);
        assert_eq!(health.due(11_000, &POLICY), Due::Trial(21_000));
        assert_eq!(health.success(11_000, 11_001), Verdict::Returned);
        assert_eq!(health.standing(), Standing::In);
    }

    #[test]
    fn calls_from_before_it_was_taken_out_change_nothing() {
        let mut health = Health::new();
        let _ = eject(&mut health, 1_000);
        assert_eq!(health.success(999, 1_001), Verdict::Stay);
        assert_eq!(health.failure(false, 999, &POLICY), Verdict::Stay);
        let _ = health.due(4_000, &POLICY);
        assert_eq!(health.failure(false, 999, &POLICY), Verdict::Stay);
        assert!(matches!(health.standing(), Standing::Trial { .. }));
    }

    #[test]
    fn a_later_success_brings_it_back_when_it_was_called_all_the_same() {
        let mut health = Health::new();
        let _ = eject(&mut health, 1_000);
        assert_eq!(health.success(1_001, 1_002), Verdict::Returned);
    }

    #[test]
    fn good_behaviour_is_forgiven() {
        let mut health = Health::new();
        for n in 1..=4 {
            assert_eq!(eject(&mut health, 0), n * 3_000);
        }
        assert_eq!(health.success(1, 10), Verdict::Returned);
        // Three stretches of 6 s take three of the four back.
        assert_eq!(eject(&mut health, 18_010), 18_010 + 2 * 3_000);
    }

    #[test]
    fn a_trial_that_is_a_stream_returns_after_probation_and_a_silent_one_does_not() {
        for answered in [true, false] {
            let mut health = Health::new();
            let until = eject(&mut health, 0);
            let Due::Trial(again) = health.due(until, &POLICY) else {
                panic!("due for a trial")
            };
            if answered {
                health.trial_answered();
            }
            let want = if answered {
                Due::Returned
            } else {
                Due::Trial(again + 10_000)
            };
            assert_eq!(health.due(again, &POLICY), want);
        }
    }

    #[test]
    fn a_cancelled_trial_is_made_again_no_later_than_the_first() {
        let mut health = Health::new();
        let until = eject(&mut health, 0);
        assert_eq!(health.due(until, &POLICY), Due::Trial(13_000));
        assert_eq!(health.trial_abandoned(3_100, &POLICY), Some(6_100));
        assert_eq!(health.due(6_100, &POLICY), Due::Trial(16_100));
    }

    #[test]
    fn the_share_is_counted_after_the_ejection() {
        assert!(
            may_eject(0, 3, 0),
            "one of three, though 10% of three is none"
        );
        assert!(!may_eject(1, 3, 1));
        assert!(may_eject(2, 10, 3));
        assert!(!may_eject(3, 10, 3));
        assert!(!may_eject(0, 1, 1), "the last one stays");
        assert!(!may_eject(1, 2, 2));
    }

    #[test]
    fn a_penalty_grows_where_ejection_was_not_allowed() {
        let ms = Duration::from_millis;
        let at = |consecutive| penalty(ms(100), consecutive, 5, ms(3_000));
        assert_eq!(
            [at(1), at(5), at(6), at(7)],
            [ms(100), ms(100), ms(200), ms(400)]
        );
        assert_eq!(at(1_000), ms(3_000));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Success,
        Failure(bool),
        Refused,
        Due,
        Reachable,
        Abandoned,
    }

    proptest! {
        #[test]
        fn the_cap_holds_for_every_size(all in 1_usize..200, allowed in 0_usize..200) {
            let mut ejected = 0;
            while may_eject(ejected, all, allowed) {
                ejected += 1;
            }
            prop_assert!(ejected < all);
            prop_assert!(ejected <= allowed.max(1));
        }

        #[test]
        fn whatever_happens_it_is_due_in_time_and_a_later_success_brings_it_back(
            events in prop::collection::vec(
                (prop_oneof![
                    Just(Event::Success),
                    Just(Event::Failure(false)),
                    Just(Event::Failure(true)),
                    Just(Event::Refused),
                    Just(Event::Due),
                    Just(Event::Reachable),
                    Just(Event::Abandoned),
                ], 0_u64..5_000),
                0..200,
            ),
        ) {
            let (mut health, mut rng, mut now) = (Health::new(), rng(), 1);
            for (event, step) in events {
                now += step;
                match event {
                    Event::Success => drop(health.success(now, now)),
                    Event::Failure(timeout) => {
                        if health.failure(timeout, now, &POLICY) == Verdict::Condemned {
                            let until = health.take_out(Cause::Ejected, now, &POLICY, &mut rng);
                            prop_assert!(until > now && until - now <= POLICY.max_ms);
                        }
                    }
                    Event::Refused => {
                        let until = health.take_out(Cause::Refused, now, &POLICY, &mut rng);
                        prop_assert!(until - now <= POLICY.refused_max_ms);
                    }
                    Event::Due => drop(health.due(now, &POLICY)),
                    Event::Reachable => drop(health.reachable(now)),
                    Event::Abandoned => drop(health.trial_abandoned(now, &POLICY)),
                }
                if let Standing::Out { until, .. } = health.standing() {
                    prop_assert!(until <= now + POLICY.max_ms);
                }
            }
            let _ = health.success(now + 1, now + 1);
            prop_assert_eq!(health.standing(), Standing::In);
            prop_assert!(!health.is_troubled());
        }
    }
}
