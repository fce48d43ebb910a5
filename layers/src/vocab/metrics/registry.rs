//! Who takes part in the metrics, and what those have left who no longer do.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    Collect, Registered,
    series::{Admission, Snapshot, Totals},
};

/// NOTE: no collector runs, and none is dropped, under the lock: dropping one may retire another.
pub(super) struct Registry {
    state: Mutex<State>,
}

struct State {
    next_id: u64,
    collectors: BTreeMap<u64, Arc<dyn Collect>>,
    /// The last totals of dropped collectors, in their admitted places.
    retired: Totals,
    admission: Admission,
}

// ===== impl Registry =====

impl Registry {
    pub(super) const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                next_id: 0,
                collectors: BTreeMap::new(),
                retired: Totals::new(),
                admission: Admission::new(),
            }),
        }
    }

    pub(super) fn register<S: Collect>(&'static self, stats: S) -> Registered<S> {
        let stats = Arc::new(stats);
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.collectors.insert(id, stats.clone());
        Registered {
            stats,
            id,
            registry: self,
        }
    }

    /// Keeps the last totals of a collector that nobody counts in any more.
    pub(super) fn retire(&self, id: u64, stats: &dyn Collect) {
        let mut last = Totals::new();
        stats.collect(&mut last);

        let mut state = self.state.lock();
        let State {
            collectors,
            retired,
            admission,
            ..
        } = &mut *state;
        let removed = collectors.remove(&id);
        retired.add_admitted(last.without_gauges(), admission);
        drop(state);
        drop(removed);
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        // Both from the same moment: a collector is either in the list or among the retired, so a
        // layer dropped meanwhile counts once, and no total goes backwards.
        let (collectors, mut totals) = {
            let state = self.state.lock();
            (
                state.collectors.values().cloned().collect::<Vec<_>>(),
                state.retired.clone(),
            )
        };
        let mut collected = Totals::new();
        collectors
            .iter()
            .for_each(|collector| collector.collect(&mut collected));
        drop(collectors);

        let admission = &mut self.state.lock().admission;
        totals.add_admitted(collected, admission);
        admission.release_gauges(&totals);
        Snapshot(totals)
    }

    pub(super) fn set_series_limit(&self, limit: usize) {
        self.state.lock().admission.set_limit(limit);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use super::*;
    use crate::{
        Counter, Histogram, UpDown,
        metrics::{OVERFLOW, Sink},
    };

    #[derive(Default)]
    struct Stats {
        policy: String,
        calls: Counter,
        in_flight: UpDown,
        latency: Histogram,
    }

    impl Collect for Stats {
        fn collect(&self, out: &mut dyn Sink) {
            let labels = [("policy", &*self.policy), ("kind", "demo")];
            out.counter("calls_total", "Calls", &labels, self.calls.sum());
            out.gauge(
                "in_flight",
                "Calls in flight",
                &labels,
                self.in_flight.sum() as f64,
            );
            out.histogram(
                "latency_seconds",
                "Latency",
                &labels,
                &self.latency.snapshot(),
            );
        }
    }

    fn registry() -> &'static Registry {
        Box::leak(Box::new(Registry::new()))
    }

    fn stats(policy: impl ToString) -> Stats {
        Stats {
            policy: policy.to_string(),
            ..Stats::default()
        }
    }

    fn count(stats: &Stats, calls: u64) {
        stats.calls.add(calls);
        stats.in_flight.add(calls as i64);
        (0..calls).for_each(|_| stats.latency.record(Duration::from_millis(5)));
    }

    #[test]
    fn equal_series_of_several_collectors_are_summed() {
        let registry = registry();
        let [first, second, other] = ["a", "a", "b"].map(|policy| registry.register(stats(policy)));
        count(&first, 1);
        count(&second, 2);
        count(&other, 4);

        let snapshot = registry.snapshot();
        assert_eq!(snapshot.iter().count(), 6, "three metrics of two policies");
        assert_eq!(snapshot.counter("calls_total", &[("policy", "a")]), Some(3));
        assert_eq!(
            snapshot.gauge("in_flight", &[("policy", "b"), ("kind", "demo")]),
            Some(4.0)
        );
        assert_eq!(
            snapshot.histogram("latency_seconds", &[]).unwrap().count(),
            7
        );
        assert_eq!(snapshot.counter("calls_total", &[("policy", "c")]), None);
        assert_eq!(snapshot.counter("in_flight", &[]), None, "not a counter");
    }

    #[test]
    fn what_a_dropped_collector_counted_stays_and_its_gauges_go() {
        let registry = registry();
        let [first, second] = ["a", "a"].map(|policy| registry.register(stats(policy)));
        count(&first, 3);
        drop(first);
        count(&second, 4);

        let snapshot = registry.snapshot();
        assert_eq!(snapshot.counter("calls_total", &[]), Some(7));
        assert_eq!(
            snapshot.histogram("latency_seconds", &[]).unwrap().count(),
            7
        );
        assert_eq!(snapshot.gauge("in_flight", &[]), Some(4.0));

        drop(second);
        let snapshot = registry.snapshot();
        assert_eq!(snapshot.counter("calls_total", &[]), Some(7));
        assert_eq!(snapshot.gauge("in_flight", &[]), None);
        assert!(registry.state.lock().collectors.is_empty());
    }

    #[test]
    fn a_collector_dropped_while_collecting_may_retire_another() {
        /// Lets go of another collector when it is asked for the first time, as a balancer does
        /// that finds an endpoint gone.
        struct Owner(Mutex<Option<Registered<Stats>>>);
        impl Collect for Owner {
            fn collect(&self, _: &mut dyn Sink) {
                let endpoint = self.0.lock().take();
                drop(endpoint);
            }
        }
        let registry = registry();
        let endpoint = registry.register(stats("endpoint"));
        count(&endpoint, 5);
        let _owner = registry.register(Owner(Mutex::new(Some(endpoint))));
        for _ in 0..2 {
            assert_eq!(registry.snapshot().counter("calls_total", &[]), Some(5));
        }
    }

    #[test]
    fn no_total_goes_backwards_while_layers_come_and_go() {
        let registry = registry();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let now = registry.snapshot().counter("calls_total", &[]).unwrap_or(0);
                    assert!(now >= last, "{now} after {last}");
                    last = now;
                }
            });
            for _ in 0..1_000 {
                registry.register(stats("short-lived")).calls.add(1);
            }
            done.store(true, Ordering::Release);
        });
        assert_eq!(registry.snapshot().counter("calls_total", &[]), Some(1_000));
    }

    #[test]
    fn series_above_the_limit_are_summed_in_one() {
        let registry = registry();
        let all: Vec<_> = (0..10_000).map(|n| registry.register(stats(n))).collect();
        all.iter().for_each(|stats| stats.calls.add(1));

        let calls = |snapshot: &Snapshot| {
            let calls = snapshot
                .iter()
                .filter(|sample| sample.name == "calls_total")
                .count();
            (calls, snapshot.counter("calls_total", &[]).unwrap())
        };
        let snapshot = registry.snapshot();
        assert_eq!(calls(&snapshot), (200, 10_000));
        let overflow = [("policy", OVERFLOW), ("kind", OVERFLOW)];
        assert_eq!(
            snapshot.counter("calls_total", &overflow),
            Some(10_000 - 199)
        );
        assert_eq!(snapshot.iter().count(), 600);

        // Dropped in any order, and others in their stead: the same series, nothing lost.
        drop(all);
        let _others: Vec<_> = (0..500)
            .map(|n| registry.register(stats(n + 20_000)))
            .collect();
        assert_eq!(calls(&registry.snapshot()), (200, 10_000));
    }

    #[test]
    fn a_gauge_that_is_gone_makes_room_for_another() {
        let registry = registry();
        registry.set_series_limit(3);
        for round in 0..5 {
            let all = [0, 1].map(|n| registry.register(stats(format!("{round}-{n}"))));
            count(&all[1], 1);
            let policy = format!("{round}-1");
            assert_eq!(
                registry
                    .snapshot()
                    .gauge("in_flight", &[("policy", &policy)]),
                Some(1.0)
            );
            drop(all);
            registry.snapshot();
        }
    }
}
