//! When to send the next heartbeat, and when the lease is over: pure state, time is passed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::resolve::backoff::Backoff;

/// Heartbeats come up to this share of the interval early, so that instances which started at one
/// moment (or lost their registry at one moment) do not beat in step.
const JITTER: f64 = 0.2;

/// The schedule of one lease.
#[derive(Debug)]
pub(super) struct Pulse {
    ttl: Duration,
    interval: Duration,
    next: Instant,
    /// When the registry drops the record; `None` while it has none that we know of.
    expiry: Option<Instant>,
    backoff: Backoff,
    rng: fastrand::Rng,
}

// ===== impl Pulse =====

impl Pulse {
    /// The first beat is due at once.
    pub(super) fn new(
        ttl: Duration,
        interval: Duration,
        now: Instant,
        mut rng: fastrand::Rng,
    ) -> Self {
        Self {
            ttl,
            interval,
            next: now,
            expiry: None,
            backoff: Backoff::new(rng.fork()),
            rng,
        }
    }

    /// When the next beat is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// When the lease ends, if there is one and no beat succeeds.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.expiry
    }

    /// A beat that was sent at `sent` succeeded. The lease counts from then on and not from the
    /// answer, since the registry may have written it at any moment in between.
    pub(super) fn succeeded(&mut self, sent: Instant) {
        self.backoff.reset();
        self.expiry = Some(sent + self.ttl);
        let early = JITTER * self.rng.f64();
        self.next = sent + self.interval.mul_f64(1.0 - early);
    }

    /// A beat failed: the next one comes after a random delay that grows, but while there is a lease
    /// to save, never later than a heartbeat would.
    pub(super) fn failed(&mut self, now: Instant) {
        let delay = self.backoff.next();
        let delay = match self.expiry {
            Some(_) => delay.min(self.interval),
            None => delay,
        };
        self.next = now + delay;
    }

    /// The registry has no record of ours any more.
    pub(super) fn lapsed(&mut self) {
        self.expiry = None;
    }

    /// The record belongs to somebody else: look again in a while, without haste.
    pub(super) fn wait(&mut self, now: Instant) {
        self.next = now + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(15);
    const INTERVAL: Duration = Duration::from_secs(5);

    fn pulse(seed: u64, now: Instant) -> Pulse {
        Pulse::new(TTL, INTERVAL, now, fastrand::Rng::with_seed(seed))
    }

    #[test]
    fn instances_that_start_together_do_not_beat_together() {
        let start = Instant::now();
        let mut seconds = [0; 6];
        for seed in 0..1_000 {
            let mut pulse = pulse(seed, start);
            pulse.succeeded(start);
            let after = pulse.next() - start;
            seconds[(after.as_millis() / 200) as usize - 20] += 1;
        }
        assert!(seconds.iter().all(|n| *n < 300), "{seconds:?}");
        assert!(seconds[..5].iter().all(|n| *n > 100), "{seconds:?}");
    }

    #[test]
    fn an_outage_is_met_with_several_tries_before_the_lease_ends_and_ever_rarer_ones_after() {
        for seed in 0..100 {
            let start = Instant::now();
            let mut pulse = pulse(seed, start);
            pulse.succeeded(start);
            let (mut before, mut after) = (0, 0);
            let expiry = pulse.expiry().unwrap();
            loop {
                let now = pulse.next();
                if now > start + Duration::from_secs(615) {
                    break;
                }
                if now >= expiry {
                    pulse.lapsed();
                    after += 1;
                } else {
                    before += 1;
                }
                pulse.failed(now);
            }
            assert!(before >= 4, "{before} tries to save the lease");
            assert!((20..=100).contains(&after), "{after} tries in 10 minutes");
        }
    }

    proptest! {
        /// Whatever the answers, the next try is near; and while they are good, the lease never
        /// comes near its end.
        #[test]
        fn there_is_always_a_next_beat_in_time(
            seed in any::<u64>(),
            answers in prop::collection::vec((any::<bool>(), 0_u64..5_000), 1..100),
        ) {
            let mut now = Instant::now();
            let mut pulse = pulse(seed, now);
            for (good, took) in answers {
                now = now.max(pulse.next());
                if pulse.expiry().is_some_and(|at| at <= now) {
                    pulse.lapsed();
                }
                let sent = now;
                now += Duration::from_millis(took);
                if good {
                    pulse.succeeded(sent);
                    prop_assert!(pulse.next() - sent <= INTERVAL);
                    prop_assert!(pulse.expiry().unwrap() - pulse.next() > TTL / 2);
                } else {
                    let held = pulse.expiry().is_some();
                    pulse.failed(now);
                    let limit = if held { INTERVAL } else { crate::resolve::backoff::CAP };
                    prop_assert!(pulse.next() - now <= limit);
                }
            }
        }
    }
}
