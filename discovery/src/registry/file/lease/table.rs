//! Which leases are live, for a reader: pure state, time is passed in.
//!
//! A reader does not trust the wall clock more than it must. Only of what it finds on its first look
//! it cannot know how old it is, and has to compare `expires` with its own wall clock. From then on a
//! record that changed was written just now, and is good for one TTL by the reader's monotonic clock:
//! so a clock that jumps ends no lease.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::time::Instant;

use super::{Leases, Record};
use crate::{
    instance::Instance,
    resolve::{Snapshot, is_same, snapshot},
};

/// The longest lease that is believed; the longest that this build writes.
const MAX_TTL: Duration = Duration::from_secs(86_400);

/// All records that a reader knows.
#[derive(Debug, Default)]
pub(super) struct Table {
    records: BTreeMap<(String, String), Known>,
    looked: bool,
}

#[derive(Debug)]
struct Known {
    /// What a heartbeat changes.
    stamp: (String, u64),
    expiry: Instant,
    /// `None` is one that this build cannot read.
    instance: Option<Arc<Instance>>,
}

/// The live instances of all services.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct View {
    /// Whether there is a lease file.
    pub(in super::super) exists: bool,
    services: BTreeMap<String, Snapshot>,
}

// ===== impl Table =====

impl Table {
    /// The file was read.
    pub(super) fn update(&mut self, leases: Leases, now: Instant, wall: u64) {
        let mut before = std::mem::take(&mut self.records);
        for record in leases.leases {
            let key = (record.service.clone(), record.id.clone());
            let known = self.know(record, before.remove(&key), now, wall);
            self.records.insert(key, known);
        }
        self.looked = true;
    }

    fn know(&self, record: Record, known: Option<Known>, now: Instant, wall: u64) -> Known {
        let ttl = record.ttl.min(MAX_TTL);
        let left = if self.looked {
            ttl
        } else {
            ttl.min(Duration::from_millis(record.expires.saturating_sub(wall)))
        };
        let stamp = (record.owner, record.expires);
        let known = known.unwrap_or_else(|| Known {
            stamp: Default::default(),
            expiry: now,
            instance: None,
        });
        if known.stamp == stamp {
            return known;
        }
        let read = Instance::deserialize(record.instance)
            .map_err(|error| error.to_string())
            .and_then(|instance| {
                instance.validate().map_err(|error| error.to_string())?;
                Ok(instance)
            });
        let instance = match (read, known.instance) {
            // The same `Arc` for as long as it says the same, since readers compare pointers.
            (Ok(new), Some(old)) if new == *old => Some(old),
            (Ok(new), _) if (&new.service, &new.id) == (&record.service, &record.id) => {
                Some(Arc::new(new))
            }
            (Ok(_), _) => {
                let (service, id) = (record.service, record.id);
                tracing::warn!(service, id, "a lease of another instance is passed over");
                None
            }
            (Err(error), _) => {
                let (service, id) = (record.service, record.id);
                tracing::warn!(
                    service,
                    id,
                    error,
                    "a lease that cannot be read is passed over"
                );
                None
            }
        };
        Known {
            stamp,
            expiry: now + left,
            instance,
        }
    }

    /// The instances whose lease is not over.
    pub(super) fn view(&self, now: Instant, exists: bool) -> View {
        let mut services = BTreeMap::<_, Vec<_>>::new();
        for ((service, _), known) in &self.records {
            if let Some(instance) = known.instance.as_ref().filter(|_| known.expiry > now) {
                services
                    .entry(service.clone())
                    .or_default()
                    .push(Arc::clone(instance));
            }
        }
        let services = services
            .into_iter()
            .map(|(service, set)| (service, snapshot(set)));
        View {
            exists,
            services: services.collect(),
        }
    }

    /// When the next lease is over.
    pub(super) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        let live = self
            .records
            .values()
            .map(|known| known.expiry)
            .filter(|at| *at > now);
        live.min()
    }
}

// ===== impl View =====

impl View {
    /// The instances of `service`.
    pub(in super::super) fn instances(&self, service: &str) -> &[Arc<Instance>] {
        self.services.get(service).map_or(&[], |set| &**set)
    }

    /// Whether a reader of any service can tell no difference.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.exists == other.exists
            && self.services.len() == other.services.len()
            && self
                .services
                .iter()
                .zip(&other.services)
                .all(|((a, x), (b, y))| a == b && is_same(x, y))
    }
}
