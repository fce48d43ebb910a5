//! Series and their sums.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{Labels, Sink};
use crate::vocab::histogram::HistogramSnapshot;

/// The value of every label of the series that sums those above the limit.
pub const OVERFLOW: &str = "_overflow";

/// 200 series of a name are more than anyone looks at, and ten names of them cost a scrape little.
const DEFAULT_LIMIT: usize = 200;

/// What everything had counted at one time.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(pub(super) Totals);

/// One series of a [`Snapshot`].
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// What is measured.
    pub name: &'static str,
    /// One sentence that explains it.
    pub help: &'static str,
    /// Sorted by label name.
    pub labels: &'a [(&'static str, Box<str>)],
    /// The sum over all collectors.
    pub value: &'a Value,
}

/// The value of a series.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A total that never shrinks.
    Counter(u64),
    /// A present value.
    Gauge(f64),
    /// Durations.
    Histogram(HistogramSnapshot),
}

/// What tells series apart. Ordered by name, so that the series of a name are neighbours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) name: &'static str,
    /// Sorted by label name, so that the order in which a collector lists them does not matter.
    pub(super) labels: Box<[(&'static str, Box<str>)]>,
}

#[derive(Debug, Clone)]
struct Measured {
    help: &'static str,
    value: Value,
}

/// Sums by series; the [`Sink`] of all collectors.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals(BTreeMap<Id, Measured>);

/// Which series have a place of their own.
#[derive(Debug)]
pub(super) struct Admission {
    limit: usize,
    names: BTreeMap<&'static str, Places>,
}

#[derive(Debug, Default)]
struct Places {
    admitted: BTreeSet<Id>,
    are_gauges: bool,
    warned: bool,
}

// ===== impl Snapshot =====

impl Snapshot {
    /// All series, ordered by name and labels.
    pub fn iter(&self) -> impl Iterator<Item = Sample<'_>> {
        self.entries().map(|(id, sample)| Sample {
            labels: &id.labels,
            ..sample
        })
    }

    /// The sum of the counters of this name that carry all of `labels` (and maybe more), or `None`
    /// when there is none.
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        match self.sum(name, labels)? {
            Value::Counter(total) => Some(total),
            _ => None,
        }
    }

    /// The sum of the gauges of this name that carry all of `labels`.
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        match self.sum(name, labels)? {
            Value::Gauge(value) => Some(value),
            _ => None,
        }
    }

    /// The durations under this name in all series that carry all of `labels`.
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Option<HistogramSnapshot> {
        match self.sum(name, labels)? {
            Value::Histogram(all) => Some(all),
            _ => None,
        }
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<Value> {
        let carries = |sample: &Sample<'_>, (name, value): &(&str, &str)| {
            sample
                .labels
                .iter()
                .any(|(has, is)| has == name && **is == **value)
        };
        self.iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| labels.iter().all(|label| carries(sample, label)))
            .map(|sample| sample.value.clone())
            .reduce(|mut sum, value| {
                sum.add(value);
                sum
            })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Id, Sample<'_>)> {
        self.0.0.iter().map(|(id, Measured { help, value })| {
            (
                id,
                Sample {
                    name: id.name,
                    help,
                    labels: &id.labels,
                    value,
                },
            )
        })
    }
}

impl Value {
    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Counter(sum), Self::Counter(more)) => *sum = sum.wrapping_add(more),
            (Self::Gauge(sum), Self::Gauge(more)) => *sum += more,
            (Self::Histogram(sum), Self::Histogram(more)) => sum.merge(&more),
            (kept, ignored) => debug_assert!(false, "one name, two kinds: {kept:?}, {ignored:?}"),
        }
    }
}

// ===== impl Id =====

impl Id {
    fn new(name: &'static str, labels: &Labels<'_>) -> Self {
        let mut labels: Box<[(&str, Box<str>)]> = labels
            .iter()
            .map(|&(label, value)| (label, value.into()))
            .collect();
        labels.sort_unstable();
        Self { name, labels }
    }

    fn overflow(mut self) -> Self {
        self.labels
            .iter_mut()
            .for_each(|(_, value)| *value = OVERFLOW.into());
        self
    }
}

// ===== impl Totals =====

impl Totals {
    pub(super) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn add(&mut self, id: Id, measured: Measured) {
        match self.0.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(measured);
            }
            Entry::Occupied(mut entry) => entry.get_mut().value.add(measured.value),
        }
    }

    /// Adds what was collected, every series in the place that it is given.
    pub(super) fn add_admitted(&mut self, collected: Self, admission: &mut Admission) {
        for (id, measured) in collected.0 {
            self.add(admission.place(id, &measured.value), measured);
        }
    }

    /// Leaves what stays when its collector is gone.
    pub(super) fn without_gauges(mut self) -> Self {
        self.0
            .retain(|_, measured| !matches!(measured.value, Value::Gauge(_)));
        self
    }
}

impl Sink for Totals {
    fn counter(&mut self, name: &'static str, help: &'static str, labels: &Labels<'_>, total: u64) {
        self.add(
            Id::new(name, labels),
            Measured {
                help,
                value: Value::Counter(total),
            },
        );
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, labels: &Labels<'_>, value: f64) {
        self.add(
            Id::new(name, labels),
            Measured {
                help,
                value: Value::Gauge(value),
            },
        );
    }

    fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &Labels<'_>,
        all: &HistogramSnapshot,
    ) {
        let value = Value::Histogram(all.clone());
        self.add(Id::new(name, labels), Measured { help, value });
    }
}

// ===== impl Admission =====

impl Admission {
    pub(super) const fn new() -> Self {
        Self {
            limit: DEFAULT_LIMIT,
            names: BTreeMap::new(),
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Where a series is counted: in a place of its own while there are any, which it then keeps.
    fn place(&mut self, id: Id, value: &Value) -> Id {
        let places = self.names.entry(id.name).or_default();
        places.are_gauges = matches!(value, Value::Gauge(_));
        if places.admitted.contains(&id) {
            return id;
        }
        // The overflow series is one of the limit.
        if id.labels.is_empty() || places.admitted.len() + 1 < self.limit {
            places.admitted.insert(id.clone());
            return id;
        }
        if !std::mem::replace(&mut places.warned, true) {
            tracing::warn!(
                metric = id.name,
                limit = self.limit,
                "too many series; the rest is summed in one with label values `{OVERFLOW}` \
                 (raise the limit with metrics::set_series_limit)",
            );
        }
        id.overflow()
    }

    /// Gives up the places of gauges that are gone. Counters keep theirs: they have a past.
    pub(super) fn release_gauges(&mut self, present: &Totals) {
        for places in self.names.values_mut().filter(|places| places.are_gauges) {
            places.admitted.retain(|id| present.0.contains_key(id));
        }
    }
}
