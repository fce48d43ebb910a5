//! How stale the served sets are, as a gauge.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tower_mesh_layers::metrics::{self, Collect, Registered, Sink};

use super::Health;

/// One collector for all watches: equal series of several would be summed, and the staleness of a
/// service that is watched twice is not twice as long.
static STALENESS: LazyLock<Registered<Staleness>> =
    LazyLock::new(|| metrics::register(Staleness::default()));

/// What is watched, by service.
#[derive(Default)]
struct Staleness(Mutex<Vec<(Arc<str>, watch::Receiver<Health>)>>);

/// Shows how stale `service` is until the sender of `health` is dropped.
pub(super) fn follow(service: &Arc<str>, health: watch::Receiver<Health>) {
    let mut followed = STALENESS.0.lock();
    followed.retain(|(_, health)| is_live(health));
    followed.push((Arc::clone(service), health));
}

fn is_live(health: &watch::Receiver<Health>) -> bool {
    health.has_changed().is_ok()
}

// ===== impl Staleness =====

impl Collect for Staleness {
    fn collect(&self, out: &mut dyn Sink) {
        let now = Instant::now();
        let followed = self.0.lock();
        let mut longest = BTreeMap::<&str, Duration>::new();
        for (service, health) in followed.iter().filter(|(_, health)| is_live(health)) {
            let staleness = health.borrow().staleness(now);
            let longest = longest.entry(service).or_default();
            *longest = staleness.max(*longest);
        }
        let help = "Time since the registry last confirmed the instances in use";
        for (service, staleness) in longest {
            let labels = [("server_address", service)];
            out.gauge(
                "mesh_resolve_staleness_seconds",
                help,
                &labels,
                staleness.as_secs_f64(),
            );
        }
    }
}
