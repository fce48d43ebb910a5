//! Hands the totals to the recorder of the `metrics` facade.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ::metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit, with_recorder};
use parking_lot::Mutex;
use tokio::{task::AbortHandle, time::MissedTickBehavior};

use super::{
    REGISTRY,
    registry::Registry,
    series::{Id, Sample, Snapshot, Value},
};
use crate::vocab::histogram::HistogramSnapshot;

static PUBLISHED: Mutex<Published> = Mutex::new(Published::new());

/// A recorder takes durations one by one and keeps them until its next upkeep. More than this many
/// of one series wait for the next time, so that a recorder installed after days of traffic is not
/// given all of it at once.
const MAX_DURATIONS: u64 = 1 << 22;

/// The shortest interval of a [`Publisher`]: nobody reads metrics more often.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Hands all totals to the current recorder of the `metrics` facade.
///
/// Call it before rendering (the freshest numbers), or let a [`Publisher`] call it. Counters are set
/// to their totals and gauges to their values. Histograms get what is new since the last time, each
/// duration as the one that stands for its bucket (within about 3%). A recorder installed late gets
/// everything since the layers were built.
pub fn publish() {
    publish_from(&REGISTRY, &PUBLISHED);
}

/// A task that [`publish`]es at an interval, and ends when this is dropped.
#[derive(Debug)]
#[must_use = "publishing ends when this is dropped"]
pub struct Publisher {
    task: AbortHandle,
}

/// What each recorder has been told.
struct Published {
    recorders: BTreeMap<RecorderId, Told>,
}

/// The address and size of a recorder: a new one has to be told everything. The size tells the
/// facade's own no-op recorder, which has none, from whatever may lie at the same address.
type RecorderId = (usize, usize);

#[derive(Default)]
struct Told {
    names: BTreeSet<&'static str>,
    gauges: BTreeSet<Id>,
    histograms: BTreeMap<Id, HistogramSnapshot>,
}

fn publish_from(registry: &Registry, published: &Mutex<Published>) {
    // Locked before the snapshot: an older one must not come after a newer one, or what lies
    // between them would be recorded twice.
    let mut published = published.lock();
    let snapshot = registry.snapshot();
    with_recorder(|recorder| published.told(recorder).publish(&snapshot, recorder));
}

// ===== impl Publisher =====

impl Publisher {
    /// Publishes at once and then every `interval` (10 s suits most; at least 10 ms).
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn spawn(interval: Duration) -> Self {
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval.max(MIN_INTERVAL));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                publish();
            }
        });
        Self {
            task: task.abort_handle(),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// ===== impl Published =====

impl Published {
    const fn new() -> Self {
        Self {
            recorders: BTreeMap::new(),
        }
    }

    fn told(&mut self, recorder: &dyn Recorder) -> &mut Told {
        let id = (std::ptr::from_ref(recorder).addr(), size_of_val(recorder));
        self.recorders.entry(id).or_default()
    }
}

// ===== impl Told =====

impl Told {
    fn publish(&mut self, snapshot: &Snapshot, recorder: &dyn Recorder) {
        let mut vanished = std::mem::take(&mut self.gauges);
        for (id, sample) in snapshot.entries() {
            if self.names.insert(sample.name) {
                describe(&sample, recorder);
            }
            let key = key(id);
            match sample.value {
                Value::Counter(total) => {
                    recorder.register_counter(&key, &METADATA).absolute(*total);
                }
                Value::Gauge(value) => {
                    recorder.register_gauge(&key, &METADATA).set(*value);
                    vanished.remove(id);
                    self.gauges.insert(id.clone());
                }
                Value::Histogram(all) => self.record_new(id, &key, all, recorder),
            }
        }
        // The recorder keeps a gauge for ever; that of a dropped layer counts nothing any more.
        for id in vanished {
            recorder.register_gauge(&key(&id), &METADATA).set(0.0);
        }
    }

    fn record_new(&mut self, id: &Id, key: &Key, all: &HistogramSnapshot, recorder: &dyn Recorder) {
        let histogram = recorder.register_histogram(key, &METADATA);
        let told = self.histograms.entry(id.clone()).or_default();
        let new = all.since(told).first(MAX_DURATIONS);
        for (duration, count) in new.buckets() {
            histogram.record_many(duration, count as usize);
        }
        told.merge(&new);
    }
}

/// Our metrics share one target, by which a recorder may filter.
static METADATA: Metadata<'static> = Metadata::new("tower_mesh", Level::INFO, None);

fn key(id: &Id) -> Key {
    let labels = id
        .labels
        .iter()
        .map(|(name, value)| Label::new(*name, value.to_string()));
    Key::from_parts(id.name, labels.collect::<Vec<_>>())
}

fn describe(sample: &Sample<'_>, recorder: &dyn Recorder) {
    let name = KeyName::from_const_str(sample.name);
    let (unit, help) = (unit(sample.name), sample.help.into());
    match sample.value {
        Value::Counter(_) => recorder.describe_counter(name, unit, help),
        Value::Gauge(_) => recorder.describe_gauge(name, unit, help),
        Value::Histogram(_) => recorder.describe_histogram(name, unit, help),
    }
}

/// The unit that a name ends in.
fn unit(name: &str) -> Option<Unit> {
    match name.trim_end_matches("_total").rsplit('_').next() {
        Some("seconds") => Some(Unit::Seconds),
        Some("bytes") => Some(Unit::Bytes),
        Some("ratio") => None,
        _ => Some(Unit::Count),
    }
}

#[cfg(test)]
mod tests {
    use ::metrics::with_local_recorder;
    use metrics_util::{
        CompositeKey, MetricKind,
        debugging::{DebugValue, DebuggingRecorder, Snapshotter},
    };

    use super::*;
    use crate::{
        Counter, Histogram, UpDown,
        metrics::{Collect, Sink},
    };

    #[derive(Default)]
    struct Stats {
        calls: Counter,
        in_flight: UpDown,
        latency: Histogram,
    }

    impl Collect for Stats {
        fn collect(&self, out: &mut dyn Sink) {
            let labels = [("policy", "p")];
            out.counter("mesh_test_calls_total", "Calls", &labels, self.calls.sum());
            out.gauge(
                "mesh_test_in_flight",
                "In flight",
                &labels,
                self.in_flight.sum() as f64,
            );
            out.histogram(
                "mesh_test_seconds",
                "Latency",
                &labels,
                &self.latency.snapshot(),
            );
        }
    }

    /// A registry, and what was published from it, apart from those of the process.
    struct World {
        registry: &'static Registry,
        published: Mutex<Published>,
    }

    impl World {
        fn new() -> Self {
            let registry = Box::leak(Box::new(Registry::new()));
            Self {
                registry,
                published: Mutex::new(Published::new()),
            }
        }

        fn publish(&self) {
            publish_from(self.registry, &self.published);
        }
    }

    impl Stats {
        fn count(&self) {
            self.calls.add(3);
            self.in_flight.add(2);
            for ms in [5, 5, 700] {
                self.latency.record(Duration::from_millis(ms));
            }
        }
    }

    /// The three values. Durations are those that [`Stats::count`] recorded, in milliseconds, where
    /// one is within 3.1% of them. Reading takes the durations out.
    fn read(snapshotter: &Snapshotter) -> (u64, f64, Vec<u32>) {
        let recorded = |seconds: f64| {
            let near = |ms: &u32| (seconds * 1_000.0 / f64::from(*ms) - 1.0).abs() < 0.031;
            [5, 700]
                .into_iter()
                .find(near)
                .expect("a duration that was recorded")
        };
        let mut read = (0, 0.0, Vec::new());
        for (_, _, _, value) in snapshotter.snapshot().into_vec() {
            match value {
                DebugValue::Counter(total) => read.0 += total,
                DebugValue::Gauge(value) => read.1 += value.into_inner(),
                DebugValue::Histogram(all) => {
                    read.2.extend(
                        all.into_iter()
                            .map(|seconds| recorded(seconds.into_inner())),
                    );
                }
            }
        }
        read.2.sort_unstable();
        read
    }

    #[test]
    fn a_recorder_installed_before_the_layer_gets_everything_once() {
        let (world, recorder) = (World::new(), DebuggingRecorder::new());
        let snapshotter = recorder.snapshotter();
        with_local_recorder(&recorder, || {
            world.publish();
            let stats = world.registry.register(Stats::default());
            stats.count();
            world.publish();
            assert_eq!(read(&snapshotter), (3, 2.0, vec![5, 5, 700]));

            world.publish();
            assert_eq!(
                read(&snapshotter),
                (3, 2.0, vec![]),
                "no duration is recorded twice"
            );

            stats.count();
            world.publish();
            assert_eq!(read(&snapshotter), (6, 4.0, vec![5, 5, 700]));
        });
    }

    #[test]
    fn a_recorder_installed_after_the_layer_gets_everything_once() {
        let (world, recorder) = (World::new(), DebuggingRecorder::new());
        let snapshotter = recorder.snapshotter();
        let stats = world.registry.register(Stats::default());
        stats.count();
        world.publish(); // to the no-op recorder

        with_local_recorder(&recorder, || {
            world.publish();
            assert_eq!(read(&snapshotter), (3, 2.0, vec![5, 5, 700]));
            world.publish();
            assert_eq!(read(&snapshotter), (3, 2.0, vec![]));
        });
    }

    #[test]
    fn a_dropped_layer_leaves_its_counts_and_a_gauge_at_zero() {
        let (world, recorder) = (World::new(), DebuggingRecorder::new());
        let snapshotter = recorder.snapshotter();
        with_local_recorder(&recorder, || {
            let stats = world.registry.register(Stats::default());
            stats.count();
            world.publish();
            drop(read(&snapshotter));
            stats.count();
            drop(stats);
            world.publish();
            assert_eq!(read(&snapshotter), (6, 0.0, vec![5, 5, 700]));
        });
    }

    #[test]
    fn names_labels_units_and_help_reach_the_recorder() {
        let (world, recorder) = (World::new(), DebuggingRecorder::new());
        let snapshotter = recorder.snapshotter();
        let _stats = world.registry.register(Stats::default());
        with_local_recorder(&recorder, || world.publish());

        let labels = vec![Label::new("policy", "p")];
        let all = snapshotter.snapshot().into_hashmap();
        let described = |kind, name: &'static str| {
            let key = CompositeKey::new(kind, Key::from_parts(name, labels.clone()));
            let (unit, help, _) = &all[&key];
            (*unit, help.clone().unwrap().to_string())
        };
        use MetricKind::{Counter, Gauge, Histogram};
        let count = Some(Unit::Count);
        assert_eq!(
            described(Counter, "mesh_test_calls_total"),
            (count, "Calls".into())
        );
        assert_eq!(
            described(Gauge, "mesh_test_in_flight"),
            (count, "In flight".into())
        );
        let seconds = Some(Unit::Seconds);
        assert_eq!(
            described(Histogram, "mesh_test_seconds"),
            (seconds, "Latency".into())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_publisher_publishes_at_its_interval_until_it_is_dropped() {
        struct Once;
        impl Collect for Once {
            fn collect(&self, out: &mut dyn Sink) {
                out.counter("mesh_test_published_total", "Published", &[], 1);
            }
        }
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let _recording = ::metrics::set_default_local_recorder(&recorder);
        let _once = crate::metrics::register(Once);
        // Reading resets a counter, and publishing sets it again.
        let published = || {
            let of_once = |key: &CompositeKey| key.key().name() == "mesh_test_published_total";
            let mut all = snapshotter.snapshot().into_vec().into_iter();
            all.any(|(key, .., value)| of_once(&key) && value == DebugValue::Counter(1))
        };

        let publisher = Publisher::spawn(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(published(), "at once");
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert!(!published(), "not before the interval is over");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(published(), "again after it");

        drop(publisher);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(!published(), "not when it is dropped");
    }
}
