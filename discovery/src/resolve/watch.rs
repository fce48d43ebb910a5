//! The receiving end of a resolved service: always the latest set, never a queue.

use std::{future, sync::Arc, time::Duration};

use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::{ResolveError, Snapshot};

/// How good the served set is.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Health {
    /// Since when the registry does not confirm the set that is served; `None` while it does.
    pub stale_since: Option<Instant>,
    /// How old a set was that came from a snapshot file, at [`stale_since`](Self::stale_since).
    pub age_at_boot: Duration,
    /// Instances that are served although the last answer did not have them.
    pub held: usize,
    /// Why the last answer was an error; `None` after a good one.
    pub last_error: Option<ResolveError>,
}

// ===== impl Health =====

impl Health {
    /// For how long the served set has not been confirmed: zero while all is well.
    pub fn staleness(&self, now: Instant) -> Duration {
        let Some(since) = self.stale_since else {
            return Duration::ZERO;
        };
        self.age_at_boot + now.saturating_duration_since(since)
    }
}

/// The instances of one service, as they change: what a balancer listens to.
///
/// Every clone sees every set that is current when it looks; sets in between are skipped. When all
/// clones are dropped, the task behind it stops.
#[derive(Debug)]
pub struct Watch {
    service: Arc<str>,
    sets: watch::Receiver<Option<Snapshot>>,
    health: watch::Receiver<Health>,
    _tasks: Option<Arc<Tasks>>,
}

/// Stops the tasks behind a [`Watch`].
#[derive(Debug)]
struct Tasks(Vec<AbortHandle>);

/// The sending end of a [`Watch`].
#[derive(Debug)]
pub struct Publisher {
    sets: watch::Sender<Option<Snapshot>>,
    health: watch::Sender<Health>,
}

// ===== impl Watch =====

impl Watch {
    /// A watch that is fed by hand, without fail-static rules: for tests, and for sources that have
    /// their own.
    ///
    /// ```
    /// use tower_mesh_discovery::{instance::Instance, resolve::{Watch, snapshot}};
    ///
    /// let (publisher, watch) = Watch::channel("orders");
    /// assert!(watch.snapshot().is_none(), "nothing is known yet");
    /// publisher.publish(snapshot([Instance::new("orders", "orders-1")]));
    /// assert_eq!(watch.snapshot().unwrap().len(), 1);
    /// ```
    pub fn channel(service: &str) -> (Publisher, Self) {
        let (sets, sets_rx) = watch::channel(None);
        let (health, health_rx) = watch::channel(Health::default());
        let watch = Self {
            service: service.into(),
            sets: sets_rx,
            health: health_rx,
            _tasks: None,
        };
        (Publisher { sets, health }, watch)
    }

    /// Ends `tasks` with the last clone of this watch.
    pub(super) fn driven_by(mut self, tasks: impl IntoIterator<Item = AbortHandle>) -> Self {
        self._tasks = Some(Arc::new(Tasks(tasks.into_iter().collect())));
        self
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The set to use now; `None` until something is known. It may be known to be empty.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.sets.borrow().clone()
    }

    /// Waits for a set that this clone has not returned yet; the first call returns at once when
    /// one is known.
    ///
    /// It never ends by itself: once nothing feeds the watch any more, the last set stays and this
    /// waits for ever. Cancel safe.
    pub async fn changed(&mut self) -> Snapshot {
        loop {
            if self.sets.changed().await.is_err() {
                future::pending::<()>().await;
            }
            if let Some(set) = self.sets.borrow_and_update().clone() {
                return set;
            }
        }
    }

    /// How good the set is.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }
}

impl Clone for Watch {
    fn clone(&self) -> Self {
        let mut sets = self.sets.clone();
        sets.mark_changed(); // the current set is news to the clone
        let (service, health) = (Arc::clone(&self.service), self.health.clone());
        Self {
            service,
            sets,
            health,
            _tasks: self._tasks.clone(),
        }
    }
}

// ===== impl Tasks =====

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

// ===== impl Publisher =====

impl Publisher {
    /// Replaces the set. The same one again (the same `Arc`) wakes nobody.
    pub fn publish(&self, set: Snapshot) {
        self.sets.send_if_modified(|current| {
            let news = !current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, &set));
            *current = Some(set);
            news
        });
    }

    /// What is reported: ends when this is dropped, and keeps nothing alive.
    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Tells how good the set is.
    pub fn report(&self, health: Health) {
        self.health.send_replace(health);
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::{instance::Instance, resolve::snapshot};

    fn set(ids: &[&str]) -> Snapshot {
        snapshot(ids.iter().map(|id| Instance::new("orders", *id)))
    }

    #[test]
    fn sets_in_between_are_skipped_and_a_clone_starts_with_the_latest() {
        let (publisher, mut watch) = Watch::channel("orders");
        assert_pending!(task::spawn(watch.changed()).poll());
        publisher.publish(set(&["a"]));
        publisher.publish(set(&["a", "b"]));
        assert_eq!(assert_ready!(task::spawn(watch.changed()).poll()).len(), 2);
        assert_pending!(task::spawn(watch.changed()).poll());
        let mut clone = watch.clone();
        assert_eq!(assert_ready!(task::spawn(clone.changed()).poll()).len(), 2);
        assert_pending!(task::spawn(watch.changed()).poll());
    }

    #[test]
    fn a_watch_that_nothing_feeds_keeps_its_set_and_never_ends() {
        let (publisher, mut watch) = Watch::channel("orders");
        publisher.publish(set(&["a"]));
        drop(publisher);
        assert_eq!(assert_ready!(task::spawn(watch.changed()).poll()).len(), 1);
        assert_pending!(task::spawn(watch.changed()).poll());
        assert_eq!(watch.snapshot().unwrap().len(), 1);
    }
}
