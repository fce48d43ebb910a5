//! What a test can make go wrong in a [`MemoryRegistry`](super::MemoryRegistry).
#![cfg_attr(
    not(feature = "test-util"),
    expect(
        dead_code,
        unreachable_pub,
        reason = "without `test-util` nothing goes wrong"
    )
)]

#[cfg(feature = "test-util")]
use super::MemoryRegistry;

/// What a registry that is out of order does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Every write and every watch is answered with an error.
    Refuses,
    /// Nothing is answered at all, until it recovers.
    Hangs,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    failures: u32,
    outage: Option<Outage>,
}

/// Whether the registry does what it is asked for.
pub(super) enum Admission {
    Admitted,
    Failed(&'static str),
    Hangs,
}

// ===== impl Faults =====

impl Faults {
    pub(super) fn admit_write(&mut self) -> Admission {
        if self.outage.is_none() && self.failures > 0 {
            self.failures -= 1;
            return Admission::Failed("told to fail this write");
        }
        self.admit_read()
    }

    pub(super) fn admit_read(&self) -> Admission {
        match self.outage {
            None => Admission::Admitted,
            Some(Outage::Refuses) => Admission::Failed("told to be down"),
            Some(Outage::Hangs) => Admission::Hangs,
        }
    }
}

#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
impl MemoryRegistry {
    /// Ends a lease now, as if no heartbeat had come for its TTL. Whether there was one.
    pub fn expire(&self, service: &str, id: &str) -> bool {
        self.change(|state, now| state.records.expire(service, id, now))
    }

    /// Makes the next `n` writes fail: registrations, heartbeats, deregistrations.
    pub fn fail_next(&self, n: u32) {
        self.change(|state, _| state.faults.failures = n);
    }

    /// Puts the registry out of order. Leases still run out meanwhile.
    pub fn outage(&self, outage: Outage) {
        self.change(|state, _| state.faults.outage = Some(outage));
    }

    /// Ends an [outage](Self::outage).
    pub fn recover(&self) {
        self.change(|state, _| state.faults.outage = None);
    }
}
