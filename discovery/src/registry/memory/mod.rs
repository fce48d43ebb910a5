//! A registry inside of the process: for services that run in one process, and as the double in tests
//! of whatever registers or follows.
//!
//! It behaves as one out in the network does. A record is there for its TTL and lapses without
//! heartbeats; watchers are told of every change at once; one that leaves is seen as
//! [`Status::Down`](crate::instance::Status::Down) for one TTL, so that nobody takes it for a record
//! that got lost. Time is tokio's, so a test on the paused clock needs no waiting.
//!
//! ```
//! use tower_mesh_discovery::{
//!     instance::Instance,
//!     register::{RegisterConfig, Registration},
//!     registry::MemoryRegistry,
//!     resolve::Resolver,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = MemoryRegistry::new();
//! let mut orders = Resolver::new(registry.clone(), "orders").watch();
//!
//! let instance = Instance::at("orders", "http://10.0.0.1:8080".parse()?);
//! let registration = Registration::start(registry, instance, RegisterConfig::default())?;
//! assert_eq!(orders.changed().await.len(), 0);
//! assert_eq!(orders.changed().await.len(), 1);
//! # drop(registration);
//! # Ok(())
//! # }
//! ```
//!
//! Clones share one registry. `memory:NAME` as a [URL](super::RegistryUrl), or
//! [`MemoryRegistry::named`], is one that all of the process shares, for as long as something uses it.
//!
//! # In tests
//!
//! | to see what happens when | call | feature |
//! |---|---|---|
//! | an instance is there that nobody registered, valid or not | [`insert`](MemoryRegistry::insert), [`remove`](MemoryRegistry::remove) | |
//! | a lease is over before its time | `expire` | `test-util` |
//! | a few writes fail | `fail_next` | `test-util` |
//! | the registry is down, or hangs | `outage`, `recover` | `test-util` |

mod faults;
mod records;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
};

use futures_util::stream;
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub use self::faults::Outage;
use self::{
    faults::{Admission, Faults},
    records::Records,
};
use crate::{
    instance::Instance,
    register::{Lease, Register, RegisterError, Written},
    resolve::{Answers, Resolve, ResolveError, Snapshot, is_same},
};

/// The registries that have a name.
static NAMED: Mutex<BTreeMap<String, Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// A registry inside of the process. See the [module](self). Clones share it.
#[derive(Clone, Default)]
pub struct MemoryRegistry {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Tells that `state` changed.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    records: Records,
    faults: Faults,
}

// ===== impl MemoryRegistry =====

impl MemoryRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The registry of this name, which all of the process shares. It is empty when nothing else
    /// holds it: no clone, no registration and no watch.
    pub fn named(name: &str) -> Self {
        let mut named = NAMED.lock();
        if let Some(shared) = named.get(name).and_then(Weak::upgrade) {
            return Self { shared };
        }
        named.retain(|_, shared| shared.strong_count() > 0);
        let registry = Self::new();
        named.insert(name.to_owned(), Arc::downgrade(&registry.shared));
        registry
    }

    /// Writes a record that stays without heartbeats, in place of one with the same service and id.
    /// It is not checked.
    pub fn insert(&self, instance: impl Into<Arc<Instance>>) {
        self.change(|state, _| state.records.insert(instance.into()));
    }

    /// Takes a record out, as if it had got lost: watchers may doubt it. Whether it was there.
    pub fn remove(&self, service: &str, id: &str) -> bool {
        self.change(|state, _| state.records.forget(service, id))
    }

    /// The instances of `service` that are there now.
    pub fn instances(&self, service: &str) -> Snapshot {
        self.shared
            .state
            .lock()
            .records
            .present(service, Instant::now())
    }

    /// Changes something and tells the watchers.
    fn change<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let changed = change(&mut self.shared.state.lock(), Instant::now());
        self.shared.changed.send_replace(());
        changed
    }

    async fn write<F>(&self, write: F) -> Result<(), RegisterError>
    where
        F: FnOnce(&mut Records, Instant) -> Result<(), RegisterError>,
    {
        self.admitted().await?;
        self.change(|state, now| write(&mut state.records, now))
    }

    /// Waits while the registry hangs, and errs while it is down.
    async fn admitted(&self) -> Result<(), RegisterError> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            let admission = self.shared.state.lock().faults.admit_write();
            match admission {
                Admission::Admitted => return Ok(()),
                Admission::Failed(reason) => return Err(RegisterError::unavailable(reason)),
                Admission::Hangs => {}
            }
            // Never closed: this registry has the sender.
            let _ = changed.changed().await;
        }
    }
}

impl Register for MemoryRegistry {
    fn put<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        Box::pin(self.write(|records, now| {
            records.put(lease, now);
            Ok(())
        }))
    }

    fn renew<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        Box::pin(self.write(|records, now| records.renew(lease, now)))
    }

    fn remove<'a>(&'a self, lease: &'a Lease) -> Written<'a> {
        Box::pin(self.write(|records, now| {
            records.leave(lease, now);
            Ok(())
        }))
    }
}

impl Resolve for MemoryRegistry {
    fn resolve(&self, service: &str) -> Answers {
        let follower = Follower {
            changed: self.shared.changed.subscribe(),
            shared: Arc::clone(&self.shared),
            service: service.to_owned(),
            last: Last::Nothing,
        };
        Box::pin(stream::unfold(follower, async |mut follower| {
            Some((follower.next().await, follower))
        }))
    }
}

impl fmt::Debug for MemoryRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRegistry").finish_non_exhaustive()
    }
}

/// Someone who follows a service.
struct Follower {
    shared: Arc<Shared>,
    changed: watch::Receiver<()>,
    service: String,
    last: Last,
}

/// What a follower was told last.
enum Last {
    Nothing,
    Set(Snapshot),
    Error,
}

// ===== impl Follower =====

impl Follower {
    async fn next(&mut self) -> Result<Snapshot, ResolveError> {
        loop {
            self.changed.borrow_and_update();
            let (admission, set, expiry) = {
                let now = Instant::now();
                let mut state = self.shared.state.lock();
                let (set, expiry) = state.records.read(&self.service, now);
                (state.faults.admit_read(), set, expiry)
            };
            match (admission, &self.last) {
                (Admission::Failed(_), Last::Error) | (Admission::Hangs, _) => {}
                (Admission::Failed(reason), _) => {
                    self.last = Last::Error;
                    return Err(ResolveError::unavailable(reason));
                }
                (Admission::Admitted, Last::Set(last)) if is_same(last, &set) => {}
                (Admission::Admitted, _) => {
                    self.last = Last::Set(Arc::clone(&set));
                    return Ok(set);
                }
            }
            let lapse = async {
                match expiry {
                    Some(at) => time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.changed.changed() => {}
                () = lapse => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
