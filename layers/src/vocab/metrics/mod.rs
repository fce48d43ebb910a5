//! What the layers count, and how it gets out.
//!
//! Each layer counts in its own sharded [`Counter`](crate::Counter)s and
//! [`Histogram`](crate::Histogram)s, from the moment it is built and at the cost of an uncontended
//! addition. These are the truth; everything else reads them: [`snapshot`] for tests and admin
//! pages, and with the feature `metrics` [`publish`] or a [`Publisher`], which hand the totals to the
//! recorder of the [`metrics`](https://docs.rs/metrics) facade. So a layer built before the recorder
//! was installed loses nothing, and a call never looks up a metric by name.
//!
//! # A metric of your own
//!
//! Two lines for each: a field, and where it is collected.
//!
//! ```
//! use tower_mesh_layers::{
//!     Counter,
//!     metrics::{self, Collect, Sink},
//! };
//!
//! struct Stats {
//!     policy: String,
//!     rejected: Counter,
//! }
//!
//! impl Collect for Stats {
//!     fn collect(&self, out: &mut dyn Sink) {
//!         let labels = [("policy", &*self.policy)];
//!         out.counter("mesh_demo_rejected_total", "Calls refused", &labels, self.rejected.sum());
//!     }
//! }
//!
//! // Once, when the layer is built: it goes into the layer's shared state.
//! let stats = metrics::register(Stats { policy: "search".into(), rejected: Counter::new() });
//! stats.rejected.add(1);
//!
//! let seen = metrics::snapshot();
//! assert_eq!(seen.counter("mesh_demo_rejected_total", &[("policy", "search")]), Some(1));
//! ```
//!
//! # Names
//!
//! Prometheus' conventions, spelled out, so that a metric has the same name in the code, in the
//! documentation and in every exporter (do not let one add suffixes):
//! `mesh_<part>_<what>[_<unit>][_total]`.
//!
//! | kind | ends in | example |
//! |---|---|---|
//! | counter | `_total` | `mesh_breaker_transitions_total` |
//! | gauge | what it counts, or `_seconds`, `_bytes`, `_ratio` | `mesh_limit_in_flight` |
//! | histogram of durations | `_seconds` | `mesh_endpoint_latency_seconds` |
//!
//! Labels are few and closed sets: a policy's name from the configuration, a state, a reason; never
//! anything that a caller chooses. The unit that a recorder is told follows from the ending.
//!
//! What OpenTelemetry has an attribute for is named like it, with `_` for each dot, and so fits together
//! over all metrics:
//!
//! | label | attribute | |
//! |---|---|---|
//! | `server_address` | `server.address` | the name of the service that is called |
//! | `service_name` | `service.name` | that of the service which this process is an instance of |
//! | `http_route`, `rpc_service`, `rpc_method` | the same with dots | the operation |
//! | `error_type` | `error.type` | what went wrong |
//!
//! Equal series (name and labels) of several collectors are summed, gauges too. So a gauge must mean
//! something as a sum: count the breakers in each state rather than number the states.
//!
//! # Bounds
//!
//! | | default |
//! |---|---|
//! | series of one name | 200 ([`set_series_limit`]) |
//!
//! Series above that are summed in one whose label values are all [`OVERFLOW`], with one warning. A
//! series keeps its place once it has it, so that no counter goes backwards. When a layer is dropped,
//! its counters and histograms stay in the totals and its gauges leave.

#[cfg(feature = "metrics")]
mod publish;
mod registry;
mod series;

use std::{fmt, ops::Deref, sync::Arc};

use self::registry::Registry;
use super::histogram::HistogramSnapshot;

#[cfg(feature = "metrics")]
pub use self::publish::{Publisher, publish};
pub use self::series::{OVERFLOW, Sample, Snapshot, Value};

/// Every layer's counts. One for the process, as the recorder of `metrics` is.
static REGISTRY: Registry = Registry::new();

/// Something that counts.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how its metrics are collected",
    note = "implement `Collect` for the struct that holds the counters"
)]
pub trait Collect: Send + Sync + 'static {
    /// Reports every metric: only reads counts, does not wait, and calls nothing in this module.
    ///
    /// Runs in whichever thread publishes or takes a snapshot, and once more on the last drop.
    fn collect(&self, out: &mut dyn Sink);
}

/// Labels of a series, in any order.
pub type Labels<'a> = [(&'static str, &'a str)];

/// Where a collector reports to.
///
/// The same series may be reported more than once; its values are summed. `help` is one sentence
/// without a full stop. A name has one kind; a second one is ignored.
pub trait Sink {
    /// A total since the collector was made. It must never shrink.
    fn counter(&mut self, name: &'static str, help: &'static str, labels: &Labels<'_>, total: u64);

    /// A present value.
    fn gauge(&mut self, name: &'static str, help: &'static str, labels: &Labels<'_>, value: f64);

    /// All durations since the collector was made.
    fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &Labels<'_>,
        all: &HistogramSnapshot,
    );
}

/// A collector that takes part in the process's metrics for as long as this handle lives.
///
/// Derefs to the collector. Keep it in the state that a layer shares between its clones. The
/// registry shares ownership of the collector, so the collector must not own what owns this handle.
pub struct Registered<S: Collect> {
    stats: Arc<S>,
    id: u64,
    registry: &'static Registry,
}

/// Makes `stats` part of every later [`snapshot`] and [`publish`].
pub fn register<S: Collect>(stats: S) -> Registered<S> {
    REGISTRY.register(stats)
}

/// Reads everything that is registered, and what dropped collectors have left.
pub fn snapshot() -> Snapshot {
    REGISTRY.snapshot()
}

/// Bounds the number of series of one name, the overflow series included; at least 1, 200 unless
/// set. Series that have a place already keep it.
pub fn set_series_limit(limit: usize) {
    REGISTRY.set_series_limit(limit);
}

// ===== impl Registered =====

impl<S: Collect> Deref for Registered<S> {
    type Target = S;

    #[inline]
    fn deref(&self) -> &S {
        &self.stats
    }
}

impl<S: Collect + fmt::Debug> fmt::Debug for Registered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registered").field(&self.stats).finish()
    }
}

impl<S: Collect> Drop for Registered<S> {
    fn drop(&mut self) {
        self.registry.retire(self.id, &*self.stats);
    }
}
