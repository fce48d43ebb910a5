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
mod tests;
