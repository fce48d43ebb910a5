//! The records and their leases: pure state, time is passed in.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    instance::{Instance, Status},
    register::{Lease, Owner, RegisterError},
    resolve::{Snapshot, snapshot},
};

/// All records, by service and id. Those whose lease is over are as good as absent, and leave when
/// somebody looks.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<String, BTreeMap<String, Record>>);

#[derive(Debug)]
struct Record {
    instance: Arc<Instance>,
    /// `None` stays for ever.
    lease: Option<Held>,
}

#[derive(Debug)]
struct Held {
    owner: Owner,
    expiry: Instant,
    /// The owner took the record out. It stays until then to say so.
    left: bool,
}

// ===== impl Records =====

impl Records {
    pub(super) fn insert(&mut self, instance: Arc<Instance>) {
        self.write(Record {
            instance,
            lease: None,
        });
    }

    pub(super) fn forget(&mut self, service: &str, id: &str) -> bool {
        self.0
            .get_mut(service)
            .is_some_and(|records| records.remove(id).is_some())
    }

    pub(super) fn put(&mut self, lease: &Lease, now: Instant) {
        let held = Held {
            owner: lease.owner,
            expiry: after(now, lease.ttl),
            left: false,
        };
        self.write(Record {
            instance: Arc::clone(&lease.instance),
            lease: Some(held),
        });
    }

    pub(super) fn renew(&mut self, lease: &Lease, now: Instant) -> Result<(), RegisterError> {
        let record = self.of(lease, now)?;
        // One `Arc` for as long as it says the same, since watchers compare pointers.
        if record.instance != lease.instance {
            record.instance = Arc::clone(&lease.instance);
        }
        if let Some(held) = &mut record.lease {
            held.expiry = after(now, lease.ttl);
        }
        Ok(())
    }

    /// Marks the record as left.
    pub(super) fn leave(&mut self, lease: &Lease, now: Instant) {
        if let Ok(record) = self.of(lease, now) {
            record.instance = Arc::new((*record.instance).clone().with_status(Status::Down));
            let expiry = after(now, lease.ttl);
            record.lease = Some(Held {
                owner: lease.owner,
                expiry,
                left: true,
            });
        }
    }

    #[cfg_attr(not(feature = "test-util"), expect(dead_code, reason = "for tests"))]
    pub(super) fn expire(&mut self, service: &str, id: &str, now: Instant) -> bool {
        let record = self
            .0
            .get_mut(service)
            .and_then(|records| records.get_mut(id));
        let held = record.and_then(|record| record.lease.as_mut());
        let live = held.filter(|held| held.expiry > now);
        live.map(|held| held.expiry = now).is_some()
    }

    /// All instances of a service, those that left as well, and when the first of them lapses.
    pub(super) fn read(&mut self, service: &str, now: Instant) -> (Snapshot, Option<Instant>) {
        let Some(records) = self.0.get_mut(service) else {
            return (Arc::new([]), None);
        };
        records.retain(|_, record| record.is_live(now));
        let expiry = records.values().filter_map(|record| record.lease.as_ref());
        let expiry = expiry.map(|held| held.expiry).min();
        (
            snapshot(records.values().map(|record| Arc::clone(&record.instance))),
            expiry,
        )
    }

    /// All instances of a service that are there.
    pub(super) fn present(&self, service: &str, now: Instant) -> Snapshot {
        let records = self.0.get(service).into_iter().flat_map(BTreeMap::values);
        let left = |record: &Record| record.lease.as_ref().is_some_and(|held| held.left);
        let present = records.filter(|record| record.is_live(now) && !left(record));
        snapshot(present.map(|record| Arc::clone(&record.instance)))
    }

    fn write(&mut self, record: Record) {
        let Instance { service, id, .. } = &*record.instance;
        let records = self.0.entry(service.clone()).or_default();
        records.insert(id.clone(), record);
    }

    /// The record that this lease holds.
    fn of(&mut self, lease: &Lease, now: Instant) -> Result<&mut Record, RegisterError> {
        let Instance { service, id, .. } = &*lease.instance;
        let record = self
            .0
            .get_mut(service)
            .and_then(|records| records.get_mut(id));
        let record = record
            .filter(|record| record.is_live(now))
            .ok_or(RegisterError::Lapsed)?;
        match &record.lease {
            Some(held) if held.owner == lease.owner && !held.left => Ok(record),
            Some(held) if held.left => Err(RegisterError::Lapsed),
            _ => Err(RegisterError::Taken),
        }
    }
}

/// A lease may be longer than an [`Instant`] reaches.
fn after(now: Instant, ttl: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);
    now + ttl.min(FAR)
}

// ===== impl Record =====

impl Record {
    fn is_live(&self, now: Instant) -> bool {
        self.lease.as_ref().is_none_or(|held| held.expiry > now)
    }
}
