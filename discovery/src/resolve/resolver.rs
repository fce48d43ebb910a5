//! One service of one registry.

#[cfg(feature = "file")]
use std::path::{Path, PathBuf};
use std::{fmt, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};

#[cfg(feature = "file")]
use super::saved;
use super::{Answers, Resolve, Snapshot, Watch, driver::Driver, snapshot};
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
    /// In the place of what the registry says.
    grace: Option<Duration>,
    #[cfg(feature = "file")]
    saved: Option<PathBuf>,
}

// ===== impl Resolver =====

impl Resolver {
    /// `service`, as `registry` knows it.
    pub fn new(registry: impl Resolve, service: &str) -> Self {
        Self {
            registry: Arc::new(registry),
            service: service.into(),
            grace: None,
            #[cfg(feature = "file")]
            saved: None,
        }
    }

    /// A service whose instances are known and stay.
    pub fn fixed(service: &str, instances: impl IntoIterator<Item = Instance>) -> Self {
        Self::new(Fixed(snapshot(instances)), service)
    }

    /// How long an answer that lost most instances is doubted, in the place of what the registry
    /// [says](Resolve::grace). Zero believes every answer at once.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Saves every confirmed set in a file of this service's own, and starts from it when the
    /// registry does not answer within 500 ms or with an error.
    ///
    /// The file is written whole or not at all; one that cannot be used is ignored with a warning.
    #[cfg(feature = "file")]
    #[cfg_attr(docsrs, doc(cfg(feature = "file")))]
    #[must_use]
    pub fn snapshot_file(mut self, path: impl AsRef<Path>) -> Self {
        self.saved = Some(path.as_ref().to_owned());
        self
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
        let driver = Driver::new(registry, service, self.grace, publisher);
        #[cfg(feature = "file")]
        if let Some(path) = &self.saved {
            let load = saved::load(path.clone(), Arc::clone(&self.service));
            // This clone has no hold on the tasks, or they would keep themselves alive.
            let save = tokio::spawn(saved::save(path.clone(), watch.clone()));
            let drive = tokio::spawn(driver.run(load));
            return watch.driven_by([save.abort_handle(), drive.abort_handle()]);
        }
        let drive = tokio::spawn(driver.run(std::future::ready(None)));
        watch.driven_by([drive.abort_handle()])
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
