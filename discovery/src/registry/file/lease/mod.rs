//! What is registered with a file registry: the lease file, next to the file that people write.
//!
//! ```json
//! {
//!   "version": 1,
//!   "leases": [
//!     {
//!       "service": "orders",
//!       "id": "orders-1",
//!       "owner": "5f1c0de2a9b34471",
//!       "ttl": "15s",
//!       "expires": 1767225600000,
//!       "instance": { "id": "orders-1", "service": "orders", "endpoints": ["http://10.0.0.1:8080"] }
//!     }
//!   ]
//! }
//! ```
//!
//! `expires` is in milliseconds since 1970, by the clock of who wrote it. What this build does not know
//! in a record, it keeps when it writes: processes of several versions may share the file.

mod store;
mod table;
mod watch;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tower_mesh_layers::config;

pub(super) use self::{
    store::Store,
    table::View,
    watch::{Views, Watched},
};
use super::document::version;
use crate::{
    document::{FileError, Text},
    instance::{Instance, Status},
    register::{Lease, RegisterError},
};

/// How long a record that lapsed is kept: clocks that differ, or jump, make others' records look old.
/// Its owner would have to register again, and readers might have missed it meanwhile.
const KEPT: Duration = Duration::from_secs(3_600);

/// The lease file of the registry in `path`. The whole name stays, so that `a.yaml` and `a.json` have
/// one each.
pub(super) fn path_of(path: &Path) -> PathBuf {
    with_suffix(path, ".leases.json")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(suffix);
    path.with_file_name(name)
}

/// The content of a lease file.
#[derive(Debug, Serialize, Deserialize)]
struct Leases {
    #[serde(deserialize_with = "version")]
    version: u64,
    leases: Vec<Record>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    service: String,
    id: String,
    owner: String,
    #[serde(with = "config::duration")]
    ttl: Duration,
    /// In milliseconds since 1970.
    expires: u64,
    /// An [`Instance`]; one that a later version wrote may be more.
    instance: Value,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

// ===== impl Leases =====

impl Leases {
    fn parse(text: Text<'_>) -> Result<Self, FileError> {
        text.read()
    }

    fn render(&self) -> String {
        serde_json::to_string_pretty(self).expect("a record of strings and numbers is JSON") + "\n"
    }

    /// Writes a record, in place of one with the same service and id.
    fn put(&mut self, lease: &Lease, now: u64) -> Result<(), RegisterError> {
        let record = Record::new(lease, &lease.instance, now)?;
        match self.position(lease) {
            Some(at) => self.leases[at] = record,
            None => self.leases.push(record),
        }
        Ok(())
    }

    fn renew(&mut self, lease: &Lease, now: u64) -> Result<(), RegisterError> {
        let record = self.of(lease, now)?;
        let renewed = Record::new(lease, &lease.instance, now)?;
        record.instance = renewed.instance;
        (record.ttl, record.expires) = (renewed.ttl, renewed.expires);
        Ok(())
    }

    /// Marks the record as left: as down, for one TTL more.
    fn leave(&mut self, lease: &Lease, now: u64) -> Result<(), RegisterError> {
        let down = (*lease.instance).clone().with_status(Status::Down);
        match self.of(lease, now) {
            Ok(record) => *record = Record::new(lease, &down, now)?,
            Err(RegisterError::Lapsed | RegisterError::Taken) => {}
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Drops what nobody will miss.
    fn sweep(&mut self, now: u64) {
        self.leases.retain(|record| {
            let kept = if record.is_down() {
                Duration::ZERO
            } else {
                KEPT
            };
            record.expires.saturating_add(millis(kept)) > now
        });
    }

    fn position(&self, lease: &Lease) -> Option<usize> {
        let Instance { service, id, .. } = &*lease.instance;
        self.leases
            .iter()
            .position(|record| record.service == *service && record.id == *id)
    }

    /// The record that this lease holds. One of its own that expired is still there: renewing it is as
    /// good as writing it anew.
    fn of(&mut self, lease: &Lease, now: u64) -> Result<&mut Record, RegisterError> {
        let at = self.position(lease).ok_or(RegisterError::Lapsed)?;
        let record = &mut self.leases[at];
        if record.owner == lease.owner.to_string() {
            return Ok(record);
        }
        let free = record.expires <= now || record.is_down();
        Err(if free {
            RegisterError::Lapsed
        } else {
            RegisterError::Taken
        })
    }
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            version: 1,
            leases: Vec::new(),
            unknown: Map::new(),
        }
    }
}

// ===== impl Record =====

impl Record {
    fn new(lease: &Lease, instance: &Instance, now: u64) -> Result<Self, RegisterError> {
        Ok(Self {
            service: instance.service.clone(),
            id: instance.id.clone(),
            owner: lease.owner.to_string(),
            ttl: lease.ttl,
            expires: now.saturating_add(millis(lease.ttl)),
            instance: serde_json::to_value(instance).map_err(RegisterError::refused)?,
            unknown: Map::new(),
        })
    }

    fn is_down(&self) -> bool {
        self.instance.get("status").and_then(Value::as_str) == Some("down")
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock, in milliseconds since 1970: what processes have in common.
fn wall() -> u64 {
    millis(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests;
