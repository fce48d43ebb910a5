//! One service of one registry.

use std::{fmt, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{Answers, Resolve, Snapshot, Watch, driver, snapshot};
use crate::instance::Instance;

/// One service of one registry: what a balancer is built over.
///
/// Made by [`registry::resolver`](crate::registry) from a URL, by [`new`](Self::new) from any
/// [`Resolve`], or by [`fixed`](Self::fixed) from a list. Nothing happens until
/// [`watch`](Self::watch).
#[derive(Clone)]
pub struct Resolver {
    registry: Arc<dyn Resolve>,
    service: Arc<str>,
}

// ===== impl Resolver =====

impl Resolver {
    /// `service`, as `registry` knows it.
    pub fn new(registry: impl Resolve, service: &str) -> Self {
        Self {
            registry: Arc::new(registry),
            service: service.into(),
        }
    }

    /// A service whose instances are known and stay.
    pub fn fixed(service: &str, instances: impl IntoIterator<Item = Instance>) -> Self {
        Self::new(Fixed(snapshot(instances)), service)
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Starts to follow the service. Each call opens a stream of its own; clones of one [`Watch`]
    /// share it. The work stops when the last of them is dropped.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn watch(&self) -> Watch {
        let (publisher, watch) = Watch::channel(&self.service);
        let (registry, service) = (Arc::clone(&self.registry), Arc::clone(&self.service));
        let task = tokio::spawn(driver::run(registry, service, publisher));
        watch.driven_by(task.abort_handle())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// One answer that never changes.
struct Fixed(Snapshot);

impl Resolve for Fixed {
    fn resolve(&self, _service: &str) -> Answers {
        let answer = Ok(Arc::clone(&self.0));
        Box::pin(stream::iter([answer]).chain(stream::pending()))
    }
}
